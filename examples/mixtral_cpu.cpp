// The shortest use: one layer of Mixtral on the CPU, from raw pointers.
#include <cmath>
#include <cstdio>
#include <moe/moe.hpp>
#include <random>
#include <vector>

namespace {

constexpr int hidden = 256, ffn = 512, experts = 8, tokens = 4;

std::vector<float> random_values(int count) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(hidden)));
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

}  // namespace

int main() {
  // What a host application has: pointers to weights as checkpoints hold them, and its activations.
  const std::vector<float> gate = random_values(experts * hidden), w1 = random_values(experts * ffn * hidden),
                           w2 = random_values(experts * hidden * ffn), w3 = random_values(experts * ffn * hidden);
  const std::vector<float> x = random_values(tokens * hidden);
  std::vector<float> y(x.size());

  // The layer.
  std::vector<moe::ExpertMatrices> matrices;
  for (int e = 0; e < experts; ++e) {
    const int at = e * ffn * hidden;
    matrices.push_back({.gate = {w1.data() + at, ffn, hidden},
                        .up = {w3.data() + at, ffn, hidden},
                        .down = {w2.data() + at, hidden, ffn}});
  }
  const moe::MoELayer layer{moe::Linear{moe::View{gate.data(), experts, hidden}}, moe::TopK{.experts = experts, .k = 2},
                            moe::Resident{moe::Packed<moe::bf16>{{hidden, ffn}, matrices}}, moe::Cpu{}};
  moe::Workspace workspace{layer.workspace(tokens)};
  layer.forward({x.data(), tokens, hidden}, {y.data(), tokens, hidden}, workspace);

  for (int t = 0; t < tokens; ++t)
    std::printf("token %d: y[0] = % .5f\n", t, static_cast<double>(y[static_cast<std::size_t>(t * hidden)]));
}

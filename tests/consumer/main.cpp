// The shortest use of the library from another project: two experts over raw pointers.
#include <cstdio>
#include <moe/moe.hpp>
#include <vector>

int main() {
  constexpr int hidden = 8, ffn = 16;
  const std::vector<float> matrix(hidden * ffn, 0.25f);  // gate, up and down of both experts
  const std::vector<float> gate(2 * hidden, 0.5f), x(hidden, 1.0f);
  std::vector<float> y(hidden);

  const moe::ExpertMatrices expert{.gate = moe::Matrix(matrix.data(), ffn, hidden),
                                   .up = moe::Matrix(matrix.data(), ffn, hidden),
                                   .down = moe::Matrix(matrix.data(), hidden, ffn)};
  const std::vector<moe::ExpertMatrices> experts{expert, expert};

  const moe::MoELayer layer{moe::Linear{moe::View<const float>{gate.data(), 2, hidden}},
                            moe::TopK{.experts = 2, .k = 1},
                            moe::Resident{moe::Packed<float>{{.hidden = hidden, .ffn = ffn}, experts}}, moe::Cpu{}};
  moe::Workspace ws{layer.workspace(1)};
  layer.forward({x.data(), 1, hidden}, {y.data(), 1, hidden}, ws);

  const float expected = 16 * 0.25f * moe::silu(2.0f) * 2.0f;
  std::printf("answer %g, expected %g\n", static_cast<double>(y[0]), static_cast<double>(expected));
  return y[0] > 0.9999f * expected && y[0] < 1.0001f * expected ? 0 : 1;
}

// Experts on disk under a byte budget: records in a file, and one cache that all layers share.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <moe/moe.hpp>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr int hidden = 128, ffn = 256, experts = 16, layers = 2, tokens = 20;

std::vector<float> random_values(int count) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(hidden)));
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

/// Writes the experts of all layers as records; an application does this once, when it installs a model.
void write_model(const std::string& path, const std::vector<float>& weights) {
  std::vector<std::vector<moe::ExpertMatrices>> matrices(layers);
  std::vector<moe::Packed<moe::bf16>> sources;
  for (int l = 0; l < layers; ++l) {
    for (int e = 0; e < experts; ++e) {
      const float* at = weights.data() + (l * experts + e) * ffn * hidden;
      matrices[static_cast<std::size_t>(l)].push_back(
          {.gate = {at, ffn, hidden}, .up = {at, ffn, hidden}, .down = {at, hidden, ffn}});
    }
    sources.emplace_back(moe::ExpertShape{hidden, ffn}, matrices[static_cast<std::size_t>(l)]);
  }
  moe::write_records<moe::Packed<moe::bf16>>(path, sources);
}

}  // namespace

int main() {
  const std::string path = (std::filesystem::temp_directory_path() / "experts_on_disk.moe").string();
  write_model(path, random_values(layers * experts * ffn * hidden));
  const std::vector<float> gates = random_values(layers * experts * hidden);

  const moe::File<moe::bf16> file{path};
  const moe::ExpertCache cache{{.bytes = 8 * moe::round_up(file.bytes(0), moe::page_alignment)}};  // of 32 experts
  const auto make = [&](int l) {
    return moe::MoELayer{moe::Linear{moe::View{gates.data() + l * experts * hidden, experts, hidden}},
                         moe::TopK{.experts = experts, .k = 2}, moe::Cached{cache, file.layer(l)}, moe::Cpu{}};
  };
  const auto first = make(0), second = make(1);
  moe::Workspace workspace{first.workspace(1)};

  const std::vector<float> x = random_values(tokens * hidden);
  std::vector<float> y(hidden), z(hidden);
  for (int t = 0; t < tokens; ++t) {  // one token at a time, as text is generated
    first.forward({x.data() + t * hidden, 1, hidden}, {y.data(), 1, hidden}, workspace);
    second.forward({y.data(), 1, hidden}, {z.data(), 1, hidden}, workspace);
  }

  const moe::CacheStatistics figures = cache.statistics();
  std::printf("%d of %d experts fit; %llu hits, %llu misses, %llu evictions, %llu bytes read\n", cache.slots(),
              layers * experts, static_cast<unsigned long long>(figures.hits),
              static_cast<unsigned long long>(figures.misses), static_cast<unsigned long long>(figures.evictions),
              static_cast<unsigned long long>(figures.bytes_read));
  std::filesystem::remove(path);
}

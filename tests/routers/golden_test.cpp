// Routers against picks and weights that the papers' models computed (tests/data/golden).
#include <cstdint>
#include <filesystem>
#include <moe/io/safetensors.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/sparse_mixer.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

namespace {

template <class T>
std::vector<T> tensor(const moe::io::SafetensorsFile& file, const std::string& name) {
  const moe::io::TensorInfo& info = file.at(name);
  REQUIRE(info.dtype == (sizeof(T) == 8 ? moe::io::Dtype::I64 : moe::io::Dtype::F32));
  std::vector<T> values(static_cast<std::size_t>(info.bytes) / sizeof(T));
  file.read(info, std::as_writable_bytes(std::span(values)));
  return values;
}

/// One file of a case: a pick that contributes nothing is id -1 with weight 0 (golden/README.md).
struct Case {
  std::vector<float> logits, weights;
  std::vector<std::int64_t> ids;
};
Case case_of(const std::string& family, const std::string& name) {
  const moe::io::SafetensorsFile file(std::filesystem::path(MOE_TEST_DATA) / "golden" / family / name);
  return {tensor<float>(file, "router_logits"), tensor<float>(file, "topk_weights"),
          tensor<std::int64_t>(file, "topk_ids")};
}

template <class Router>
void agrees(const Router& router, const std::string& family, int picks) {
  for (const char* name : {"io.safetensors", "io_t1.safetensors"}) {
    CAPTURE(name);
    const Case c = case_of(family, name);
    const auto columns = static_cast<std::size_t>(picks), width = static_cast<std::size_t>(moe::num_logits(router));
    REQUIRE(c.logits.size() / width == c.ids.size() / columns);
    for (std::size_t t = 0; t < c.ids.size() / columns; ++t) {
      CAPTURE(t);
      const auto first = c.logits.begin() + static_cast<std::ptrdiff_t>(t * width);
      const auto found = router_laws::choose(router, {first, first + static_cast<std::ptrdiff_t>(width)});
      std::vector<std::pair<std::int64_t, float>> expected;
      for (std::size_t k = t * columns; k < (t + 1) * columns; ++k)
        if (c.ids[k] >= 0) expected.push_back({c.ids[k], c.weights[k]});
      REQUIRE(found.size() == expected.size());
      for (std::size_t k = 0; k < found.size(); ++k) {
        CHECK(found[k].expert == expected[k].first);
        // Both are float32: an exponential, a sum over at most 16 and a quotient on each side.
        CHECK(std::fabs(found[k].weight - expected[k].second) <=
              2 * oracle::gamma(24) * static_cast<double>(expected[k].second));
      }
    }
  }
}

}  // namespace

TEST_CASE("SparseMixer makes the picks and weights of Phi-3.5-MoE") { agrees(moe::SparseMixer{12}, "phimoe", 2); }
TEST_CASE("NullExperts makes the picks and weights of AdaMoE") {
  agrees(moe::NullExperts<moe::TopK>{{.experts = 8, .k = 3}, 8, 3}, "adamoe", 3);
}

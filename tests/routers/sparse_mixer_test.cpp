// SparseMixer against transformers' text of the same rounds, in double precision, and at its edges.
#include <moe/routers/sparse_mixer.hpp>

#include "../laws/router_laws.hpp"

using moe::SparseMixer;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

/// `sparsemixer(scores, jitter_eps, training=False)` of transformers 5.23, modeling_phimoe, line by line.
std::vector<oracle::Pick> reference(const std::vector<float>& scores, double jitter, int rounds) {
  std::vector<double> left(scores.begin(), scores.end());
  std::vector<oracle::Pick> picked;
  for (int r = 0; r < rounds; ++r) {
    const std::size_t best = static_cast<std::size_t>(std::max_element(left.begin(), left.end()) - left.begin());
    const double most = left[best];
    oracle::Value sum{};
    for (std::size_t e = 0; e < left.size(); ++e) {
      const double score = static_cast<double>(scores[e]);  // of round 1, in the mask too
      // A quotient of float32, as there: some are within rounding of 2 * jitter.
      const float quotient = static_cast<float>(most - score) / static_cast<float>(std::max(std::fabs(score), most));
      const bool masked = static_cast<double>(quotient) > 2 * jitter || std::isinf(left[e]);
      if (!masked) sum = sum + oracle::exp(oracle::rounded(score - most, 0));
    }
    picked.push_back({static_cast<int>(best), oracle::Value{1} / sum});
    left[best] = -HUGE_VAL;
  }
  return picked;
}
void check(const SparseMixer& r, const std::vector<float>& logits) {
  const auto expected = reference(logits, static_cast<double>(r.jitter), r.k);
  const auto found = choose(r, logits);
  REQUIRE(found.size() == expected.size());
  for (std::size_t s = 0; s < found.size(); ++s) {
    CHECK(found[s].expert == expected[s].expert);
    CHECK(within(found[s].weight, expected[s].weight));
  }
}

}  // namespace

TEST_CASE("SparseMixer weighs each round over the experts near its best") {
  oracle::Random random(81);
  CAPTURE(random.seed);
  for (const float jitter : {0.01f, 0.1f, 0.3f})
    for (int i = 0; i < 500; ++i) check({8, 2, jitter}, router_laws::distinct_logits(random, 8));
}
TEST_CASE("SparseMixer's near ones are many where logits are close") {
  oracle::Random random(82);
  for (int i = 0; i < 300; ++i) {
    std::vector<float> logits = router_laws::distinct_logits(random, 16);
    for (float& l : logits) l = l / 64 + (i % 2 == 0 ? 8.0f : -8.0f);
    check({16, 2, 0.01f}, logits);
  }
}
TEST_CASE("SparseMixer of one round is the best expert") {
  oracle::Random random(83);
  for (int i = 0; i < 100; ++i) check({8, 1, 0.1f}, router_laws::distinct_logits(random, 8));
}
TEST_CASE("two logits of zero are near each other") {
  CHECK(weights(choose(SparseMixer{3}, {0, 0, -5})) == std::vector<float>{0.5f, 1});
}
TEST_CASE("the two weights may sum to two") {
  CHECK(weights(choose(SparseMixer{4}, {8, 4, 2, 1})) == std::vector<float>{1, 1});
}
TEST_CASE("an excluded expert is in neither round") {
  const std::uint32_t mask = 0b1011;
  const auto found = choose(SparseMixer{4}, {4, 4, 4, 1}, -1, &mask);
  CHECK(ids(found) == std::vector<int>{0, 1});
  CHECK(weights(found) == std::vector<float>{0.5f, 1});
}
TEST_CASE("SparseMixer gives every pattern of NaN and infinities two experts and finite weights") {
  router_laws::survives_every_pattern(SparseMixer{8});
}
TEST_CASE("nothing but NaN weighs nothing") {
  CHECK(weights(choose(SparseMixer{4}, std::vector<float>(4, not_a_number))) == std::vector<float>{0, 0});
}

// SensitivitySkip against AdapMoE's rule by brute force, at its ends, and as a knob.
#include <moe/routers/sensitivity_skip.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::Score;
using moe::SensitivitySkip;
using moe::TopK;
using moe::When;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

/// A router that cannot weigh chosen ids.
struct Opaque {
  TopK router;
  int num_logits() const noexcept { return moe::num_logits(router); }
  int num_experts() const noexcept { return moe::num_experts(router); }
  int max_slots() const noexcept { return moe::max_slots(router); }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept { return router.select(row, out); }
};

/// How many of the shares g, which descend, are kept: the tail i >= j goes when (its sum)^2 S < T, and the longest
/// does.
std::size_t kept_by_the_paper(const std::vector<oracle::Pick>& g, double budget, double sensitivity) {
  for (std::size_t j = 1; j < g.size(); ++j) {
    double tail = 0;
    for (std::size_t i = j; i < g.size(); ++i) tail += g[i].weight.v;
    if (tail * tail * sensitivity < budget) return j;
  }
  return g.size();
}
int chosen(const SensitivitySkip<TopK>& r, const std::vector<float>& logits, bool decode) {
  moe::Slot out[8];
  moe::RouteContext<> context;
  context.decode = decode;
  return moe::select(r, context.at(0, {logits.data(), static_cast<int>(logits.size())}), {out, moe::max_slots(r)});
}

}  // namespace

TEST_CASE("SensitivitySkip drops the tail that the squared share allows, for two experts and for more") {
  oracle::Random random(41);
  CAPTURE(random.seed);
  // Logits are multiples of 1/64, so no share is within rounding of a threshold by design; those that are do not count.
  int near = 0;
  for (const int k : {2, 3, 5})
    for (const double sensitivity : {46.7, 0.5, 0.02})
      for (const double budget : {0.001, 0.005, 0.013})
        for (int i = 0; i < 100; ++i) {
          const std::vector<float> logits = router_laws::distinct_logits(random, 8);
          const std::vector<oracle::Pick> g = oracle::route({}, logits, k);
          if (kept_by_the_paper(g, budget * 1.0001, sensitivity) !=
              kept_by_the_paper(g, budget * 0.9999, sensitivity)) {
            ++near;
            continue;
          }
          const SensitivitySkip<TopK> r{
              {.experts = 8, .k = k},
              moe::sensitivity_threshold(static_cast<float>(budget), static_cast<float>(sensitivity))};
          const std::vector<moe::Slot> found = choose(r, logits);
          REQUIRE(found.size() == kept_by_the_paper(g, budget, sensitivity));
          const std::vector<oracle::Pick> expected = oracle::route({}, logits, static_cast<int>(found.size()));
          for (std::size_t s = 0; s < found.size(); ++s) {
            CHECK(found[s].expert == expected[s].expert);
            CHECK(within(found[s].weight, expected[s].weight));
          }
        }
  CHECK(near < 20);
}
TEST_CASE("a threshold of zero changes nothing, bit for bit") {
  const TopK inner{.experts = 8, .k = 3};
  router_laws::for_many_rows(inner, [&](const std::vector<float>& logits) {
    const auto before = choose(inner, logits), after = choose(SensitivitySkip<TopK>{inner, 0}, logits);
    CHECK(ids(before) == ids(after));
    CHECK(bits(weights(before)) == bits(weights(after)));
  });
}
TEST_CASE("an infinite threshold leaves the best expert with weight 1") {
  const TopK inner{.experts = 8, .k = 2};
  router_laws::for_many_rows(inner, [&](const std::vector<float>& logits) {
    const auto found = choose(SensitivitySkip<TopK>{inner, infinity}, logits);
    CHECK(ids(found) == ids(choose(TopK{.experts = 8, .k = 1}, logits)));
    CHECK(weights(found) == std::vector<float>{1});
  });
}
TEST_CASE("the share of single experts grows with the threshold, and is one above a half") {
  oracle::Random random(42);
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < 300; ++i) rows.push_back(random.reals(8, 2));
  std::size_t before = 0;
  for (float threshold = 0; threshold < 0.55f; threshold += 0.03125f) {
    std::size_t single = 0;
    for (const auto& row : rows)
      single += choose(SensitivitySkip<TopK>{{.experts = 8, .k = 2}, threshold}, row).size() == 1;
    CHECK(single >= before);
    if (threshold > 0.5f) CHECK(single == rows.size());
    before = single;
  }
}
TEST_CASE("decode_only leaves rows of a prompt alone") {
  const SensitivitySkip<TopK> r{{.experts = 4, .k = 2}, 1, When::decode_only};
  CHECK(chosen(r, {1, 2, 3, 4}, false) == 2);
  CHECK(chosen(r, {1, 2, 3, 4}, true) == 1);
}
TEST_CASE("a model that does not normalise keeps its own weights of the kept") {
  const TopK inner{.experts = 4, .k = 2, .score = Score::softmax};
  const std::vector<float> logits{0, 3, 1, 2};
  const auto found = choose(SensitivitySkip<TopK>{inner, 1}, logits);
  CHECK(weights(found) == std::vector<float>{weights(choose(inner, logits))[0]});
}
TEST_CASE("a router that cannot weigh keeps the sum of its weights") {
  const auto found = choose(SensitivitySkip<Opaque>{{{.experts = 4, .k = 2, .scale = 4}}, 1}, {0, 3, 1, 2});
  CHECK(weights(found) == std::vector<float>{4});
}
TEST_CASE("sensitivity_threshold gives the published ends of Mixtral's layers") {
  CHECK(moe::sensitivity_threshold(0.005f, 46.7f) == doctest::Approx(0.01035).epsilon(1e-3));
  CHECK(moe::sensitivity_threshold(0.005f, 0.0207f) == doctest::Approx(0.4915).epsilon(1e-3));
  CHECK(moe::sensitivity_threshold(0.007f, 0.0207f) > 0.5f);
}
TEST_CASE("nothing but NaN is not dropped: there is no share to compare") {
  CHECK(choose(SensitivitySkip<TopK>{{.experts = 4, .k = 2}, 1}, std::vector<float>(4, not_a_number)).size() == 2);
}

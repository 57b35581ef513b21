// ExpertSkip against NAEE's rule, and its rate at the median.
#include <algorithm>
#include <moe/routers/expert_skip.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::ExpertSkip;
using moe::TopK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

double ratio(const std::vector<float>& logits) {
  const auto all = oracle::route({}, logits, 2);
  return all[1].weight.v / all[0].weight.v;
}

}  // namespace

TEST_CASE("ExpertSkip drops the experts below beta times the first, and weighs the others alone") {
  oracle::Random random(61);
  CAPTURE(random.seed);
  for (const int k : {1, 2, 4})
    for (const float beta : {0.25f, 0.5f, 0.9f})
      for (int i = 0; i < 200; ++i) {
        const std::vector<float> logits = router_laws::distinct_logits(random, 8);
        std::vector<oracle::Pick> g = oracle::route({}, logits, k);
        const double least = static_cast<double>(beta) * g[0].weight.v;
        std::erase_if(g, [&](const oracle::Pick& p) { return p.weight.v < least; });
        const auto expected = oracle::route({}, logits, static_cast<int>(g.size()));
        const auto found = choose(ExpertSkip<TopK>{{.experts = 8, .k = k}, beta}, logits);
        REQUIRE(found.size() == expected.size());
        for (std::size_t s = 0; s < found.size(); ++s) {
          CHECK(found[s].expert == expected[s].expert);
          CHECK(within(found[s].weight, expected[s].weight));
        }
      }
}
TEST_CASE("ExpertSkip with the median of the ratios skips half of the calibration tokens") {
  oracle::Random random(62);
  std::vector<std::vector<float>> rows;
  std::vector<double> ratios;
  for (int i = 0; i < 1001; ++i) {
    rows.push_back(router_laws::distinct_logits(random, 8));
    ratios.push_back(ratio(rows.back()));
  }
  std::nth_element(ratios.begin(), ratios.begin() + 500, ratios.end());
  const auto equal = std::count(ratios.begin(), ratios.end(), ratios[500]);
  const ExpertSkip<TopK> r{{.experts = 8, .k = 2}, static_cast<float>(ratios[500])};
  long skipped = 0;
  for (const auto& row : rows) skipped += choose(r, row).size() == 1;
  CHECK(skipped >= 500 - equal);
  CHECK(skipped <= 500 + equal);
}
TEST_CASE("beta of zero changes nothing, bit for bit") {
  const TopK inner{.experts = 8, .k = 3};
  router_laws::for_many_rows(inner, [&](const std::vector<float>& logits) {
    const auto before = choose(inner, logits), after = choose(ExpertSkip<TopK>{inner, 0}, logits);
    CHECK(ids(before) == ids(after));
    CHECK(bits(weights(before)) == bits(weights(after)));
  });
}
TEST_CASE("equal experts stay together at beta of one") {
  CHECK(choose(ExpertSkip<TopK>{{.experts = 4, .k = 3}, 1}, {2, 2, 2, 1}).size() == 3);
}

// TopAny against DynMoE's rule: sigmoid above sigmoid of the threshold, or the best.
#include <moe/routers/top_any.hpp>

#include "../laws/router_laws.hpp"

using moe::TopAny;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

const std::vector<float> thresholds{0, 0.5f, -0.25f, 0.25f, 0, -0.5f};
TopAny router_of(int most = 0) { return {6, {thresholds.data(), 6}, most}; }

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

TEST_CASE("TopAny takes the experts above their thresholds, or the best, with equal weights") {
  oracle::Random random(71);
  CAPTURE(random.seed);
  int alone = 0;
  for (int i = 0; i < 500; ++i) {
    const std::vector<float> cosines = router_laws::distinct_logits(random, 6);
    std::vector<float> scaled;
    for (const float c : cosines)
      scaled.push_back(c / 8 - (i % 2 == 0 ? 1.0f : 0.0f));  // exact; half of them below all
    std::set<int> expected;
    for (std::size_t e = 0; e < 6; ++e)
      if (logistic(static_cast<double>(scaled[e])) > logistic(static_cast<double>(thresholds[e])))
        expected.insert(static_cast<int>(e));
    if (expected.empty()) {
      expected.insert(static_cast<int>(std::max_element(scaled.begin(), scaled.end()) - scaled.begin()));
      ++alone;
    }
    const auto found = choose(router_of(), scaled);
    const std::vector<int> all = ids(found);
    CHECK(std::set<int>(all.begin(), all.end()) == expected);
    CHECK(weights(found) == std::vector<float>(expected.size(), 1.0f / static_cast<float>(expected.size())));
  }
  CHECK(alone > 50);
}
TEST_CASE("TopAny keeps the best of those above their thresholds where there is little room") {
  CHECK(ids(choose(router_of(2), {1, 4, 2, 9, 3, -1})) == std::vector<int>{3, 1});
}
TEST_CASE("TopAny chooses the first of nothing but NaN, and never NaN beside numbers") {
  CHECK(ids(choose(router_of(), std::vector<float>(6, not_a_number))) == std::vector<int>{0});
  CHECK(ids(choose(router_of(), {not_a_number, -1, -1, -2, -3, -4})) == std::vector<int>{1});
}
TEST_CASE("TopAny refuses a list of thresholds of another length") {
  CHECK(message_of([] { TopAny{7, {thresholds.data(), 6}}.check(); }).find("thresholds") != std::string::npos);
}

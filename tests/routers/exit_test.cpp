// ExitRouter: the last logit decides whether a token gets experts at all.
#include <moe/routers/exit.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::ExitRouter;
using moe::TopK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

TEST_CASE("a token leaves when the sigmoid of the last logit exceeds the threshold, and is routed as ever otherwise") {
  oracle::Random random(131);
  CAPTURE(random.seed);
  int left = 0;
  for (const float threshold : {0.25f, 0.5f, 0.875f})
    for (int i = 0; i < 200; ++i) {
      const std::vector<float> logits = router_laws::distinct_logits(random, 9);
      const std::vector<float> experts(logits.begin(), logits.end() - 1);
      const TopK inner{.experts = 8, .k = 2};
      const auto found = choose(ExitRouter<TopK>{inner, threshold}, logits);
      // sigmoid(l) = t at l = log(t / (1 - t)), which no multiple of 1/64 is near but 0, at t = 1/2
      const bool exits = static_cast<double>(logits[8]) > std::log(static_cast<double>(threshold / (1 - threshold)));
      left += exits ? 1 : 0;
      CHECK(found.empty() == exits);
      if (exits) continue;
      CHECK(ids(found) == ids(choose(inner, experts)));
      CHECK(bits(weights(found)) == bits(weights(choose(inner, experts))));
    }
  CHECK(left > 100);
}
TEST_CASE("a threshold of one lets nobody leave") {
  CHECK(choose(ExitRouter<TopK>{{.experts = 2, .k = 2}, 1}, {0, 0, infinity}).size() == 2);
}
TEST_CASE("NaN does not leave") {
  CHECK(choose(ExitRouter<TopK>{{.experts = 2, .k = 2}, 0}, {0, 0, not_a_number}).size() == 2);
}
TEST_CASE("the exit score is one logit more") {
  CHECK(moe::num_logits(ExitRouter<TopK>{{.experts = 8, .k = 2}}) == 9);
  CHECK(moe::num_experts(ExitRouter<TopK>{{.experts = 8, .k = 2}}) == 8);
}

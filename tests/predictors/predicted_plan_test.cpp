// From the logits of a whole path to a plan of the cache: what is predicted rightly is there, and wrong guesses cost
// loads but change nothing.
#include <doctest/doctest.h>

#include <vector>

#include "layer_stack.hpp"

using namespace layer_stack;

namespace {

/// Logits [1,layers experts] of a predictor that knows the gates; `sign` -1 makes it as wrong as can be.
std::vector<float> path_logits(const Stack& stack, float sign) {
  std::vector<float> logits(static_cast<std::size_t>(layers * experts));
  for (int l = 0; l < layers; ++l) {
    moe::Frame<> none;
    stack.all[static_cast<std::size_t>(l)].gate().logits(moe::Cpu{.threads = 1}, none,
                                                         {stack.call().x, {logits.data() + l * experts, 1, experts}});
  }
  for (float& logit : logits) logit *= sign;
  return logits;
}

/// One pass through the layers after a plan from these logits; returns the outputs of all layers.
std::vector<float> planned_pass(const Stack& stack, const std::vector<float>& logits) {
  std::vector<moe::PlannedExpert> plan;
  moe::for_each_predicted({logits.data(), 1, layers * experts}, experts, 2, [&](int layer, moe::ExpertId e, float p) {
    plan.push_back({layer, e, p});
  });
  CHECK(plan.size() == 2 * layers);
  stack.cache.plan(plan);
  std::vector<float> all;
  for (int l = 0; l < layers; ++l) {
    const std::vector<float> y = stack.run(l);
    all.insert(all.end(), y.begin(), y.end());
  }
  return all;
}

}  // namespace

TEST_CASE("a path that is predicted rightly leaves nothing to load on demand, with slots for two layers too") {
  for (const int slots : {2 * layers, 4}) {
    CAPTURE(slots);
    const Stack stack(slots, moe::Prefetch::enforce, moe::ByPlan{});
    planned_pass(stack, path_logits(stack, 1));
    CHECK(stack.cache.statistics().misses == 0);
    CHECK(stack.cache.statistics().prefetched == 2 * layers);
    CHECK(stack.cache.statistics().prefetched_wasted == 0);
  }
}

TEST_CASE("a path that is predicted wrongly gives the same outputs, and all that is needed is loaded on demand") {
  const Stack right(2 * layers, moe::Prefetch::enforce, moe::ByPlan{});
  const Stack wrong(2 * layers, moe::Prefetch::enforce, moe::ByPlan{});
  CHECK(planned_pass(wrong, path_logits(wrong, -1)) == planned_pass(right, path_logits(right, 1)));
  const moe::CacheStatistics s = wrong.cache.statistics();
  CHECK(s.misses == 2 * layers);
  CHECK(s.loads == s.misses + s.prefetched);
}

TEST_CASE("each layer takes its own columns of the path as the logits of a prefetch") {
  const Stack stack(2 * layers);
  const std::vector<float> logits = path_logits(stack, 1);
  moe::Workspace ws(stack.all[0].workspace(1));
  for (int l = 0; l < layers; ++l) {
    moe::Call<> call = stack.call();
    call.logits = moe::logits_of_layer({logits.data(), 1, layers * experts}, experts, l);
    CHECK(stack.all[static_cast<std::size_t>(l)].prefetch(call, ws) == 2);
  }
  for (int l = 0; l < layers; ++l) stack.run(l);
  CHECK(stack.cache.statistics().misses == 0);
}

// prefetch_ahead: where the walk stops, and that what it fetched is what the next layers use.
#include <moe/prefetch.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "layer_stack.hpp"

using namespace layer_stack;

namespace {

/// How far the walk goes when the i-th next layer misses missing[i] experts.
int asked(int horizon, std::vector<int> missing) {
  return moe::prefetch_ahead(horizon, [&](int i) { return missing.at(static_cast<std::size_t>(i)); });
}

}  // namespace

TEST_CASE("the walk stops behind the first layer that misses something, or at the horizon") {
  CHECK(asked(3, {0, 2, 0}) == 2);
  CHECK(asked(3, {1, 0, 0}) == 1);
  CHECK(asked(3, {0, 0, 0, 0}) == 3);
  CHECK(asked(1, {0, 0}) == 1);
  CHECK(asked(0, {0}) == 0);
}

TEST_CASE("nearer layers are fetched first, and farther ones only when those are here") {
  const Stack stack(2 * layers);
  CHECK(stack.prefetch_after(0, 3) == 1);  // layer 1 was missing
  CHECK(stack.cache.statistics().loads == 2);
  CHECK(stack.prefetch_after(0, 3) == 2);  // layer 1 is here, layer 2 was missing
  CHECK(stack.cache.statistics().loads == 4);
  CHECK(stack.prefetch_after(0, 3) == 3);
  CHECK(stack.cache.statistics().loads == 6);
  CHECK(stack.prefetch_after(0, 9) == 3);  // there are three
  CHECK(stack.prefetch_after(3, 3) == 0);
  CHECK(stack.cache.statistics().loads == 6);
}

TEST_CASE("guesses that come true leave the first layer's loads only") {
  const Stack stack(2 * layers);
  for (int l = 0; l < layers; ++l) {
    stack.prefetch_after(l, 2);
    stack.run(l);
  }
  const moe::CacheStatistics s = stack.cache.statistics();
  CHECK(s.misses == 2);
  CHECK(s.hits == 2 * (layers - 1));
  CHECK(s.prefetched == 2 * (layers - 1));
  CHECK(s.prefetched_used == s.prefetched);
}

TEST_CASE("the walk changes no result, whatever room there is") {
  const Stack reference(experts * layers, moe::Prefetch::off);
  for (const int slots : {1, 3, 5, 8, experts * layers}) {
    CAPTURE(slots);
    const Stack stack(slots);
    for (int l = 0; l < layers; ++l) {
      stack.prefetch_after(l, 3);
      CHECK(stack.run(l) == reference.run(l));
    }
  }
}

TEST_CASE("layers behind pointers are walked the same way") {
  const Stack stack(2 * layers);
  std::vector<std::unique_ptr<moe::AnyLayer<>>> erased;
  for (int l = 1; l < layers; ++l)
    erased.push_back(
        moe::erase(Layer(stack.inputs[static_cast<std::size_t>(l)]->linear(), moe::TopK{.experts = experts, .k = 2},
                         stack.all[static_cast<std::size_t>(l)].storage(), moe::Cpu{.threads = 1})));
  moe::Workspace ws(stack.all[0].workspace(1));
  CHECK(moe::prefetch_ahead(erased, stack.call(), ws, 3) == 1);
  CHECK(moe::prefetch_ahead(erased, stack.call(), ws, 3) == 2);
  CHECK(stack.cache.statistics().loads == 4);
}

#include <doctest/doctest.h>

#include <moe/offline/cache_allocation.hpp>
#include <moe/offline/trace_generator.hpp>
#include <numeric>

#include "offline/replay_oracle.hpp"

namespace {

using Numbers = std::vector<double>;

Numbers replayed(const moe::RoutingTrace& trace, const Numbers& gate, int slots) {
  Numbers by_layer;
  for (int l = 0; l < trace.layers(); ++l) {
    moe::RoutingTrace alone(trace.layers(), trace.experts());
    for (const moe::TraceRecord& r : trace.records()) {
      const auto picks = trace.picks(r);
      if (r.layer == l) alone.add(r.sequence, r.token, l, picks);
    }
    const moe::ReplayRules rules{.gate = gate};
    const auto loads = moe::replay(alone, {moe::CacheScope::layer, slots}, moe::Lru{}, rules).loads;
    by_layer.push_back(static_cast<double>(loads));
  }
  return by_layer;
}

void check_curves(const moe::RoutingTrace& trace, const Numbers& gate) {
  const std::vector<Numbers> curves = moe::lru_load_curves(trace, gate);
  REQUIRE(curves.size() == static_cast<std::size_t>(trace.layers()));
  for (int slots = 0; slots <= trace.experts(); ++slots) {
    const Numbers expected = replayed(trace, gate, slots);
    for (std::size_t l = 0; l < curves.size(); ++l) {
      CAPTURE(slots);
      REQUIRE(curves[l].size() == static_cast<std::size_t>(trace.experts()) + 1);
      CHECK(curves[l][static_cast<std::size_t>(slots)] == expected[l]);
    }
  }
}

}  // namespace

TEST_CASE("a curve is what LRU loads with each number of slots") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    const moe::RoutingTrace trace = replay_oracle::random_trace(seed, seed % 2 == 1).get();
    check_curves(trace, {});
    check_curves(trace, Numbers(static_cast<std::size_t>(trace.layers()), 0.3));
  }
  check_curves(moe::generate_trace({.layers = 2, .experts = 32, .k = 8, .tokens = 40}), {0.1, 0.2});
}

TEST_CASE("an expert that a record names twice is loaded once where it can stay") {
  moe::RoutingTrace trace(1, 4);
  const moe::Slot twice[] = {{0, 0.5f}, {0, 0.25f}, {1, 0.25f}};
  for (int token = 0; token < 3; ++token) trace.add(0, token, 0, {twice, 3});
  check_curves(trace, {});
}

TEST_CASE("an allocation by curves loads no more than an even one") {
  const moe::RoutingTrace trace = moe::generate_trace({.layers = 4, .experts = 6, .k = 2, .tokens = 50});
  const Numbers gate{0, 0.2, 0.35, 0.45};
  const auto loads = [&](const std::vector<int>& slots) {
    return moe::replay(trace, {moe::CacheScope::layer, 0, slots}, moe::Lru{}, {.gate = gate}).loads;
  };
  for (const int each : {1, 2, 3}) {
    const std::vector<int> found = moe::allocate_slots(moe::lru_load_curves(trace, gate), 4 * each);
    CHECK(found != std::vector<int>(4, each));
    CHECK(loads(found) < loads(std::vector<int>(4, each)));
  }
}

TEST_CASE("guesses cover their share of the loads, one for each slot and call") {
  // No expert is used twice: a token wants one of layer 0 and two of layer 1.
  moe::RoutingTrace trace(2, 4);
  const moe::Slot picks[] = {{0, 0.75f}, {1, 0.25f}, {2, 0.75f}, {3, 0.25f}};
  for (int token = 0; token < 2; ++token) {
    trace.add(0, token, 0, {picks + 2 * token, 1});
    trace.add(0, token, 1, {picks + 2 * token, 2});
  }
  const Numbers half{0.5, 0.5}, all{1, 1};
  CHECK(moe::on_demand_curves(trace, {}, half) == std::vector<Numbers>{{2, 1, 1, 1, 1}, {4, 3, 2, 2, 2}});
  CHECK(moe::on_demand_curves(trace, {}, all) == std::vector<Numbers>{{2, 0, 0, 0, 0}, {4, 2, 0, 0, 0}});
  CHECK(moe::on_demand_curves(trace, {}, Numbers{0, 0}) == moe::lru_load_curves(trace));
}

TEST_CASE("the rows of a batch are one call") {
  moe::RoutingTrace trace(2, 4);
  const moe::Slot picks[] = {{0, 1.0f}, {1, 1.0f}};
  for (int layer = 0; layer < 2; ++layer)
    for (int sequence = 0; sequence < 2; ++sequence) trace.add(sequence, 0, layer, {picks + sequence, 1});
  const Numbers all{1, 1};
  CHECK(moe::on_demand_curves(trace, {}, all) == std::vector<Numbers>{{2, 1, 0, 0, 0}, {2, 1, 0, 0, 0}});
}

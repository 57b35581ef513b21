#include <doctest/doctest.h>

#include <moe/offline/replay_mixed.hpp>
#include <moe/offline/trace_generator.hpp>

#include "offline/replay_oracle.hpp"

using namespace replay_oracle;
using moe::CacheScope;
using moe::MixedReplay;
using moe::ReplayCounts;

namespace {

moe::RoutingTrace one_layer(const std::vector<std::vector<moe::Slot>>& records) {
  moe::RoutingTrace trace(1, 8);
  for (std::size_t t = 0; t < records.size(); ++t)
    trace.add(0, static_cast<int>(t), 0, {records[t].data(), static_cast<int>(records[t].size())});
  return trace;
}

/// Compares with the oracle on random traces, of sequences and of batches, in both scopes.
template <class E, class Score>
void compare(const E& eviction, const Score& score) {
  ReplayCounts all;
  for (std::uint64_t seed = 0; seed < 80; ++seed) {
    const Trace trace = random_trace(seed, seed % 4 == 3);
    const bool layered = seed % 2 == 0;
    const int high = static_cast<int>(seed % 5), low = static_cast<int>(seed % 3);
    const double t1 = seed % 3 == 0 ? 0.375 : 0.5, t2 = 0.75;
    CAPTURE(seed);
    const MixedReplay rule{layered ? CacheScope::layer : CacheScope::global, high, low, t1, t2};
    const ReplayCounts found = moe::replay_mixed(trace.get(), rule, eviction);
    const Counts expected = replay_mixed(trace, layered, high, low, t1, t2, score);
    CHECK(found.picks == static_cast<std::uint64_t>(expected.picks));
    CHECK(found.hits == static_cast<std::uint64_t>(expected.hits));
    CHECK(found.high_loads == static_cast<std::uint64_t>(expected.high_loads));
    CHECK(found.low_loads == static_cast<std::uint64_t>(expected.low_loads));
    CHECK(found.loads == found.high_loads + found.low_loads);
    CHECK(found.skips == static_cast<std::uint64_t>(expected.skips));
    CHECK(found.streamed == static_cast<std::uint64_t>(expected.streamed));
    CHECK(found.evictions == static_cast<std::uint64_t>(expected.evictions));
    CHECK(found.picks == found.hits + found.loads + found.skips);
    all.evictions += found.evictions;
    all.low_loads += found.low_loads;
    all.skips += found.skips;
  }
  CHECK(all.evictions > 500);
  CHECK(all.low_loads > 200);
  CHECK(all.skips > 100);
}

}  // namespace

TEST_CASE("need: high up to T1, low up to T2, else none; on a threshold is within it") {
  using moe::detail::need_of;
  using moe::detail::PickNeed;
  const MixedReplay rule;
  CHECK(need_of(0, {.high_up_to = 0}, true) == PickNeed::high);
  CHECK(need_of(0.6, rule, true) == PickNeed::high);
  CHECK(need_of(std::nextafter(0.6, 1.0) + 1e-9, rule, true) == PickNeed::low);
  CHECK(need_of(0.9, rule, true) == PickNeed::low);
  CHECK(need_of(0.9 + 1e-9, rule, true) == PickNeed::skip);
  CHECK(need_of(static_cast<double>(0.6f), rule, false) == PickNeed::high);
  CHECK(need_of(0.3, {.high_up_to = 0, .low_up_to = 1}, true) == PickNeed::low);
}

TEST_CASE("the mass ahead of a pick is that of larger weights, whatever they sum to") {
  const moe::RoutingTrace trace = one_layer({{{0, 3}, {1, 2}, {2, 1}, {3, 2}}, {{0, 0}, {1, 0}}});
  const moe::detail::Shares shares(trace, trace.records()[0]);
  CHECK(shares.ahead(0) == 0);
  CHECK(shares.ahead(1) == 3.0 / 8);
  CHECK(shares.ahead(2) == 7.0 / 8);
  CHECK(shares.ahead(3) == 5.0 / 8);
  const moe::detail::Shares without(trace, trace.records()[1]);
  CHECK(without.ahead(0) == 0);
  CHECK(without.ahead(1) == 0.5);
}

TEST_CASE("a low need is served by either copy, a high one by a high copy, none by whatever lies there") {
  const std::vector<std::vector<moe::Slot>> records{
      {{0, 0.7f}, {1, 0.3f}},                      // 0 high, 1 low: both loaded
      {{0, 0.95f}, {1, 0.05f}},                    // 0 hits; 1 deserves none, its low copy lies there: a hit
      {{0, 0.95f}, {2, 0.05f}},                    // 2 deserves none and is nowhere: skipped
      {{1, 0.5f}, {0, 0.5f}},                      // 1 deserves high: the low copy does not serve; 0 hits
      {{2, 0.7f}, {1, 0.3f}},                      // 2 is loaded high; 1 deserves low, its high copy serves
      {{3, 0.625f}, {4, 0.3125f}, {2, 0.0625f}}};  // 3 high, 4 low, 2 none but there
  const ReplayCounts c = moe::replay_mixed(one_layer(records), {CacheScope::global, 8, 8}, moe::Multidimensional{});
  CHECK(c.picks == 13);
  CHECK(c.high_loads == 4);
  CHECK(c.low_loads == 2);
  CHECK(c.skips == 1);
  CHECK(c.hits == 6);
  CHECK(c.bytes(100, 25) == 450);
}

TEST_CASE("HOBBIT's formula, computed anew from all uses, evicts the same") {
  const moe::Multidimensional weights{0.125, 0.25, 0.5, 0.125};
  compare(weights, [](const Moment& m, Id id) {
    return (0.125 * m.last_pass(id) + 0.25 * m.uses(id) + 0.5 * m.high_uses(id)) / m.record.pass +
           0.125 * (1 - static_cast<double>(m.distance(id)) / m.trace.layers);
  });
}
TEST_CASE("recency alone is LRU by tokens") {
  compare(moe::Multidimensional{1, 0, 0, 0}, [](const Moment& m, Id id) { return m.last_pass(id); });
}
TEST_CASE("frequency alone is LFU of the sequence") {
  compare(moe::Multidimensional{0, 1, 0, 0}, [](const Moment& m, Id id) { return m.uses(id); });
}
TEST_CASE("APEX's cost counts low uses as a quarter") {
  compare(moe::MissCost{0.25}, [](const Moment& m, Id id) {
    const double last = m.last_pass(id), high = m.high_uses(id);
    return (high + 0.25 * (m.uses(id) - high)) / m.record.pass + (last > 0 && last >= m.record.pass - 1 ? 1 : 0) +
           1e-9 / (m.distance(id) + 0.1);
  });
}

TEST_CASE("with T1 = 1 two pools are one, of high precision") {
  const moe::RoutingTrace trace = moe::generate_trace({.tokens = 40});
  const ReplayCounts one = moe::replay(trace, {CacheScope::global, 20}, moe::Multidimensional{}),
                     two = moe::replay_mixed(trace, {CacheScope::global, 20, 5, 1, 1}, moe::Multidimensional{});
  CHECK(two.low_loads == 0);
  CHECK(two.hits == one.hits);
  CHECK(two.evictions == one.evictions);
}

TEST_CASE("on the trace with tastes the four terms beat LRU and LFU by 2 % of the bytes") {
  const moe::RoutingTrace trace = moe::generate_trace(
      {.layers = 16, .experts = 8, .k = 2, .sequences = 4, .tokens = 100, .bias = 1.5, .rho = 0.3, .tau = 0.62});
  const MixedReplay rule{CacheScope::global, 64, 16};
  const auto bytes = [&](const auto& eviction) { return moe::replay_mixed(trace, rule, eviction).bytes(1, 0.25); };
  const double best_single = std::min(bytes(moe::Lru{}), bytes(moe::Lfu{}));
  CHECK(bytes(moe::Multidimensional{}) < 0.98 * best_single);
  const moe::Multidimensional found = moe::best_eviction_weights(trace, rule, 1, 0.25);
  CHECK(found.recency + found.frequency + found.high_frequency + found.nearness == 1);
  CHECK(bytes(found) <= bytes(moe::Multidimensional{}));
}

TEST_CASE("HOBBIT needs weights, and a search needs steps") {
  moe::RoutingTrace trace = one_layer({{{0, 1}}});
  CHECK_THROWS_AS(moe::best_eviction_weights(trace, {}, 1, 1, 0), moe::Error);
  trace.forget_weights();
  CHECK_THROWS_AS(moe::replay_mixed(trace, {}, moe::Lru{}), moe::Error);
}

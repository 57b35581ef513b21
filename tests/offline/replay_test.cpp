#include <doctest/doctest.h>

#include <moe/offline/belady.hpp>

#include "offline/replay_oracle.hpp"

using namespace replay_oracle;
using moe::CacheScope;
using moe::ReplayCounts;

namespace {

/// Records of one layer and one sequence: {3}, {5, 1}, ...
moe::RoutingTrace tokens(int experts, const std::vector<std::vector<int>>& picks) {
  moe::RoutingTrace trace(1, experts);
  for (std::size_t t = 0; t < picks.size(); ++t) {
    std::vector<moe::Slot> slots;
    for (const int e : picks[t]) slots.push_back({e, 1.0f / static_cast<float>(picks[t].size())});
    trace.add(0, static_cast<int>(t), 0, {slots.data(), static_cast<int>(slots.size())});
  }
  return trace;
}

void check_same(const ReplayCounts& found, const Counts& expected) {
  CHECK(found.picks == static_cast<std::uint64_t>(expected.picks));
  CHECK(found.hits == static_cast<std::uint64_t>(expected.hits));
  CHECK(found.high_loads == static_cast<std::uint64_t>(expected.high_loads));
  CHECK(found.loads == found.high_loads);
  CHECK(found.streamed == static_cast<std::uint64_t>(expected.streamed));
  CHECK(found.evictions == static_cast<std::uint64_t>(expected.evictions));
}

/// Compares an eviction with a score on random traces, of sequences and of batches, in both scopes.
template <class E, class Score>
void compare(const E& eviction, const Score& score) {
  std::uint64_t evictions = 0, streamed = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Trace trace = random_trace(seed, seed % 3 == 2);
    const int slots = static_cast<int>(seed % 5) + (seed % 2 == 0 ? 0 : trace.layers);
    CAPTURE(seed);
    const ReplayCounts global = moe::replay(trace.get(), {CacheScope::global, slots}, eviction);
    check_same(global, replay_oracle::replay(trace, {slots}, score));
    const ReplayCounts layered = moe::replay(trace.get(), {CacheScope::layer, slots / 2}, eviction);
    check_same(layered, replay_oracle::replay(
                            trace, std::vector<int>(static_cast<std::size_t>(trace.layers), slots / 2), score));
    evictions += global.evictions + layered.evictions;
    streamed += global.streamed + layered.streamed;
  }
  CHECK(evictions > 1000);
  CHECK(streamed > 100);
}

double lru(const Moment& m, Id id) { return m.last_use(id); }
double lfu(const Moment& m, Id id) { return m.uses(id); }

}  // namespace

// ---- by hand

TEST_CASE("a resident pick is a hit, a missing one takes a free slot, then that of the least recently used") {
  const ReplayCounts c = moe::replay(tokens(4, {{0}, {1}, {0}, {2}, {0}, {1}}), {CacheScope::global, 2}, moe::Lru{});
  // 0 and 1 load, 0 hits, 2 loads over 1, 0 hits, 1 loads over 2.
  CHECK(c.picks == 6);
  CHECK(c.hits == 2);
  CHECK(c.loads == 4);
  CHECK(c.evictions == 2);
  CHECK(c.streamed == 0);
}

TEST_CASE("what the current record asks for is no victim, and without a victim a load is not kept") {
  const moe::RoutingTrace trace = tokens(4, {{0, 1}, {2, 0, 1}, {2}, {0}});
  // {0,1} fill both slots; 2 finds only 0 and 1, which its record asks for: streamed; both hit; then 2 loads over 0.
  const ReplayCounts c = moe::replay(trace, {CacheScope::global, 2}, moe::Lru{});
  CHECK(c.hits == 2);
  CHECK(c.loads == 5);
  CHECK(c.streamed == 1);
  CHECK(c.evictions == 2);
}

TEST_CASE("without slots everything is streamed") {
  const ReplayCounts c = moe::replay(tokens(3, {{0, 1}, {0}, {1}}), {CacheScope::global, 0}, moe::Lru{});
  CHECK(c.hits == 0);
  CHECK(c.loads == 4);
  CHECK(c.streamed == 4);
  CHECK(c.evictions == 0);
}

TEST_CASE("LFU counts uses of the expert, also those before its eviction and the load's own") {
  // 0 0 1 fill; 2 (1 use) goes over 1 (1 use, older); 1 (2 uses) over 2; 2 (2 uses) over 0 (2 uses, the oldest).
  const ReplayCounts c =
      moe::replay(tokens(3, {{0}, {0}, {1}, {2}, {1}, {2}, {1}}), {CacheScope::global, 2}, moe::Lfu{});
  CHECK(c.hits == 2);
  CHECK(c.evictions == 3);
}

TEST_CASE("a sequence starts with a number not seen before; slots survive it and counts do not") {
  moe::RoutingTrace trace(1, 3);
  int token = 0;
  const auto add = [&](int sequence, int expert) {
    const moe::Slot slot{expert, 1};
    trace.add(sequence, token++, 0, {&slot, 1});
  };
  for (const int e : {0, 0, 0, 1}) add(5, e);
  add(2, 1);  // a hit: what lies in the slots survives
  add(2, 2);  // over 0, whose three uses are forgotten
  add(5, 1);  // a hit: this sequence goes on, nothing is forgotten again
  add(5, 0);  // over 2, which has one use as 0 has, and 1 has two
  add(5, 1);
  const ReplayCounts c = moe::replay(trace, {CacheScope::global, 2}, moe::Lfu{});
  CHECK(c.hits == 5);
  CHECK(c.loads == 4);
}

TEST_CASE("by layer every layer has its own slots") {
  moe::RoutingTrace trace(2, 2);
  for (int token = 0; token < 3; ++token)
    for (int layer = 0; layer < 2; ++layer) {
      const moe::Slot slot{layer, 1};
      trace.add(0, token, layer, {&slot, 1});
    }
  CHECK(moe::replay(trace, {CacheScope::layer, 1}, moe::Lru{}).hits == 4);
  CHECK(moe::replay(trace, {CacheScope::global, 1}, moe::Lru{}).hits == 0);
  CHECK(moe::replay(trace, {CacheScope::layer, 0, {1, 0}}, moe::Lru{}).streamed == 3);
}

TEST_CASE("passes: tokens of a sequence, rows of a batch, tokens of a single layer") {
  const auto passes = [](std::vector<moe::TraceRecord> records) {
    moe::RoutingTrace trace(4, 1);
    for (const moe::TraceRecord& r : records) trace.add(r.sequence, r.token, r.layer, {});
    std::string text;
    for (const moe::TraceStart& s : moe::trace_starts(trace)) text += s.pass ? 'P' : s.layer ? 'l' : '.';
    return text;
  };
  CHECK(passes({{0, 0, 0}, {0, 0, 1}, {0, 1, 0}, {0, 1, 1}}) == "PlPl");
  CHECK(passes({{0, 0, 0}, {1, 0, 0}, {0, 0, 1}, {1, 0, 1}, {0, 1, 0}, {1, 1, 0}}) == "P.l.P.");
  CHECK(passes({{0, 0, 2}, {0, 1, 2}, {1, 1, 2}, {1, 1, 2}}) == "PPP.");
  CHECK(passes({{0, 7, 0}, {0, 8, 0}, {0, 7, 3}, {0, 8, 3}, {0, 9, 0}, {0, 9, 3}}) == "P.l.Pl");
  CHECK(passes({}).empty());
}

TEST_CASE("the gate takes last picks away before the cache sees them") {
  moe::RoutingTrace trace(2, 4);
  const moe::Slot slots[] = {{0, 0.5f}, {1, 0.25f}, {2, 0.125f}, {3, 0.125f}};
  trace.add(0, 0, 0, {slots, 4});
  trace.add(0, 0, 1, {slots, 4});
  // Layer 0 drops a tail below 0.25: 3 goes, 2 and 3 together weigh 0.25. Layer 1 drops all but the first.
  const ReplayCounts c = moe::replay(trace, {CacheScope::global, 8}, moe::Lru{}, {.gate = {0.25, 1.5}});
  CHECK(c.picks == 8);
  CHECK(c.dropped == 4);
  CHECK(c.loads == 4);
  CHECK(moe::replay(trace, {CacheScope::global, 8}, moe::Lru{}, {.gate = {0, 0}}).dropped == 0);
}

TEST_CASE("skipping leaves out missing picks of little weight, never the first and never a resident one") {
  moe::RoutingTrace trace(1, 4);
  const moe::Slot first[] = {{0, 0.75f}, {1, 0.25f}}, second[] = {{1, 0.1f}, {0, 0.1f}, {2, 0.8f}},
                  third[] = {{2, 3.0f}, {1, 0.25f}};
  trace.add(0, 0, 0, {first, 2});   // 1 is missing and below 0.3: skipped
  trace.add(0, 1, 0, {second, 3});  // 1 comes first: loaded; 0 lies there; 2 is loaded
  trace.add(0, 2, 0, {third, 2});   // both lie there
  const ReplayCounts c = moe::replay(trace, {CacheScope::global, 4}, moe::Lru{}, {.skip_below = 0.3});
  CHECK(c.skips == 1);
  CHECK(c.loads == 3);
  CHECK(c.hits == 3);
}

TEST_CASE("what cannot be replayed is said") {
  moe::RoutingTrace trace = tokens(2, {{0}});
  CHECK_THROWS_AS(moe::replay(trace, {CacheScope::global, -1}, moe::Lru{}), moe::Error);
  CHECK_THROWS_AS(moe::replay(trace, {CacheScope::layer, 0, {1, 1}}, moe::Lru{}), moe::Error);
  CHECK_THROWS_AS(moe::replay(trace, {CacheScope::global, 1}, moe::Lru{}, {.gate = {0, 0}}), moe::Error);
  trace.forget_weights();
  CHECK_THROWS_AS(moe::replay(trace, {CacheScope::global, 1}, moe::Lru{}, {.skip_below = 0.1}), moe::Error);
  CHECK(moe::replay(trace, {CacheScope::global, 1}, moe::Lru{}).loads == 1);
}

// ---- against the oracle

TEST_CASE("LRU is as its words say") { compare(moe::Lru{}, lru); }
TEST_CASE("LFU is as its words say") { compare(moe::Lfu{}, lfu); }
TEST_CASE("LFU with decay halves all counts before every tenth use") {
  compare(moe::Lfu{0.5, 10}, [](const Moment& m, Id id) {
    double count = 0;
    for (std::size_t i = 0; i < m.history.size(); ++i) {
      if (i == 0 || m.history[i].sequence_number != m.history[i - 1].sequence_number) count = 0;
      if ((i + 1) % 10 == 0) count /= 2;
      if (m.history[i].id == id) ++count;
    }
    return count;
  });
}
TEST_CASE("the furthest layer gives way") {
  compare(moe::FurthestLayer{}, [](const Moment& m, Id id) { return -m.distance(id); });
}
TEST_CASE("HOBBIT's four terms are as its formula says") {
  compare(moe::Multidimensional{0.5, 0.125, 0.125, 0.25}, [](const Moment& m, Id id) {
    return (0.5 * m.last_pass(id) + 0.125 * m.uses(id) + 0.125 * m.high_uses(id)) / m.record.pass +
           0.25 * (1 - static_cast<double>(m.distance(id)) / m.trace.layers);
  });
}
TEST_CASE("the cost of a miss is as its formula says") {
  compare(moe::MissCost{}, [](const Moment& m, Id id) {
    const double last = m.last_pass(id);
    return m.uses(id) / m.record.pass + (last > 0 && last >= m.record.pass - 1 ? 1 : 0) + 1e-9 / (m.distance(id) + 0.1);
  });
}
TEST_CASE("the farthest next use gives way") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Trace trace = random_trace(seed, seed % 3 == 2);
    std::vector<Id> order;
    for (const Record& r : trace.records)
      for (const Pick& p : r.picks) order.emplace_back(r.layer, p.expert);
    const auto nearness = [&](const Moment& m, Id id) {
      for (std::size_t i = m.position; i < order.size(); ++i)
        if (order[i] == id) return -static_cast<double>(i);
      return -1e300;
    };
    const int slots = 2 + static_cast<int>(seed % 6);
    check_same(moe::replay_min(trace.get(), {CacheScope::global, slots}),
               replay_oracle::replay(trace, {slots}, nearness));
  }
}

// ---- closed forms

TEST_CASE("on a cycle LRU hits nothing, MIN (C-1)/(N-1), and the furthest layer reaches MIN") {
  const int cases[][2] = {{16, 4}, {16, 8}, {16, 15}, {32, 20}};
  for (const auto& [layers, slots] : cases) {
    const int passes = (layers - 1) * 20 + 1;
    moe::RoutingTrace trace(layers, 1);
    for (int token = 0; token < passes; ++token)
      for (int layer = 0; layer < layers; ++layer) {
        const moe::Slot slot{0, 1};
        trace.add(0, token, layer, {&slot, 1});
      }
    const moe::ReplaySlots cache{CacheScope::global, slots};
    CHECK(moe::replay(trace, cache, moe::Lru{}).hits == 0);
    const double expected = static_cast<double>(slots - 1) / (layers - 1);
    const double all = static_cast<double>(layers) * (passes - 1);  // the first pass can only load
    const auto hits = [&](const ReplayCounts& c) { return static_cast<double>(c.hits); };
    CHECK(std::fabs(hits(moe::replay_min(trace, cache)) - expected * all) <= layers);
    CHECK(std::fabs(hits(moe::replay(trace, cache, moe::FurthestLayer{})) - expected * all) <= layers);
    const moe::Multidimensional only_layers{0, 0, 0, 1};
    CHECK(std::fabs(hits(moe::replay(trace, cache, only_layers)) - expected * all) <= layers);
  }
}

TEST_CASE("independent uniform requests hit C of N times, whoever is evicted") {
  constexpr int experts = 20, slots = 7, requests = 40000;
  Dice dice{9};
  std::vector<std::vector<int>> picks;
  for (int i = 0; i < requests; ++i) picks.push_back({dice.below(experts)});
  const moe::RoutingTrace trace = tokens(experts, picks);
  const double expected = static_cast<double>(slots) / experts;
  const double five_sigma = 5 * std::sqrt(expected * (1 - expected) / requests);
  CHECK(std::fabs(moe::replay(trace, {CacheScope::global, slots}, moe::Lru{}).hit_rate() - expected) < five_sigma);
  CHECK(std::fabs(moe::replay(trace, {CacheScope::global, slots}, moe::Lfu{}).hit_rate() - expected) < five_sigma);
}

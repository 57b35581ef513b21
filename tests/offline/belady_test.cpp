#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <map>
#include <moe/offline/belady.hpp>
#include <moe/offline/replay_mixed.hpp>
#include <moe/offline/replay_plan.hpp>

#include "offline/replay_oracle.hpp"

using namespace replay_oracle;
using moe::CacheScope;

namespace {

/// The fewest loads under the rules: every victim that is allowed is tried. States are sets of ids as bits.
int fewest_loads(const Trace& trace, int slots) {
  std::map<unsigned, int> states{{0u, 0}};
  for (const Record& record : trace.records) {
    unsigned asked = 0;
    const auto bit = [&](const Pick& p) { return 1u << (record.layer * trace.experts + p.expert); };
    for (const Pick& p : record.picks) asked |= bit(p);
    for (const Pick& pick : record.picks) {
      std::map<unsigned, int> next;
      const auto reach = [&](unsigned held, int loads) {
        const auto [at, added] = next.try_emplace(held, loads);
        if (!added) at->second = std::min(at->second, loads);
      };
      for (const auto& [held, loads] : states) {
        const unsigned id = bit(pick);
        if ((held & id) != 0) {
          reach(held, loads);
        } else if (__builtin_popcount(held) < slots) {
          reach(held | id, loads + 1);
        } else if ((held & ~asked) == 0) {
          reach(held, loads + 1);
        } else {
          for (unsigned victims = held & ~asked; victims != 0; victims &= victims - 1)
            reach((held & ~(victims & -victims)) | id, loads + 1);
        }
      }
      states = std::move(next);
    }
  }
  int fewest = 1 << 30;
  for (const auto& [held, loads] : states) fewest = std::min(fewest, loads);
  return fewest;
}

/// At most 8 ids and 24 accesses in records of up to `largest` picks.
Trace small_trace(std::uint64_t seed, int largest) {
  Dice dice{seed * 31 + 7};
  for (int i = 0; i < 8; ++i) dice.below(2);
  Trace t;
  t.layers = 1 + dice.below(2);
  t.experts = 8 / t.layers;
  const int most = 1 + dice.below(largest);
  for (int accesses = 0, i = 0;; ++i) {
    Record r{0, i / t.layers, i % t.layers, 1, 1 + i / t.layers, {}};
    r.picks = random_picks(dice, t.experts, 1 + dice.below(most));
    accesses += static_cast<int>(r.picks.size());
    if (accesses > 24) return t;
    t.records.push_back(r);
  }
}

}  // namespace

TEST_CASE("Belady's loads are the fewest of all choices of victims") {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    CAPTURE(seed);
    const int slots = 1 + static_cast<int>(seed % 4);
    const Trace trace = small_trace(seed, slots);
    const moe::ReplayCounts found = moe::replay_min(trace.get(), {CacheScope::global, slots});
    CHECK(found.loads == static_cast<std::uint64_t>(fewest_loads(trace, slots)));
    CHECK(found.streamed == 0);
  }
}

TEST_CASE("where records ask for more than the slots hold, Belady may miss the fewest loads, by little and seldom") {
  std::uint64_t loads = 0, fewest = 0, streamed = 0;
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    const int slots = 1 + static_cast<int>(seed % 3);
    const Trace trace = small_trace(seed, 4);
    const moe::ReplayCounts found = moe::replay_min(trace.get(), {CacheScope::global, slots});
    const auto best = static_cast<std::uint64_t>(fewest_loads(trace, slots));
    CHECK(found.loads >= best);
    loads += found.loads;
    fewest += best;
    streamed += found.streamed;
  }
  CHECK(streamed > 1000);
  CHECK(loads * 1000 < fewest * 1001);
}

TEST_CASE("the next use of every use is known") {
  moe::RoutingTrace trace(2, 2);
  const moe::Slot both[] = {{1, 1}, {0, 1}};
  trace.add(0, 0, 0, {both, 2});  // uses 1 and 2
  trace.add(0, 0, 1, {both, 1});  // 3
  trace.add(0, 1, 0, {both, 1});  // 4
  const moe::FarthestNextUse future(trace);
  CHECK(future.after(1) == 4);
  for (const std::uint64_t last : {2u, 3u, 4u}) CHECK(future.after(last) == moe::FarthestNextUse::never);
}

TEST_CASE("no policy loads less than Belady") {
  rc::check([](std::uint64_t seed, bool batched) {
    const Trace plain = random_trace(seed, batched);
    const moe::RoutingTrace trace = plain.get();
    for (const CacheScope scope : {CacheScope::layer, CacheScope::global}) {
      // Every record must fit: else what is not kept is no choice of a policy.
      const moe::ReplaySlots slots{scope, 3 + static_cast<int>(seed % 5)};
      const std::uint64_t fewest = moe::replay_min(trace, slots).loads;
      RC_ASSERT(moe::replay(trace, slots, moe::Lru{}).loads >= fewest);
      RC_ASSERT(moe::replay(trace, slots, moe::Lfu{}).loads >= fewest);
      RC_ASSERT(moe::replay(trace, slots, moe::Lfu{0.5, 8}).loads >= fewest);
      RC_ASSERT(moe::replay(trace, slots, moe::FurthestLayer{}).loads >= fewest);
      RC_ASSERT(moe::replay(trace, slots, moe::Multidimensional{}).loads >= fewest);
      RC_ASSERT(moe::replay(trace, slots, moe::MissCost{}).loads >= fewest);
      RC_ASSERT(moe::replay(trace, slots, moe::ByPlan{}).loads >= fewest);
      // Without a second pool and with T1 = 1 HOBBIT is a cache of one precision.
      const moe::MixedReplay one{scope, slots.slots, 0, 1, 1};
      RC_ASSERT(moe::replay_mixed(trace, one, moe::Multidimensional{}).loads >= fewest);
      for (const double accuracy : {0.0, 0.7, 1.0})
        RC_ASSERT(moe::replay_plan(trace, slots, {accuracy, seed}).loads >= fewest);
    }
  });
}

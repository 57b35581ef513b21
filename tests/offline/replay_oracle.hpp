// Replaying once more, from the words of the rules: lists instead of tables, every score computed anew from the whole
// history of uses at every eviction. Shares no code with include/.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <moe/offline/trace.hpp>

namespace replay_oracle {

using Id = std::pair<int, int>;  // layer, expert

struct Pick {
  int expert = 0;
  double weight = 0;
};
struct Record {
  int sequence = 0, token = 0, layer = 0;
  int sequence_number = 0;  // how many sequences have begun
  int pass = 0;             // of the sequence that began last, from 1
  std::vector<Pick> picks;
};
struct Trace {
  int layers = 0, experts = 0;
  std::vector<Record> records;

  moe::RoutingTrace get() const {
    moe::RoutingTrace trace(layers, experts);
    for (const Record& r : records) {
      std::vector<moe::Slot> slots;
      std::vector<double> weights;
      for (const Pick& p : r.picks) {
        slots.push_back({p.expert, static_cast<float>(p.weight)});
        weights.push_back(p.weight);
      }
      const auto count = static_cast<int>(slots.size());
      trace.add(r.sequence, r.token, r.layer, {slots.data(), count}, {}, {weights.data(), count});
    }
    return trace;
  }
};

/// Small numbers that are the same everywhere.
struct Dice {
  std::uint64_t state = 0;
  int below(int n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<int>((state >> 33) % static_cast<std::uint64_t>(n));
  }
};

/// Different experts with falling weights that are multiples of 1/64.
inline std::vector<Pick> random_picks(Dice& dice, int experts, int count) {
  std::vector<Pick> picks;
  std::set<int> taken;
  std::vector<int> weights;
  for (int i = 0; i < count; ++i) weights.push_back(1 + dice.below(64));
  std::sort(weights.rbegin(), weights.rend());
  while (static_cast<int>(picks.size()) < count) {
    // The smaller of two throws: some experts are picked more often than others.
    const int expert = std::min(dice.below(experts), dice.below(experts));
    if (taken.insert(expert).second) picks.push_back({expert, weights[picks.size()] / 64.0});
  }
  return picks;
}

/// Sequences one after the other, or a batch of them; up to k picks in each record.
inline Trace random_trace(std::uint64_t seed, bool batched = false) {
  Dice dice{seed * 77 + 5};
  for (int i = 0; i < 8; ++i) dice.below(2);
  Trace t;
  t.layers = 2 + dice.below(3);
  t.experts = 3 + dice.below(5);
  const int k = 1 + dice.below(3), tokens = 4 + dice.below(8), sequences = 2 + dice.below(2);
  const auto add = [&](int s, int token, int layer, int number, int pass) {
    t.records.push_back({s * 7, token + 3, layer, number, pass, random_picks(dice, t.experts, dice.below(k + 1))});
  };
  if (batched) {
    for (int token = 0; token < tokens; ++token)
      for (int layer = 0; layer < t.layers; ++layer)
        for (int s = 0; s < sequences; ++s) {
          const bool beginning = token == 0 && layer == 0;
          add(s, token, layer, beginning ? s + 1 : sequences, token + 1);
        }
  } else {
    for (int s = 0; s < sequences; ++s)
      for (int token = 0; token < tokens; ++token)
        for (int layer = 0; layer < t.layers; ++layer) add(s, token, layer, s + 1, token + 1);
  }
  return t;
}

/// One pick that was served.
struct Use {
  Id id;
  int sequence_number = 0, pass = 0;
  bool high = true;
};
using History = std::vector<Use>;

/// What a score may look at.
struct Moment {
  const Trace& trace;
  const History& history;  // the pick that needs the room is its last entry
  const Record& record;
  std::size_t position = 0;  // of the pick among all picks

  int last_use(Id id) const {
    for (std::size_t i = history.size(); i-- > 0;)
      if (history[i].id == id) return static_cast<int>(i);
    return -1;
  }
  template <class Which>
  double uses(Id id, const Which& which) const {
    return static_cast<double>(std::count_if(history.begin(), history.end(), [&](const Use& u) {
      return u.id == id && u.sequence_number == record.sequence_number && which(u);
    }));
  }
  double uses(Id id) const {
    return uses(id, [](const Use&) { return true; });
  }
  double high_uses(Id id) const {
    return uses(id, [](const Use& u) { return u.high; });
  }
  /// Number of the pass of the newest use in this sequence; 0 for none.
  double last_pass(Id id) const {
    double pass = 0;
    for (const Use& u : history)
      if (u.id == id && u.sequence_number == record.sequence_number) pass = u.pass;
    return pass;
  }
  int distance(Id id) const { return (id.first - record.layer + trace.layers) % trace.layers; }
};

struct Counts {
  int picks = 0, hits = 0, high_loads = 0, low_loads = 0, streamed = 0, evictions = 0, skips = 0, dropped = 0;
};

/// A pool as a list of what it holds.
struct Pool {
  int slots = 0;
  std::vector<Id> held;
  bool holds(Id id) const { return std::find(held.begin(), held.end(), id) != held.end(); }
};

/// `score(moment, id)`: the lowest goes, of equal ones the one used longest ago.
template <class Score>
void bring(Pool& pool, Id id, const Moment& moment, const Score& score, Counts& counts) {
  if (static_cast<int>(pool.held.size()) < pool.slots) {
    pool.held.push_back(id);
    return;
  }
  std::vector<std::pair<std::pair<double, int>, Id>> candidates;
  for (const Id& held : pool.held) {
    const bool asked =
        held.first == moment.record.layer && std::any_of(moment.record.picks.begin(), moment.record.picks.end(),
                                                         [&](const Pick& p) { return p.expert == held.second; });
    if (!asked) candidates.push_back({{score(moment, held), moment.last_use(held)}, held});
  }
  if (candidates.empty()) {
    ++counts.streamed;
    return;
  }
  const Id victim = std::min_element(candidates.begin(), candidates.end())->second;
  pool.held.erase(std::find(pool.held.begin(), pool.held.end(), victim));
  pool.held.push_back(id);
  ++counts.evictions;
}

/// `slots[layer]`, or one pool if there is one number.
template <class Score>
Counts replay(const Trace& trace, const std::vector<int>& slots, const Score& score) {
  std::vector<Pool> pools;
  for (const int n : slots) pools.push_back({n, {}});
  History history;
  Counts counts;
  std::size_t position = 0;
  for (const Record& record : trace.records)
    for (const Pick& pick : record.picks) {
      const Id id(record.layer, pick.expert);
      Pool& pool = pools.size() == 1 ? pools[0] : pools[static_cast<std::size_t>(record.layer)];
      const bool hit = pool.holds(id);
      history.push_back({id, record.sequence_number, record.pass, true});
      ++counts.picks;
      if (hit) {
        ++counts.hits;
      } else {
        ++counts.high_loads;
        bring(pool, id, {trace, history, record, position}, score, counts);
      }
      ++position;
    }
  return counts;
}

/// Two pools for every layer, or two in all; T1 and T2 as in HOBBIT.
template <class Score>
Counts replay_mixed(const Trace& trace, bool layered, int high_slots, int low_slots, double t1, double t2,
                    const Score& score) {
  const std::size_t pools = layered ? static_cast<std::size_t>(trace.layers) : 1;
  std::vector<Pool> high(pools, Pool{high_slots, {}}), low(pools, Pool{low_slots, {}});
  History history;
  Counts counts;
  for (const Record& record : trace.records) {
    double ahead = 0, total = 0;
    for (const Pick& pick : record.picks) total += pick.weight;
    for (const Pick& pick : record.picks) {
      const Id id(record.layer, pick.expert);
      const std::size_t p = layered ? static_cast<std::size_t>(record.layer) : 0;
      const bool wants_high = ahead <= t1 * total, wants_low = !wants_high && ahead <= t2 * total;
      ahead += pick.weight;
      ++counts.picks;
      const bool by_high = high[p].holds(id), by_low = low[p].holds(id) && !wants_high && !by_high;
      if (!by_high && !by_low && !wants_high && !wants_low) {
        ++counts.skips;
        continue;
      }
      history.push_back({id, record.sequence_number, record.pass, by_high || (wants_high && !by_low)});
      if (by_high || by_low) {
        ++counts.hits;
      } else if (wants_high) {
        ++counts.high_loads;
        bring(high[p], id, {trace, history, record, 0}, score, counts);
      } else {
        ++counts.low_loads;
        bring(low[p], id, {trace, history, record, 0}, score, counts);
      }
    }
  }
  return counts;
}

}  // namespace replay_oracle

// What the replayers share: the clock of a trace, the memory of its experts, the slots of a cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <moe/offline/trace.hpp>
#include <moe/storage/cache_history.hpp>
#include <moe/storage/eviction.hpp>

namespace moe {

/// One pool of slots for every layer, or one for all layers together.
enum class CacheScope { layer, global };

/// The slots of each pool of a replayed cache.
struct ReplaySlots {
  CacheScope scope = CacheScope::global;
  int slots = 0;                   // of a pool
  std::vector<int> by_layer = {};  // scope layer: each layer's own number instead
};

/// What a cache did on a trace. picks = hits + (loads - prefetched) + skips + dropped.
struct ReplayCounts {
  std::uint64_t picks = 0;                               // of the trace
  std::uint64_t hits = 0;                                // served by what lay in a slot
  std::uint64_t loads = 0;                               // on demand and ahead, kept or not
  std::uint64_t streamed = 0;                            // loads that were not kept: no slot could be given up
  std::uint64_t evictions = 0;                           // experts that gave up their slot
  std::uint64_t high_loads = 0, low_loads = 0;           // loads by precision; with one precision all are high
  std::uint64_t skips = 0;                               // picks that were missing and not worth a load
  std::uint64_t dropped = 0;                             // picks that a gate took away before the cache saw them
  std::uint64_t prefetched = 0;                          // loads ahead of need
  std::uint64_t prefetch_used = 0, prefetch_wasted = 0;  // of those: used; given up, or left at the end, unused

  /// Of the picks that were served, those that did not wait for a load. A prefetch makes a hit and costs a load: this
  /// number alone misleads.
  double hit_rate() const noexcept {
    const std::uint64_t served = picks - skips - dropped;
    return served > 0 ? static_cast<double>(hits) / static_cast<double>(served) : 0;
  }
  /// Bytes read, for records of these sizes.
  double bytes(double high, double low) const noexcept {
    return static_cast<double>(high_loads) * high + static_cast<double>(low_loads) * low;
  }
};

/// What begins with a record.
struct TraceStart {
  bool sequence = false, pass = false, layer = false;
};

/// What begins with each record of a trace. A sequence begins with a number not seen before. A pass through the layers
/// is a run of records whose layer never decreases, so a batch of sequences, or a prompt, is one pass; if the trace has
/// a single layer, or no record lies deeper than the one before, every (sequence, token) is a pass. A layer begins with
/// the first of its records in a pass. O(records log records).
inline std::vector<TraceStart> trace_starts(const RoutingTrace& trace) {
  const std::vector<TraceRecord>& records = trace.records();
  std::vector<TraceStart> starts(records.size());
  std::vector<std::pair<int, std::size_t>> firsts;
  bool descends = false;
  for (std::size_t i = 0; i < records.size(); ++i) {
    firsts.emplace_back(records[i].sequence, i);
    descends = descends || (i > 0 && records[i].layer > records[i - 1].layer);
  }
  std::sort(firsts.begin(), firsts.end());
  for (std::size_t i = 0; i < firsts.size(); ++i)
    if (i == 0 || firsts[i].first != firsts[i - 1].first) starts[firsts[i].second].sequence = true;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const bool first = i == 0;
    const TraceRecord& now = records[i];
    const TraceRecord& before = records[first ? 0 : i - 1];
    starts[i].pass = first || now.layer < before.layer ||
                     (!descends && (now.sequence != before.sequence || now.token != before.token));
    starts[i].layer = starts[i].pass || now.layer != before.layer;
  }
  return starts;
}

namespace detail {

/// The history of a trace's experts, by number (layer * experts + expert), and what its current record wants.
class ReplayState {
 public:
  explicit ReplayState(const RoutingTrace& trace) {
    for (int layer = 0; layer < trace.layers(); ++layer) history_.add_layer(trace.experts());
    wanted_.resize(history_.experts());
  }

  /// A record begins, of which the first `count` picks will be asked for.
  void begin(const TraceStart& start, const RoutingTrace& trace, const TraceRecord& record, int count) {
    if (start.sequence) history_.begin_sequence();
    if (start.sequence || start.pass) history_.begin_pass();
    layer_ = record.layer;
    ++record_;
    for (int i = 0; i < count; ++i) wanted_[id(record.layer, trace.picks(record)[i].expert)] = record_;
  }
  template <class E>
  void use(std::size_t id, const E& eviction, bool high) {
    history_.use(id, eviction);
    if (high) history_.serve_high(id);
  }

  std::size_t id(int layer, ExpertId e) const noexcept { return history_.number(layer, e); }
  std::size_t size() const noexcept { return history_.experts(); }
  const CacheEntry& entry(std::size_t id) const noexcept { return history_[id]; }
  CacheEntry& entry(std::size_t id) noexcept { return history_[id]; }
  /// In the current record.
  bool wanted(std::size_t id) const noexcept { return wanted_[id] == record_; }
  CacheClock clock() const noexcept { return history_.clock(layer_); }
  void set_layer(int layer) noexcept { layer_ = layer; }
  /// No record is current.
  void end_record() noexcept { ++record_; }

 private:
  CacheHistory history_;
  std::vector<std::uint64_t> wanted_;  // the number of the newest record that asks for it
  std::uint64_t record_ = 0;
  int layer_ = 0;
};

/// Which experts lie in slots, in one precision.
class ReplayPools {
 public:
  enum class Place { free, freed, none };

  ReplayPools(const ReplaySlots& slots, const RoutingTrace& trace)
      : layered_(slots.scope == CacheScope::layer), experts_(trace.experts()) {
    const auto pools = static_cast<std::size_t>(layered_ ? trace.layers() : 1);
    limits_ = slots.by_layer;
    if (limits_.empty()) limits_.assign(pools, slots.slots);
    check(pools);
    held_.resize(pools);
    places_.assign(static_cast<std::size_t>(trace.layers()) * static_cast<std::size_t>(experts_), -1);
  }

  std::size_t pools() const noexcept { return held_.size(); }
  std::size_t pool(std::size_t id) const noexcept { return layered_ ? id / static_cast<std::size_t>(experts_) : 0; }
  int limit(std::size_t pool) const noexcept { return limits_[pool]; }
  bool holds(std::size_t id) const noexcept { return places_[id] >= 0; }

  /// Puts an expert into a free slot, or into that of the one with the lowest score among those that `may_go(id)`:
  /// of equal ones that with the older use. `gone` is the one that gave way.
  template <class E, class MayGo>
  Place insert(std::size_t id, const ReplayState& state, const E& eviction, const MayGo& may_go, std::size_t& gone) {
    std::vector<std::size_t>& held = held_[pool(id)];
    if (held.size() < static_cast<std::size_t>(limits_[pool(id)])) {
      places_[id] = static_cast<int>(held.size());
      held.push_back(id);
      return Place::free;
    }
    const int slot = victim(held, state, eviction, may_go);
    if (slot < 0) return Place::none;
    gone = held[static_cast<std::size_t>(slot)];
    places_[gone] = -1;
    places_[id] = slot;
    held[static_cast<std::size_t>(slot)] = id;
    return Place::freed;
  }

 private:
  template <class E, class MayGo>
  static int victim(const std::vector<std::size_t>& held, const ReplayState& state, const E& eviction,
                    const MayGo& may_go) {
    int best = -1;
    double lowest = 0;
    std::pair<std::uint64_t, std::size_t> oldest;  // use, and the number for those never used
    const CacheClock now = state.clock();
    for (std::size_t i = 0; i < held.size(); ++i) {
      const CacheEntry& entry = state.entry(held[i]);
      const double score = eviction.keep_score(entry, now);
      const std::pair<std::uint64_t, std::size_t> age(entry.last_use, held[i]);
      if (best >= 0 && (score > lowest || (score == lowest && age > oldest))) continue;
      if (!may_go(held[i])) continue;
      best = static_cast<int>(i);
      lowest = score;
      oldest = age;
    }
    return best;
  }
  void check(std::size_t pools) const {
    constexpr const char* where = "moe::replay";
    if (limits_.size() != pools) raise(Error(where, "slots by layer", concat(pools), std::to_string(limits_.size())));
    for (const int limit : limits_)
      if (limit < 0) raise(Error(where, "slots", "at least 0", std::to_string(limit)));
  }

  bool layered_;
  int experts_;
  std::vector<int> limits_;
  std::vector<std::vector<std::size_t>> held_;
  std::vector<int> places_;  // slot of each expert in its pool; -1: in none
};

/// Brings an expert into its pool on demand: over a victim that the current record does not ask for.
template <class E>
void load_on_demand(std::size_t id, ReplayPools& pools, const ReplayState& state, const E& eviction,
                    ReplayCounts& counts) {
  std::size_t gone = 0;
  const auto may_go = [&](std::size_t other) { return !state.wanted(other); };
  const ReplayPools::Place place = pools.insert(id, state, eviction, may_go, gone);
  counts.evictions += place == ReplayPools::Place::freed ? 1 : 0;
  counts.streamed += place == ReplayPools::Place::none ? 1 : 0;
  ++counts.loads;
}

}  // namespace detail
}  // namespace moe

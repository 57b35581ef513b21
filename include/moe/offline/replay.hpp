// replay: a routing trace through a cache of one precision, with the eviction classes that the storage uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <moe/offline/replay_cache.hpp>

namespace moe {

/// Picks that are not asked for, by their share of the record's weight.
struct ReplayRules {
  std::vector<double> gate = {};  // [L] AdapMoE's tau: last picks go while their shares together are below it
  double skip_below = 0;          // a missing pick with a smaller share is skipped, but never a record's first one
};

namespace detail {

/// The weights of a record's picks as shares of their sum; equal ones if they have no sum.
class Shares {
 public:
  Shares(const RoutingTrace& trace, const TraceRecord& record) : trace_(trace), record_(record) {
    for (int i = 0; i < record.count; ++i) total_ += trace.weight(record, i);
  }
  double operator[](int i) const noexcept {
    return total_ > 0 ? trace_.weight(record_, i) / total_ : 1.0 / record_.count;
  }
  /// Of the picks that weigh more than number `i`, or as much and come earlier. HOBBIT's unimportance.
  double ahead(int i) const noexcept {
    const double own = trace_.weight(record_, i);
    double sum = 0;
    for (int j = 0; j < record_.count; ++j) {
      const double other = trace_.weight(record_, j);
      if (other > own || (other == own && j < i)) sum += other;
    }
    return total_ > 0 ? sum / total_ : static_cast<double>(i) / record_.count;
  }

 private:
  const RoutingTrace& trace_;
  const TraceRecord& record_;
  double total_ = 0;
};

inline void require_weights(const RoutingTrace& trace, const char* who) {
  if (!trace.has_weights()) raise(Error(who, "weights of the trace", "one for each expert", "none"));
}

/// Picks of a record that AdapMoE's gate keeps, the first at least (`SensitivitySkip`, on recorded weights).
inline int kept_by_gate(const RoutingTrace& trace, const TraceRecord& record, const std::vector<double>& gate) {
  if (gate.empty()) return record.count;
  const Shares shares(trace, record);
  int kept = record.count;
  for (double tail = 0; kept > 1; --kept) {
    tail += shares[kept - 1];
    if (!(tail < gate[static_cast<std::size_t>(record.layer)])) break;
  }
  return kept;
}

}  // namespace detail

/// Runs a trace through a cache. The picks of a record are served in order; a resident one is a hit; a missing one is
/// loaded into a free slot, else over the victim that `eviction` names among those that the record does not ask for;
/// without such a victim it is loaded, used and not kept (streamed). Time advances with every pick served; what lies in
/// the slots survives the start of a sequence, the counts of uses begin anew. Rules need a trace with weights.
/// Throws Error for a negative number of slots and for a list by layer of the wrong length.
/// O(picks + evictions * slots of a pool); 64 bytes for each expert of each layer.
template <Eviction E>
ReplayCounts replay(const RoutingTrace& trace, const ReplaySlots& slots, const E& eviction,
                    const ReplayRules& rules = {}) {
  if (!rules.gate.empty() || rules.skip_below > 0) detail::require_weights(trace, "moe::replay");
  if (!rules.gate.empty())
    require_equal("moe::replay", "gate's thresholds", trace.layers(), static_cast<int>(rules.gate.size()));
  detail::ReplayPools pools(slots, trace);
  detail::ReplayState state(trace);
  const std::vector<TraceStart> starts = trace_starts(trace);
  ReplayCounts counts;
  for (std::size_t r = 0; r < starts.size(); ++r) {
    const TraceRecord& record = trace.records()[r];
    const int kept = detail::kept_by_gate(trace, record, rules.gate);
    state.begin(starts[r], trace, record, kept);
    counts.picks += static_cast<std::uint64_t>(record.count);
    counts.dropped += static_cast<std::uint64_t>(record.count - kept);
    for (int i = 0; i < kept; ++i) {
      const std::size_t id = state.id(record.layer, trace.picks(record)[i].expert);
      const bool hit = pools.holds(id);
      if (!hit && i > 0 && rules.skip_below > 0 && detail::Shares(trace, record)[i] < rules.skip_below) {
        ++counts.skips;
        continue;
      }
      state.use(id, eviction, true);
      if (hit) {
        ++counts.hits;
      } else {
        detail::load_on_demand(id, pools, state, eviction, counts);
      }
    }
  }
  counts.high_loads = counts.loads;
  return counts;
}

}  // namespace moe

// replay_mixed: a routing trace through HOBBIT's two pools, and the search for its eviction's weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include <moe/offline/replay.hpp>

namespace moe {

/// HOBBIT's cache of two precisions (Tang et al. 2024, section 3).
struct MixedReplay {
  CacheScope scope = CacheScope::global;
  int high = 0, low = 0;                     // slots of a pool
  double high_up_to = 0.6, low_up_to = 0.9;  // T1 and T2, of the share of weight ahead of a pick
};

namespace detail {

enum class PickNeed { high, low, skip };

/// What a pick with so much weight ahead deserves. Weights that were rounded on their way into a file must not move a
/// pick across a threshold that it stands on.
inline PickNeed need_of(double ahead, const MixedReplay& rule, bool precise) noexcept {
  const double slack = precise ? 1e-12 : 2e-7;
  if (ahead <= rule.high_up_to + slack) return PickNeed::high;
  return ahead <= rule.low_up_to + slack ? PickNeed::low : PickNeed::skip;
}

template <class E>
class MixedReplayer {
 public:
  MixedReplayer(const RoutingTrace& trace, const MixedReplay& rule, const E& eviction)
      : trace_(trace),
        rule_(rule),
        eviction_(eviction),
        state_(trace),
        high_({rule.scope, rule.high}, trace),
        low_({rule.scope, rule.low}, trace) {}

  ReplayCounts run() {
    const std::vector<TraceStart> starts = trace_starts(trace_);
    for (std::size_t r = 0; r < starts.size(); ++r) {
      const TraceRecord& record = trace_.records()[r];
      state_.begin(starts[r], trace_, record, record.count);
      counts_.picks += static_cast<std::uint64_t>(record.count);
      const Shares shares(trace_, record);
      for (int i = 0; i < record.count; ++i)
        serve(state_.id(record.layer, trace_.picks(record)[i].expert),
              need_of(shares.ahead(i), rule_, trace_.has_precise_weights()));
    }
    return counts_;
  }

 private:
  void serve(std::size_t id, PickNeed need) {
    const bool in_high = high_.holds(id), in_low = need != PickNeed::high && low_.holds(id);
    if (in_high || in_low) {
      ++counts_.hits;
      return state_.use(id, eviction_, in_high);
    }
    if (need == PickNeed::skip) {
      ++counts_.skips;
      return;
    }
    const bool high = need == PickNeed::high;
    state_.use(id, eviction_, high);
    ++(high ? counts_.high_loads : counts_.low_loads);
    load_on_demand(id, high ? high_ : low_, state_, eviction_, counts_);
  }

  const RoutingTrace& trace_;
  const MixedReplay& rule_;
  const E& eviction_;
  ReplayState state_;
  ReplayPools high_, low_;
  ReplayCounts counts_;
};

}  // namespace detail

/// As `replay`, with a pool of each precision. A pick deserves high precision while the share of weight ahead of it is
/// at most T1, low while at most T2, else none. A resident high copy serves every need and is preferred; a low one
/// serves low needs and those of picks that deserve none, which are skipped rather than loaded. A miss is loaded in the
/// precision that it deserves, over a victim in that precision's pool. Uses count for the expert, whichever copy
/// served. Throws Error for a trace without weights.
template <Eviction E>
ReplayCounts replay_mixed(const RoutingTrace& trace, const MixedReplay& rule, const E& eviction) {
  detail::require_weights(trace, "moe::replay_mixed");
  return detail::MixedReplayer<E>(trace, rule, eviction).run();
}

/// HOBBIT's offline search (section 3.4): of all weights that are multiples of 1 / `steps` and sum to 1, those with the
/// fewest bytes read on this trace; of equal ones the first in the order of the fields, descending. What they are worth
/// is only known on another trace. O(steps^3 / 6) replays.
inline Multidimensional best_eviction_weights(const RoutingTrace& trace, const MixedReplay& rule, double high_bytes,
                                              double low_bytes, int steps = 4) {
  if (steps < 1) raise(Error("moe::best_eviction_weights", "steps", "at least 1", std::to_string(steps)));
  Multidimensional best;
  double fewest = -1;
  for (int a = steps; a >= 0; --a)
    for (int b = steps - a; b >= 0; --b)
      for (int c = steps - a - b; c >= 0; --c) {
        const double unit = 1.0 / steps;
        const Multidimensional tried{a * unit, b * unit, c * unit, (steps - a - b - c) * unit};
        const double bytes = replay_mixed(trace, rule, tried).bytes(high_bytes, low_bytes);
        if (fewest >= 0 && bytes >= fewest) continue;
        fewest = bytes;
        best = tried;
      }
  return best;
}

}  // namespace moe

// What each layer of a trace loads with every number of slots of its own: the costs of sharing slots out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <moe/offline/replay.hpp>

namespace moe {

namespace detail {

/// Every layer's records after the gate, as a trace of that layer alone.
inline std::vector<RoutingTrace> gated_layers(const RoutingTrace& trace, const std::vector<double>& gate) {
  std::vector<RoutingTrace> layers(static_cast<std::size_t>(trace.layers()), RoutingTrace(1, trace.experts()));
  for (const TraceRecord& r : trace.records()) {
    const Row<const Slot> kept = trace.picks(r).first(kept_by_gate(trace, r, gate));
    layers[static_cast<std::size_t>(r.layer)].add(r.sequence, r.token, 0, kept);
  }
  return layers;
}

/// Loads of LRU with 0 to E slots, those from the picks of the largest record on in one pass: with so many slots a
/// record never pushes its own picks out, and what lies in `slots` of them is what was used last (Mattson et al. 1970).
inline std::vector<double> lru_load_curve(const RoutingTrace& layer) {
  const auto experts = static_cast<std::size_t>(layer.experts());
  std::vector<double> loads(experts + 1, 0.0);
  std::vector<ExpertId> newest;  // first
  for (const TraceRecord& record : layer.records()) {
    std::vector<ExpertId> picks;
    for (const Slot& pick : layer.picks(record))
      if (std::find(picks.begin(), picks.end(), pick.expert) == picks.end()) picks.push_back(pick.expert);
    for (const ExpertId e : picks) {
      const auto found = std::find(newest.begin(), newest.end(), e);
      const auto depth = found == newest.end() ? experts : static_cast<std::size_t>(found - newest.begin());
      loads[depth] += 1;  // and with all numbers of slots below
    }
    for (const ExpertId e : picks) {
      const auto found = std::find(newest.begin(), newest.end(), e);
      const auto place = found == newest.end() ? newest.insert(found, e) : found;
      std::rotate(newest.begin(), place, place + 1);
    }
  }
  for (std::size_t slots = experts; slots-- > 0;) loads[slots] += loads[slots + 1];
  for (int slots = 0; slots < std::min(layer.k(), layer.experts()); ++slots)
    loads[static_cast<std::size_t>(slots)] =
        static_cast<double>(replay(layer, {CacheScope::global, slots}, Lru{}).loads);
  return loads;
}

}  // namespace detail

/// What LRU loads in each layer of a trace after the gate, for every number of slots from 0 to all experts [L][E + 1]:
/// costs for `allocate_slots` that know the trace's reuse, of which the paper's uniform residency knows nothing.
/// O(picks * (E + k^2)).
inline std::vector<std::vector<double>> lru_load_curves(const RoutingTrace& trace,
                                                        const std::vector<double>& gate = {}) {
  std::vector<std::vector<double>> curves;
  for (const RoutingTrace& layer : detail::gated_layers(trace, gate)) curves.push_back(detail::lru_load_curve(layer));
  return curves;
}

/// What of `lru_load_curves` is left to load on demand when guesses come before each call of a layer: of the loads of
/// a call a prefetch covers `beta[l]`, but no more of them than the layer has slots, for a guess needs a slot to wait
/// in. [L][E + 1]. Without slots nothing is covered, so a discount of all loads alone would starve layers that are easy
/// to predict. AdapMoE's formula (Zhong et al., ICCAD 2024, section 4.4) covers one load of a call. Throws Error unless
/// `beta` has an entry for each layer.
inline std::vector<std::vector<double>> on_demand_curves(const RoutingTrace& trace, const std::vector<double>& gate,
                                                         std::span<const double> beta) {
  require_equal("moe::on_demand_curves", "layers of beta", trace.layers(), static_cast<int>(beta.size()));
  std::vector<std::vector<double>> curves = lru_load_curves(trace, gate);
  const std::vector<TraceStart> starts = trace_starts(trace);
  std::vector<double> calls(curves.size(), 0.0);
  for (std::size_t r = 0; r < starts.size(); ++r)
    if (starts[r].layer) calls[static_cast<std::size_t>(trace.records()[r].layer)] += 1;
  for (std::size_t l = 0; l < curves.size(); ++l)
    for (std::size_t slots = 0; slots < curves[l].size(); ++slots)
      curves[l][slots] -= beta[l] * std::min(curves[l][slots], calls[l] * static_cast<double>(slots));
  return curves;
}

}  // namespace moe

// How many slots each layer's cache gets out of one budget: AdapMoE's dynamic programming.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <moe/offline/load_curves.hpp>

namespace moe {

/// Loads on demand that a token costs a layer on average, if it picks `picks` of `experts` and `slots` of them, each
/// set as likely, are resident: E[m] - beta P(m >= 1) of the hypergeometric number m of misses, where beta is the
/// chance that a prefetch covers one. AdapMoE (Zhong et al., ICCAD 2024, section 4.4), there for two picks.
inline double expected_loads(int experts, int picks, int slots, double beta) noexcept {
  const int held = std::min(slots, experts), asked = std::min(picks, experts);
  double all_held = 1;
  for (int i = 0; i < asked; ++i) all_held *= std::max(0.0, static_cast<double>(held - i) / (experts - i));
  return asked * static_cast<double>(experts - held) / experts - beta * (1 - all_held);
}

/// Slots for each layer that minimise the sum of `costs[layer][slots]`, with at most `total` slots in all, at least
/// `least` and at most `costs[layer].size() - 1` in every layer. Of equal plans the evenest: costs may be linear (the
/// paper's are without prefetch), and then their sum would as well give all slots to a few layers. Throws Error if
/// `total` is not enough for `least` everywhere. O(L * total * most slots of a layer).
inline std::vector<int> allocate_slots(std::span<const std::vector<double>> costs, int total, int least = 0) {
  constexpr const char* where = "moe::allocate_slots";
  if (least < 0) raise(Error(where, "least slots of a layer", "at least 0", std::to_string(least)));
  std::int64_t room = 0;
  double highest = 0;
  for (const std::vector<double>& layer : costs) {
    if (layer.size() <= static_cast<std::size_t>(least))
      raise(Error(where, "costs of a layer", concat("more than ", least), std::to_string(layer.size())));
    room += static_cast<std::int64_t>(layer.size()) - 1;
    for (const double cost : layer) highest = std::max(highest, std::fabs(cost));
  }
  const auto needed = static_cast<std::int64_t>(costs.size()) * least;
  if (total < needed) raise(Error(where, "slots", concat("at least ", needed), std::to_string(total)));
  const auto budget = static_cast<std::size_t>(std::min<std::int64_t>(total, room));
  const double unevenness = 1e-12 * highest;  // above the rounding of sums, below all that matters
  constexpr double impossible = std::numeric_limits<double>::infinity();
  std::vector<double> best(budget + 1, 0.0);  // of the layers before, with at most so many slots
  std::vector<std::vector<int>> taken(costs.size(), std::vector<int>(budget + 1, 0));
  for (std::size_t l = 0; l < costs.size(); ++l) {
    std::vector<double> with(budget + 1, impossible);
    for (std::size_t all = 0; all <= budget; ++all)
      for (std::size_t own = static_cast<std::size_t>(least); own < costs[l].size() && own <= all; ++own) {
        const double cost = best[all - own] + costs[l][own] + unevenness * static_cast<double>(own * own);
        if (!(cost < with[all])) continue;
        with[all] = cost;
        taken[l][all] = static_cast<int>(own);
      }
    best = std::move(with);
  }
  std::vector<int> slots(costs.size());
  for (std::size_t l = costs.size(), left = budget; l-- > 0; left -= static_cast<std::size_t>(slots[l]))
    slots[l] = taken[l][left];
  return slots;
}

/// AdapMoE's allocation: a token of layer l picks a single expert with probability `alpha[l]` and k otherwise, and
/// `beta[l]` is the chance that a prefetch covers one of its misses. With no least number a layer may get no slot: its
/// experts are streamed. Throws Error unless both lists have the same length.
inline std::vector<int> allocate_cache(std::span<const double> alpha, std::span<const double> beta, int experts, int k,
                                       int slots, int least = 0) {
  require_equal("moe::allocate_cache", "layers of beta", alpha.size(), beta.size());
  std::vector<std::vector<double>> costs(alpha.size());
  for (std::size_t l = 0; l < alpha.size(); ++l)
    for (int held = 0; held <= experts; ++held)
      costs[l].push_back(alpha[l] * expected_loads(experts, 1, held, beta[l]) +
                         (1 - alpha[l]) * expected_loads(experts, k, held, beta[l]));
  return allocate_slots(costs, slots, least);
}

/// AdapMoE's alpha of each layer: the share of its records with a single pick, after the gate with these thresholds
/// (empty: no gate). 0 for a layer without records.
inline std::vector<double> single_expert_shares(const RoutingTrace& trace, const std::vector<double>& gate = {}) {
  std::vector<double> single(static_cast<std::size_t>(trace.layers())), all = single;
  for (const TraceRecord& record : trace.records()) {
    const auto layer = static_cast<std::size_t>(record.layer);
    if (record.count == 0) continue;
    all[layer] += 1;
    if (detail::kept_by_gate(trace, record, gate) == 1) single[layer] += 1;
  }
  for (std::size_t l = 0; l < all.size(); ++l) single[l] = all[l] > 0 ? single[l] / all[l] : 0;
  return single;
}

/// The allocation for a trace: as `allocate_cache`, with the number of picks per token as it was after the gate, where
/// the paper's two cases (one or k) are not all, and layers weighed by their records.
inline std::vector<int> allocate_cache(const RoutingTrace& trace, const std::vector<double>& gate,
                                       std::span<const double> beta, int slots, int least = 0) {
  require_equal("moe::allocate_cache", "layers of beta", trace.layers(), static_cast<int>(beta.size()));
  const auto layers = static_cast<std::size_t>(trace.layers());
  const auto most = static_cast<std::size_t>(std::max(trace.k(), 1));
  std::vector<std::vector<double>> records(layers, std::vector<double>(most + 1, 0.0));  // by layer and picks
  for (const TraceRecord& r : trace.records())
    records[static_cast<std::size_t>(r.layer)][static_cast<std::size_t>(detail::kept_by_gate(trace, r, gate))] += 1;
  std::vector<std::vector<double>> costs(layers);
  for (std::size_t l = 0; l < layers; ++l)
    for (int held = 0; held <= trace.experts(); ++held) {
      double cost = 0;
      for (std::size_t picks = 1; picks <= most; ++picks)
        if (records[l][picks] > 0)
          cost += records[l][picks] * expected_loads(trace.experts(), static_cast<int>(picks), held, beta[l]);
      costs[l].push_back(cost);
    }
  return allocate_slots(costs, slots, least);
}

/// The allocation that leaves LRU the fewest loads on demand on this trace (`on_demand_curves`), instead of the paper's
/// model of them: that one takes residency for uniform, and over many experts its costs are so nearly linear in the
/// slots that a few layers get them all. Errors as `allocate_cache`.
inline std::vector<int> allocate_by_reuse(const RoutingTrace& trace, const std::vector<double>& gate,
                                          std::span<const double> beta, int slots, int least = 0) {
  return allocate_slots(on_demand_curves(trace, gate, beta), slots, least);
}

}  // namespace moe

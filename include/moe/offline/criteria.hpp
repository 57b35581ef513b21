// What an expert is worth, from a trace of routing: how often, with how much weight, with how large an output.
#pragma once

#include <cstdint>

#include <moe/offline/prune.hpp>
#include <moe/offline/trace.hpp>
#include <moe/routing.hpp>

namespace moe {

namespace detail {
/// Sums value(record, i) over the choices i of all records, by layer and expert.
template <class Value>
ExpertScores sum_over(const RoutingTrace& trace, const Value& value) {
  ExpertScores scores(trace.layers(), trace.experts());
  for (const TraceRecord& r : trace.records())
    for (int i = 0; i < r.count; ++i) scores.at(r.layer, trace.picks(r)[i].expert) += value(r, i);
  return scores;
}
}  // namespace detail

/// Tokens that chose the expert (Kim et al. 2021; SEER-MoE's heavy hitters).
inline ExpertScores utilisation(const RoutingTrace& trace) {
  return detail::sum_over(trace, [](const TraceRecord&, int) { return 1.0; });
}

/// Sum of the expert's weights (SEER-MoE's soft count, UNCURL).
inline ExpertScores router_mass(const RoutingTrace& trace) {
  return detail::sum_over(trace,
                          [&](const TraceRecord& r, int i) { return static_cast<double>(trace.picks(r)[i].weight); });
}

/// Sum of weight * ||E(x)||: what the expert adds to the layer's output. Throws Error for a trace without norms.
inline ExpertScores weighted_norm(const RoutingTrace& trace) {
  if (!trace.has_norms())
    raise(Error("moe::weighted_norm", "norms in the trace", "TraceObserver{.norms = true}", "none"));
  return detail::sum_over(trace, [&](const TraceRecord& r, int i) {
    return static_cast<double>(trace.picks(r)[i].weight) * static_cast<double>(trace.norms(r)[i]);
  });
}

/// Uniform in [0, 1), the same for the same seed everywhere: what other criteria are compared with, and Kim et al.'s
/// way to seed a smaller model.
inline ExpertScores random_scores(int layers, int experts, std::uint64_t seed) {
  ExpertScores scores(layers, experts);
  for (int l = 0; l < layers; ++l)
    for (ExpertId e = 0; e < experts; ++e)
      scores.at(l, e) = static_cast<double>(counter_random(seed, l * experts + e, 0));
  return scores;
}

}  // namespace moe

// CATRO: the channels (experts, or hidden units of one) whose responses tell classes apart best, by trace ratio.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <moe/offline/prune.hpp>
#include <moe/offline/trace.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// Scatter of every channel: of the class means around the mean, and of the responses around their class mean.
struct Scatter {
  std::vector<double> between, within;  // [N]
};

/// Of responses [T,N], row t of class classes[t] >= 0. O(T N + C N). Throws Error if a class is negative or missing.
inline Scatter class_scatter(View<const float> responses, std::span<const int> classes) {
  require_equal("moe::class_scatter", "classes", responses.rows, static_cast<int>(classes.size()));
  int count = 0;
  for (const int c : classes) {
    if (c < 0) raise(Error("moe::class_scatter", "class of a row", "0 or more", std::to_string(c)));
    count = std::max(count, c + 1);
  }
  Scatter s;
  std::vector<double> sum(static_cast<std::size_t>(count)), size(static_cast<std::size_t>(count));
  for (const int c : classes) ++size[static_cast<std::size_t>(c)];
  for (int i = 0; i < responses.cols; ++i) {
    const auto response = [&](int t) { return static_cast<double>(responses.row(t)[i]); };
    std::fill(sum.begin(), sum.end(), 0.0);
    double total = 0, between = 0, within = 0;
    for (int t = 0; t < responses.rows; ++t) {
      sum[static_cast<std::size_t>(classes[static_cast<std::size_t>(t)])] += response(t);
      total += response(t);
    }
    for (std::size_t c = 0; c < sum.size(); ++c)
      if (size[c] > 0) {
        const double shift = sum[c] / size[c] - total / responses.rows;
        between += size[c] * shift * shift;
      }
    for (int t = 0; t < responses.rows; ++t) {
      const auto c = static_cast<std::size_t>(classes[static_cast<std::size_t>(t)]);
      const double shift = response(t) - sum[c] / size[c];
      within += shift * shift;
    }
    s.between.push_back(between);
    s.within.push_back(within);
  }
  return s;
}

/// A set of channels, its ratio (sum of between) / (sum of within), and scores whose best are this set.
struct TraceRatio {
  std::vector<ExpertId> kept;  // ascending
  double ratio = 0;            // infinite if nothing varies within classes
  std::vector<double> scores;  // between - ratio * within, at the last step
};

/// The `count` channels with the largest trace ratio of all sets of that size (Hu et al. 2021, CATRO; Wang et al.
/// 2007): lambda <- ratio(I), I <- best of between - lambda * within, until lambda grows no more. Each step but the
/// last has a larger lambda than the one before, so that the fixed point is the optimum; a handful of steps.
inline TraceRatio maximise_trace_ratio(const Scatter& s, int count) {
  TraceRatio found;
  found.scores = s.between;
  for (double lambda = 0;;) {
    found.kept = best(found.scores, count);
    double between = 0, within = 0;
    for (const ExpertId i : found.kept) {
      between += s.between[static_cast<std::size_t>(i)];
      within += s.within[static_cast<std::size_t>(i)];
    }
    found.ratio = within > 0 ? between / within : (between > 0 ? HUGE_VAL : lambda);
    if (!(found.ratio > lambda) || within == 0) return found;
    lambda = found.ratio;
    for (std::size_t i = 0; i < s.between.size(); ++i) found.scores[i] = s.between[i] - lambda * s.within[i];
  }
}

/// Scores by which keep_best(scores, count) keeps, in every layer, the experts of the largest trace ratio. An expert's
/// response to a token is its weight, times ||E(x)|| in a trace with norms, and zero if it was not chosen. `classes`
/// [records] are the caller's: next-token clusters, tasks, languages. Holds one layer's [tokens, E] at a time.
inline ExpertScores catro(const RoutingTrace& trace, std::span<const int> classes, int count) {
  require_equal("moe::catro", "classes, one per record", trace.records().size(), classes.size());
  ExpertScores scores(trace.layers(), trace.experts());
  for (int l = 0; l < trace.layers(); ++l) {
    std::vector<float> responses;
    std::vector<int> of_layer;
    for (std::size_t n = 0; n < classes.size(); ++n) {
      const TraceRecord& r = trace.records()[n];
      if (r.layer != l) continue;
      of_layer.push_back(classes[n]);
      const std::size_t row = responses.size();
      responses.resize(row + static_cast<std::size_t>(trace.experts()));
      for (int i = 0; i < r.count; ++i) {
        const Slot& pick = trace.picks(r)[i];
        responses[row + static_cast<std::size_t>(pick.expert)] =
            trace.has_norms() ? pick.weight * trace.norms(r)[i] : pick.weight;
      }
    }
    const int rows = static_cast<int>(of_layer.size());
    const TraceRatio found =
        maximise_trace_ratio(class_scatter({responses.data(), rows, trace.experts()}, of_layer), count);
    for (ExpertId e = 0; e < trace.experts(); ++e) scores.at(l, e) = found.scores[static_cast<std::size_t>(e)];
  }
  return scores;
}

}  // namespace moe

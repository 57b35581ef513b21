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

namespace detail {

/// Rows of each class, and the scatter of one channel at a time.
class ClassMeans {
 public:
  /// Throws Error if a class is negative.
  explicit ClassMeans(std::span<const int> classes) : classes_(classes) {
    for (const int c : classes) {
      if (c < 0) raise(Error("moe::class_scatter", "class of a row", "0 or more", std::to_string(c)));
      if (static_cast<std::size_t>(c) >= size_.size()) size_.resize(static_cast<std::size_t>(c) + 1);
      ++size_[static_cast<std::size_t>(c)];
    }
    mean_.resize(size_.size());
  }

  void add_channel(View<const float> responses, int channel, Scatter& to) {
    const auto response = [&](int t) { return static_cast<double>(responses.row(t)[channel]); };
    std::fill(mean_.begin(), mean_.end(), 0.0);
    double overall = 0, between = 0, within = 0;
    for (int t = 0; t < responses.rows; ++t) {
      mean_[class_of(t)] += response(t) / size_[class_of(t)];
      overall += response(t) / responses.rows;
    }
    for (std::size_t c = 0; c < mean_.size(); ++c)
      if (size_[c] > 0) between += size_[c] * (mean_[c] - overall) * (mean_[c] - overall);
    for (int t = 0; t < responses.rows; ++t) {
      const double shift = response(t) - mean_[class_of(t)];
      within += shift * shift;
    }
    to.between.push_back(between);
    to.within.push_back(within);
  }

 private:
  std::size_t class_of(int t) const { return static_cast<std::size_t>(classes_[static_cast<std::size_t>(t)]); }
  std::span<const int> classes_;
  std::vector<double> size_, mean_;
};

}  // namespace detail

/// Of responses [T,N], row t of class classes[t] >= 0. O(T N + C N). Throws Error if a class is negative or missing.
inline Scatter class_scatter(View<const float> responses, std::span<const int> classes) {
  require_equal("moe::class_scatter", "classes", responses.rows, static_cast<int>(classes.size()));
  detail::ClassMeans means(classes);
  Scatter scatter;
  for (int channel = 0; channel < responses.cols; ++channel) means.add_channel(responses, channel, scatter);
  return scatter;
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

namespace detail {

/// [records of one layer, E]: the response of every expert; `classes` are the caller's for all records.
struct LayerResponses {
  LayerResponses(const RoutingTrace& trace, int layer, std::span<const int> all_classes) : experts(trace.experts()) {
    for (std::size_t n = 0; n < all_classes.size(); ++n) {
      const TraceRecord& r = trace.records()[n];
      if (r.layer != layer) continue;
      classes.push_back(all_classes[n]);
      const std::size_t row = values.size();
      values.resize(row + static_cast<std::size_t>(experts));
      for (int i = 0; i < r.count; ++i) {
        const Slot& pick = trace.picks(r)[i];
        values[row + static_cast<std::size_t>(pick.expert)] =
            trace.has_norms() ? pick.weight * trace.norms(r)[i] : pick.weight;
      }
    }
  }
  View<const float> view() const { return {values.data(), static_cast<int>(classes.size()), experts}; }

  int experts;
  std::vector<float> values;
  std::vector<int> classes;
};

}  // namespace detail

/// Scores by which keep_best(scores, count) keeps, in every layer, the experts of the largest trace ratio. An expert's
/// response to a token is its weight, times ||E(x)|| in a trace with norms, and zero if it was not chosen. `classes`
/// [records] are the caller's: next-token clusters, tasks, languages. Holds one layer's [tokens, E] at a time.
inline ExpertScores catro(const RoutingTrace& trace, std::span<const int> classes, int count) {
  require_equal("moe::catro", "classes, one per record", trace.records().size(), classes.size());
  ExpertScores scores(trace.layers(), trace.experts());
  for (int l = 0; l < trace.layers(); ++l) {
    const detail::LayerResponses responses(trace, l, classes);
    const TraceRatio found = maximise_trace_ratio(class_scatter(responses.view(), responses.classes), count);
    for (ExpertId e = 0; e < trace.experts(); ++e) scores.at(l, e) = found.scores[static_cast<std::size_t>(e)];
  }
  return scores;
}

}  // namespace moe

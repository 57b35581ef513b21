// replay_plan: a routing trace through ExpertFlow's cache, which loads a predicted path ahead of the layers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <moe/math.hpp>
#include <moe/offline/replay.hpp>

namespace moe {

/// A predictor of whole paths that is right about each pick with probability `accuracy` and names another expert of
/// the layer otherwise.
struct PlanReplay {
  double accuracy = 1;
  std::uint64_t seed = 0;
};

namespace detail {

class PlanReplayer {
 public:
  PlanReplayer(const RoutingTrace& trace, const ReplaySlots& slots, const PlanReplay& rule)
      : trace_(trace),
        rule_(rule),
        starts_(trace_starts(trace)),
        state_(trace),
        pools_(slots, trace),
        mass_(state_.size()),
        guessed_(state_.size()) {}

  ReplayCounts run() {
    for (std::size_t r = 0; r < starts_.size(); ++r) {
      const TraceRecord& record = trace_.records()[r];
      if (starts_[r].pass) predict(r);
      if (starts_[r].layer) {
        refill(record.layer);
        correct(r);
      }
      state_.begin(starts_[r], trace_, record, record.count);
      counts_.picks += static_cast<std::uint64_t>(record.count);
      for (const Slot& pick : trace_.picks(record)) serve(state_.id(record.layer, pick.expert));
      state_.end_record();
    }
    counts_.prefetch_wasted = counts_.prefetched - counts_.prefetch_used;
    counts_.high_loads = counts_.loads;
    return counts_;
  }

 private:
  /// The path of the pass that begins with record `first`: by layer, then by the weight predicted for the expert.
  void predict(std::size_t first) {
    path_.clear();
    std::fill(mass_.begin(), mass_.end(), 0.0);
    for (std::size_t r = first; r < starts_.size() && (r == first || !starts_[r].pass); ++r) {
      const TraceRecord& record = trace_.records()[r];
      const Shares shares(trace_, record);
      for (int i = 0; i < record.count; ++i) {
        const std::size_t id = state_.id(record.layer, guess(trace_.picks(record)[i].expert));
        if (mass_[id] == 0) path_.push_back(id);
        mass_[id] += shares[i] + 1e-9;  // a predicted expert of no weight is predicted all the same
      }
    }
    std::sort(path_.begin(), path_.end(), [&](std::size_t a, std::size_t b) {
      const int layer_a = state_.entry(a).layer, layer_b = state_.entry(b).layer;
      if (layer_a != layer_b) return layer_a < layer_b;
      return mass_[a] != mass_[b] ? mass_[a] > mass_[b] : a < b;
    });
  }
  ExpertId guess(ExpertId truth) noexcept {
    const std::uint64_t coin = next_random(random_);
    if (static_cast<double>(coin >> 11) * 0x1p-53 < rule_.accuracy || trace_.experts() < 2) return truth;
    const auto other = static_cast<ExpertId>(next_random(random_) % static_cast<std::uint64_t>(trace_.experts() - 1));
    return other < truth ? other : other + 1;
  }

  /// Layer `layer` is next: plans as much of the path from there on as the slots hold, and loads what is missing of it.
  void refill(int layer) {
    state_.set_layer(layer);
    std::vector<int> room;
    for (std::size_t p = 0; p < pools_.pools(); ++p) room.push_back(pools_.limit(p));
    for (std::size_t id = 0; id < state_.size(); ++id) state_.entry(id).planned = false;
    std::vector<std::size_t> missing;
    for (const std::size_t id : path_) {
      if (state_.entry(id).layer < layer || room[pools_.pool(id)] == 0) continue;
      --room[pools_.pool(id)];
      state_.entry(id).planned = true;
      if (!pools_.holds(id)) missing.push_back(id);
    }
    for (const std::size_t id : missing) {
      std::size_t gone = none;
      const auto may_go = [&](std::size_t other) { return !state_.entry(other).planned; };
      const ReplayPools::Place place = pools_.insert(id, state_, ByPlan{}, may_go, gone);
      if (place == ReplayPools::Place::freed) give_up(gone);
      guessed_[id] = true;
      ++counts_.prefetched;
      ++counts_.loads;
    }
  }
  /// The router of the layer that begins with record `first` has spoken: its experts are wanted, wrong guesses are not.
  void correct(std::size_t first) {
    const int layer = trace_.records()[first].layer;
    for (ExpertId e = 0; e < trace_.experts(); ++e) state_.entry(state_.id(layer, e)).planned = false;
    for (std::size_t r = first; r < starts_.size() && (r == first || !starts_[r].layer); ++r)
      for (const Slot& pick : trace_.picks(trace_.records()[r]))
        state_.entry(state_.id(layer, pick.expert)).planned = true;
  }

  void serve(std::size_t id) {
    const bool hit = pools_.holds(id);
    state_.use(id, ByPlan{}, true);
    if (hit) {
      ++counts_.hits;
      if (guessed_[id]) ++counts_.prefetch_used;
      guessed_[id] = false;
      return;
    }
    ++counts_.loads;
    std::size_t gone = none;
    const auto may_go = [&](std::size_t other) { return !state_.wanted(other); };
    const ReplayPools::Place place = pools_.insert(id, state_, ByPlan{}, may_go, gone);
    if (place == ReplayPools::Place::freed) give_up(gone);
    if (place == ReplayPools::Place::none) ++counts_.streamed;
  }
  void give_up(std::size_t id) {
    ++counts_.evictions;
    guessed_[id] = false;
  }

  static constexpr std::size_t none = 0;
  const RoutingTrace& trace_;
  const PlanReplay& rule_;
  std::uint64_t random_ = rule_.seed;
  std::vector<TraceStart> starts_;
  ReplayState state_;
  ReplayPools pools_;
  ReplayCounts counts_;
  std::vector<std::size_t> path_;  // of the pass
  std::vector<double> mass_;       // predicted weight of each expert in the pass
  std::vector<bool> guessed_;      // loaded ahead, and not used since
};

}  // namespace detail

/// As `replay`, with ExpertFlow's plan (He et al. 2024, section 3): before a pass through the layers a predictor names
/// its experts; as many as the slots hold are loaded ahead, in the order of layers and of their predicted weight. After
/// every layer the slots of what is over take the next of the path. When a layer's router has spoken, wrong guesses are
/// the first victims of what is missing, then experts of layers that are over (`ByPlan`). Without limit of bandwidth:
/// a prefetch always arrives in time. Throws Error for an accuracy outside 0 to 1.
/// O(picks * (1 + slots of a pool) + layers of all passes * L E).
inline ReplayCounts replay_plan(const RoutingTrace& trace, const ReplaySlots& slots, const PlanReplay& rule = {}) {
  if (!(rule.accuracy >= 0 && rule.accuracy <= 1))
    raise(Error("moe::replay_plan", "accuracy", "0 to 1", std::to_string(rule.accuracy)));
  return detail::PlanReplayer(trace, slots, rule).run();
}

}  // namespace moe

// Routes: which experts each row wants, step by step; and what a predictor of a given accuracy says of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <moe/offline/trace.hpp>
#include <moe/routers/sensitivity_skip.hpp>

namespace offload {

inline std::size_t index(int i) { return static_cast<std::size_t>(i); }

/// The routing tables of some steps. In each step a batch of sequences computes one token each, in every layer.
class Routes {
 public:
  Routes(int layers, int experts, int k, int batch) : layers_(layers), experts_(experts), k_(k), batch_(batch) {}

  /// The first `steps` steps of a trace (fewer if it ends): sequences side by side, `batch` of them, each group as long
  /// as its shortest.
  static Routes of(const moe::RoutingTrace& trace, int batch, int steps) {
    std::map<int, std::map<int, std::vector<const moe::TraceRecord*>>> sequences;  // [sequence][token][layer]
    for (const moe::TraceRecord& r : trace.records()) {
      auto& layers = sequences[r.sequence][r.token];
      layers.resize(index(trace.layers()), nullptr);
      layers[index(r.layer)] = &r;
    }
    Routes routes(trace.layers(), trace.experts(), trace.k(), batch);
    std::vector<std::vector<std::vector<const moe::TraceRecord*>>> group;
    for (const auto& [id, tokens] : sequences) {
      group.emplace_back();
      for (const auto& [token, layers] : tokens) group.back().push_back(layers);
      if (static_cast<int>(group.size()) < batch) continue;
      routes.append(trace, group, steps);
      group.clear();
    }
    if (routes.steps() == 0)
      moe::raise(moe::Error("offload_bench", "sequences of the trace", moe::concat("at least ", batch),
                            std::to_string(sequences.size())));
    return routes;
  }

  int layers() const noexcept { return layers_; }
  int experts() const noexcept { return experts_; }
  int k() const noexcept { return k_; }
  int batch() const noexcept { return batch_; }
  int steps() const noexcept { return static_cast<int>(begins_.size()); }
  /// Whether new sequences begin with this step.
  bool begins(int step) const { return begins_[index(step)] != 0; }
  moe::RoutingTable<> table(int step, int layer) {
    const int row = first_row(step, layer);
    return {{slots_.data() + index(row) * index(k_), batch_, k_}, counts_.data() + row};
  }
  moe::Row<const moe::Slot> picks(int row) const {
    return {slots_.data() + index(row) * index(k_), counts_[index(row)]};
  }
  int rows() const noexcept { return static_cast<int>(counts_.size()); }
  int first_row(int step, int layer) const noexcept { return (step * layers_ + layer) * batch_; }
  int layer_of(int row) const noexcept { return row / batch_ % layers_; }

  /// Each pick stays with probability `accuracy`, and is replaced by an expert that the row does not want otherwise.
  Routes guessed(double accuracy) const {
    Routes out = *this;
    for (int row = 0; row < rows(); ++row) {
      const moe::Row<moe::Slot> guess{out.slots_.data() + index(row) * index(k_), counts_[index(row)]};
      for (int i = 0; i < guess.size(); ++i) {
        if (random(row, 2 * i) < accuracy) continue;
        auto e = static_cast<moe::ExpertId>(random(row, 2 * i + 1) * static_cast<float>(experts_));
        for (int tries = 0; tries < experts_ && (holds(picks(row), e) || holds(guess, e)); ++tries)
          e = (e + 1) % experts_;
        guess[i].expert = e;
      }
    }
    return out;
  }

  /// What AdapMoE's gate leaves of them, with one threshold for each layer.
  Routes gated(const std::vector<float>& thresholds) const {
    Routes out = *this;
    for (int row = 0; row < rows(); ++row) {
      const moe::SensitivitySkip<Given> gate{{picks(row)}, thresholds[index(layer_of(row))]};
      out.counts_[index(row)] = gate.select({}, {out.slots_.data() + index(row) * index(k_), k_});
    }
    return out;
  }

  /// As records, each step a token of every sequence.
  moe::RoutingTrace trace() const {
    moe::RoutingTrace out(layers_, experts_, k_);
    for (int row = 0; row < rows(); ++row) out.add(row % batch_, row / batch_ / layers_, layer_of(row), picks(row));
    return out;
  }

  double picks_per_row() const {
    double sum = 0;
    for (const int count : counts_) sum += count;
    return sum / static_cast<double>(counts_.size());
  }

 private:
  /// A router whose choice stands.
  struct Given {
    moe::Row<const moe::Slot> row;
    int num_logits() const noexcept { return 0; }
    int num_experts() const noexcept { return 0; }
    int max_slots() const noexcept { return row.size(); }
    int select(const moe::RowContext&, moe::Row<moe::Slot> out) const noexcept {
      std::copy(row.begin(), row.end(), out.begin());
      return row.size();
    }
  };

  void append(const moe::RoutingTrace& trace,
              const std::vector<std::vector<std::vector<const moe::TraceRecord*>>>& group, int steps) {
    std::size_t length = group[0].size();
    for (const auto& sequence : group) length = std::min(length, sequence.size());
    for (std::size_t token = 0; token < length && this->steps() < steps; ++token) {
      begins_.push_back(token == 0 ? 1 : 0);
      for (std::size_t layer = 0; layer < index(layers_); ++layer)
        for (const auto& sequence : group) append_row(trace, sequence[token][layer]);
    }
  }
  void append_row(const moe::RoutingTrace& trace, const moe::TraceRecord* record) {
    const moe::Row<const moe::Slot> picks = record != nullptr ? trace.picks(*record) : moe::Row<const moe::Slot>{};
    counts_.push_back(picks.size());
    slots_.insert(slots_.end(), picks.begin(), picks.end());
    slots_.resize(counts_.size() * index(k_));
  }
  static float random(int row, int salt) { return moe::counter_random(11, row, static_cast<std::uint32_t>(salt)); }
  template <class Slots>
  static bool holds(const Slots& slots, moe::ExpertId e) {
    return std::any_of(slots.begin(), slots.end(), [e](const moe::Slot& s) { return s.expert == e; });
  }

  int layers_, experts_, k_, batch_;
  std::vector<moe::Slot> slots_;  // [steps, layers, batch, k]
  std::vector<int> counts_;       // [steps, layers, batch]
  std::vector<char> begins_;      // [steps]
};

/// Thresholds at which AdapMoE's gate leaves a share of the picks: tau_l = sqrt(T / S_l), with sensitivities that fall
/// from layer to layer as those that AdapMoE ships for Mixtral-8x7B do from its first layer (46.7) to its last
/// (0.0229).
inline std::vector<float> adapmoe_thresholds(const Routes& routes, double share_left) {
  const double before = routes.picks_per_row();
  const auto thresholds = [&](double log_budget) {
    std::vector<float> out;
    for (int l = 0; l < routes.layers(); ++l) {
      const double depth = routes.layers() > 1 ? static_cast<double>(l) / (routes.layers() - 1) : 0;
      const double sensitivity = 46.7 * std::pow(0.0229 / 46.7, depth);
      out.push_back(
          moe::sensitivity_threshold(static_cast<float>(std::exp(log_budget)), static_cast<float>(sensitivity)));
    }
    return out;
  };
  double low = std::log(1e-8), high = std::log(1e2);
  for (int i = 0; i < 40; ++i) {
    const double middle = (low + high) / 2;
    (routes.gated(thresholds(middle)).picks_per_row() > share_left * before ? low : high) = middle;
  }
  return thresholds(low);
}

}  // namespace offload

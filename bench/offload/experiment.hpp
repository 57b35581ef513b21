// Experiment: runs techniques over the same routing, times each step, and compares outputs with the resident model's.
#pragma once

#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include <moe/offline/cache_allocation.hpp>
#include <moe/prefetch.hpp>

#include "techniques.hpp"

namespace offload {

/// Of the measured steps, all in all.
struct Figures {
  double seconds = 0;
  moe::CacheStatistics cache;
  std::vector<float> y;  // [steps, layers, batch, hidden]
};

struct Schedule {
  int warmup = 0, steps = 0;  // measured steps come after the warm-up
  double between_s = 0;       // of other work behind every layer, in which the disk may read
};

class Experiment {
 public:
  /// AdapMoE's gate leaves 1.75 of 2 picks, as its authors report for Mixtral.
  static constexpr double share_left = 0.875;

  Experiment(const Setup& setup, const moe::RoutingTrace& trace, const Schedule& schedule)
      : setup_(setup),
        schedule_(schedule),
        truth_(Routes::of(trace, setup.rows, schedule.warmup + schedule.steps)),
        gated_(truth_.gated(adapmoe_thresholds(truth_, share_left))),
        x_(random_inputs()) {
    if (truth_.steps() < schedule.warmup + schedule.steps)
      moe::raise(moe::Error("offload_bench", "steps of the trace", std::to_string(schedule.warmup + schedule.steps),
                            std::to_string(truth_.steps())));
  }

  const Setup& setup() const noexcept { return setup_; }
  const Schedule& schedule() const noexcept { return schedule_; }
  void set_between(double seconds) noexcept { schedule_.between_s = seconds; }
  int tokens() const noexcept { return schedule_.steps * setup_.rows; }

  /// A model of its own, its cache cold before the warm-up, gone afterwards.
  Figures run(const Technique& t, std::size_t bytes) {
    const std::unique_ptr<Model> model = make_model(setup_, t, bytes, allocation(t, bytes));
    return run(*model, t);
  }

  Figures run(Model& model, const Technique& t) {
    if (t.access == moe::Access::buffered) setup_.file->drop_from_page_cache();
    Figures out;
    out.y.resize(static_cast<std::size_t>(schedule_.steps) * step_size());
    std::vector<float> unmeasured(step_size());
    Routes* const guesses = t.guesses() ? &guessed(t) : nullptr;
    moe::CacheStatistics before = model.statistics();
    for (int step = 0; step < schedule_.warmup + schedule_.steps; ++step) {
      const int measured = step - schedule_.warmup;
      if (measured == 0) before = model.statistics();
      if (t.access == moe::Access::buffered) setup_.file->drop_from_page_cache();
      float* const y =
          measured < 0 ? unmeasured.data() : out.y.data() + static_cast<std::size_t>(measured) * step_size();
      const auto begin = std::chrono::steady_clock::now();
      pass(model, t, guesses, step, y);
      if (measured >= 0) out.seconds += seconds_since(begin);
    }
    out.cache = difference(model.statistics(), before);
    return out;
  }

 private:
  std::size_t layer_size() const {
    return static_cast<std::size_t>(setup_.rows) * static_cast<std::size_t>(setup_.file->sizes().hidden);
  }
  std::size_t step_size() const { return static_cast<std::size_t>(setup_.layers) * layer_size(); }

  Routes& routes(const Technique& t) { return t.gated ? gated_ : truth_; }
  Routes& guessed(const Technique& t) {
    const auto key = std::pair{t.gated, t.accuracy};
    return guesses_.try_emplace(key, routes(t).guessed(t.accuracy)).first->second;
  }

  /// Slots of each layer, where layers have their own.
  std::vector<int> allocation(const Technique& t, std::size_t bytes) const {
    if (!t.own_slots) return {};
    const int slots = static_cast<int>(bytes / setup_.record_bytes());
    const int kept = std::max(0, slots - staging_slots(slots, setup_.k));
    if (t.gated) {
      const std::vector<double> beta(index(setup_.layers), t.accuracy);
      return t.by_paper ? moe::allocate_cache(gated_.trace(), {}, beta, kept)
                        : moe::allocate_by_reuse(gated_.trace(), {}, beta, kept);
    }
    std::vector<int> even(index(setup_.layers), kept / setup_.layers);
    for (int l = 0; l < kept % setup_.layers; ++l) ++even[index(l)];
    return even;
  }

  /// One step through the layers, y [layers, batch, hidden].
  void pass(Model& model, const Technique& t, Routes* guesses, int step, float* y) {
    if (truth_.begins(step)) model.begin_sequence();
    if (t.plan && planned_ != step) model.plan(path(*guesses, step));
    for (int l = 0; l < setup_.layers; ++l) {
      moe::prefetch_ahead(t.horizon, [&](int ahead) { return prefetch(model, *guesses, step, l + 1 + ahead); });
      moe::RoutingTable<> table = routes(t).table(step, l);
      model.forward(l, {.x = input(step, l),
                        .y = {y + static_cast<std::size_t>(l) * layer_size(), setup_.rows, setup_.file->sizes().hidden},
                        .table = table});
      if (t.plan && l + 1 == setup_.layers && step + 1 < guesses->steps()) {  // batches are planned while others run
        model.plan(path(*guesses, step + 1));
        planned_ = step + 1;
      }
      work(schedule_.between_s);
    }
  }
  /// Layers beyond the last are those of the next step, as for AdapMoE's gate for the first layer.
  int prefetch(Model& model, Routes& guesses, int step, int layer) {
    const int of_step = step + layer / setup_.layers, l = layer % setup_.layers;
    if (of_step >= guesses.steps()) return 1;
    moe::RoutingTable<> table = guesses.table(of_step, l);
    return model.prefetch(l, {.x = input(of_step, l), .table = table});
  }
  std::vector<moe::PlannedExpert> path(Routes& guesses, int step) {
    std::vector<moe::PlannedExpert> uses;
    for (int l = 0; l < setup_.layers; ++l) {
      std::map<moe::ExpertId, float> weights;
      for (int row = 0; row < setup_.rows; ++row)
        for (const moe::Slot& pick : guesses.picks(guesses.first_row(step, l) + row))
          weights[pick.expert] += pick.weight;
      for (const auto& [expert, weight] : weights) uses.push_back({l, expert, weight});
    }
    return uses;
  }
  moe::View<const float> input(int step, int layer) const {
    const std::size_t first = index(step * setup_.layers + layer) % inputs * layer_size();
    return {x_.data() + first, setup_.rows, setup_.file->sizes().hidden};
  }
  std::vector<float> random_inputs() const {
    std::vector<float> x(inputs * layer_size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 2 * moe::counter_random(5, static_cast<int>(i), 0) - 1;
    return x;
  }
  /// Keeps this core busy.
  static void work(double seconds) {
    const auto begin = std::chrono::steady_clock::now();
    while (seconds > 0 && seconds_since(begin) < seconds) {
    }
  }
  static moe::CacheStatistics difference(moe::CacheStatistics a, const moe::CacheStatistics& b) {
    for (std::uint64_t moe::CacheStatistics::*field :
         {&moe::CacheStatistics::hits, &moe::CacheStatistics::misses, &moe::CacheStatistics::skipped,
          &moe::CacheStatistics::streamed, &moe::CacheStatistics::evictions, &moe::CacheStatistics::loads,
          &moe::CacheStatistics::bytes_read, &moe::CacheStatistics::prefetched, &moe::CacheStatistics::prefetched_used,
          &moe::CacheStatistics::prefetched_wasted, &moe::CacheStatistics::stalls, &moe::CacheStatistics::stall_ns})
      a.*field -= b.*field;
    for (std::size_t f = 0; f < a.loads_by_format.size(); ++f) a.loads_by_format[f] -= b.loads_by_format[f];
    return a;
  }

  static constexpr std::size_t inputs = 16;
  int planned_ = -1;  // the step that the newest plan is for

  Setup setup_;
  Schedule schedule_;
  Routes truth_;
  Routes gated_;
  std::map<std::pair<bool, double>, Routes> guesses_;
  std::vector<float> x_;
};

/// Relative distance in the Euclidean norm; 0 only if all bits are equal.
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  if (std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0) return 0;
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    apart += d * d;
    size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  const double relative = std::sqrt(apart / size);
  return relative > 0 ? relative : 1e-30;
}

}  // namespace offload

// Technique: one way of living with fewer bytes than the experts have, as an option list for the library's policies.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <moe/storage/eviction.hpp>

#include "models.hpp"
#include "routes.hpp"

namespace offload {

enum class Kind { resident, cached, mixed, ring };

struct Technique {
  std::string name;
  Kind kind = Kind::cached;
  moe::AnyEviction eviction = moe::Lru{};
  bool own_slots = false;  // every layer has its share of the budget
  bool gated = false;      // AdapMoE: fewer picks, and slots by its dynamic programming
  bool by_paper = false;   // over the paper's model of what a cache misses, not over what LRU missed on this routing
  int horizon = 0;         // layers ahead whose experts are guessed
  bool plan = false;       // the whole pass is guessed before its first layer
  double accuracy = 0;     // of the guesses, per pick
  bool one_wave = false;   // the budget is what one token needs in one layer: nothing is kept
  moe::Access access = moe::Access::direct;
  int sections = 0;  // of the ring

  bool guesses() const noexcept { return horizon > 0 || plan; }
  /// Whether its output must be that of the resident model, bit for bit.
  bool exact() const noexcept { return kind != Kind::mixed; }
  /// Whether it is another one for another budget.
  bool budgeted() const noexcept { return kind != Kind::resident && kind != Kind::ring && !one_wave; }
};

/// All techniques of a budget. Guesses of the next layer are tried at three accuracies (AdapMoE and HOBBIT report 0.86
/// and 0.96), those of a whole pass at ExpertFlow's 0.9 too.
inline std::vector<Technique> all_techniques() {
  std::vector<Technique> all;
  const auto add = [&](Technique t) { all.push_back(std::move(t)); };
  add({.name = "resident", .kind = Kind::resident});
  add({.name = "on-demand", .one_wave = true});
  add({.name = "buffered-lru", .access = moe::Access::buffered});
  add({.name = "lru"});
  add({.name = "lru-per-layer", .own_slots = true});
  add({.name = "lfu", .eviction = moe::Lfu{}});
  for (const double accuracy : {1.0, 0.9, 0.8}) add({.name = "next-layer", .horizon = 3, .accuracy = accuracy});
  add({.name = "hobbit", .kind = Kind::mixed, .eviction = moe::Multidimensional{}});
  add({.name = "hobbit", .kind = Kind::mixed, .eviction = moe::Multidimensional{}, .horizon = 2, .accuracy = 0.9});
  add({.name = "lru-per-layer", .own_slots = true, .horizon = 1, .accuracy = 0.86});  // beside AdapMoE
  add({.name = "adapmoe", .own_slots = true, .gated = true});
  add({.name = "adapmoe", .own_slots = true, .gated = true, .horizon = 1, .accuracy = 0.86});
  add({.name = "adapmoe-paper", .own_slots = true, .gated = true, .by_paper = true, .horizon = 1, .accuracy = 0.86});
  for (const double accuracy : {1.0, 0.9})
    add({.name = "expertflow", .eviction = moe::ByPlan{}, .plan = true, .accuracy = accuracy});
  return all;
}

/// Its name, and the accuracy of its guesses: "next-layer 0.9".
inline std::string label(const Technique& t) {
  if (!t.guesses()) return t.name;
  std::string accuracy = std::to_string(t.accuracy).substr(0, 4);
  if (accuracy.back() == '0') accuracy.pop_back();
  return t.name + " " + accuracy;
}

/// Whether the budget holds one record of each precision.
inline bool fits(const Setup& setup, const Technique& t, std::size_t bytes) {
  const moe::ExpertShape shape{setup.file->sizes().hidden, setup.file->sizes().ffn};
  const std::size_t low = moe::round_up(moe::PanelLayout::record_bytes<Low>(shape), moe::page_alignment);
  return bytes >= setup.record_bytes() + (t.kind == Kind::mixed ? low : 0);
}

/// Room for experts of layers whose slots are taken, out of the same budget.
inline int staging_slots(int slots, int k) { return std::clamp(slots / 8, 1, k); }

inline moe::CacheOptions cache_options(const Setup& setup, const Technique& t, std::size_t bytes,
                                       const std::vector<int>& allocation) {
  moe::CacheOptions options{.bytes = bytes};
  if (t.one_wave) options.bytes = static_cast<std::size_t>(setup.k) * setup.record_bytes();
  if (!t.own_slots) return options;
  options.staging_slots = staging_slots(static_cast<int>(options.bytes / setup.record_bytes()), setup.k);
  options.slots_by_layer = allocation;
  return options;
}

inline std::unique_ptr<Model> make_model(const Setup& setup, const Technique& t, std::size_t bytes,
                                         const std::vector<int>& allocation) {
  if (t.kind == Kind::resident) return resident_model(setup);
  if (t.kind == Kind::ring) return ring_model(setup, t.sections);
  const moe::ExpertCache cache{cache_options(setup, t, bytes, allocation), t.eviction};
  if (t.kind == Kind::mixed) return mixed_model(setup, cache);
  return cached_model(setup, cache, t.access);
}

}  // namespace offload

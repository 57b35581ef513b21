// Which expert a full cache gives up: score functions, nothing else.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <memory>
#include <utility>

#include <moe/expert.hpp>

namespace moe {

/// What a cache remembers of one expert of one layer, resident or not. All counts but `last_use` begin anew with a
/// sequence (`ExpertCache::begin_sequence`), and survive evictions.
struct CacheEntry {
  int layer = -1;
  ExpertId expert = -1;
  std::uint64_t last_use = 0;    // CacheClock::use of the newest use; 0: never
  std::uint64_t last_token = 0;  // CacheClock::token of the newest use; 0: none in this sequence
  std::uint64_t uses = 0;        // in this sequence
  std::uint64_t high_uses = 0;   // those served by the most precise copy
  double heat = 0;               // what an eviction's `used` makes of it
  bool planned = false;          // a plan (ExpertCache::plan) names it, and its layer is still to come
};

/// When and for whom room is needed.
struct CacheClock {
  std::uint64_t use = 0;    // uses so far, over all layers
  std::uint64_t token = 0;  // of this sequence, from 1; a pass through the layers is one token
  int layer = 0;            // that needs the room
  int layers = 1;           // that share the cache
};

/// The expert with the lowest `keep_score` goes; of equal ones, that with the older use.
/// Hook: `void used(CacheEntry&, const CacheClock&) const noexcept`, at every use, before its times and counts move,
/// for what `heat` shall be.
// clang-format off
template <class E>
concept Eviction = std::copyable<E> && requires(const E e, const CacheEntry& entry, const CacheClock& clock) {
  { e.keep_score(entry, clock) } noexcept -> std::same_as<double>;
};
// clang-format on

/// Layers that are computed before `entry`'s turn comes, if `clock.layer` is computed now: 0 for that layer itself.
inline int layers_ahead(const CacheEntry& entry, const CacheClock& clock) noexcept {
  return (entry.layer - clock.layer + clock.layers) % clock.layers;
}

/// Least recently used.
struct Lru {
  double keep_score(const CacheEntry& entry, const CacheClock&) const noexcept {
    return static_cast<double>(entry.last_use);
  }
};

/// Least frequently used in this sequence. `decay` multiplies all counts at every `period`-th use, before that use
/// counts: 1 is the plain count, less forgets (SE-MoE, Shen et al. 2022, algorithm 2).
struct Lfu {
  double decay = 1;
  std::uint64_t period = 1024;

  double keep_score(const CacheEntry& entry, const CacheClock& clock) const noexcept {
    return decay == 1 ? static_cast<double>(entry.uses) : entry.heat * faded(entry.last_use, clock.use);
  }
  /// `heat` is the count as it stood at the newest use.
  void used(CacheEntry& entry, const CacheClock& clock) const noexcept {
    if (decay != 1) entry.heat = 1 + (entry.uses > 0 ? entry.heat * faded(entry.last_use, clock.use) : 0);
  }

 private:
  double faded(std::uint64_t then, std::uint64_t now) const noexcept {
    return std::pow(decay, static_cast<double>(now / period - then / period));
  }
};

/// The layer that is computed last from now on gives way first; HOBBIT's fourth term alone. On a routing that never
/// changes it is as good as knowing the future, where LRU over all layers finds nothing.
struct FurthestLayer {
  double keep_score(const CacheEntry& entry, const CacheClock& clock) const noexcept {
    return -layers_ahead(entry, clock);
  }
};

/// HOBBIT's priority (Tang et al. 2024, section 3.4): recency, frequency, frequency at high precision, all of this
/// sequence and per token of it, and nearness of the expert's layer. The weights should sum to 1.
struct Multidimensional {
  double recency = 0.25, frequency = 0.25, high_frequency = 0.25, nearness = 0.25;

  double keep_score(const CacheEntry& entry, const CacheClock& clock) const noexcept {
    const double tokens = clock.token > 0 ? static_cast<double>(clock.token) : 1;
    const double near = 1 - static_cast<double>(layers_ahead(entry, clock)) / clock.layers;
    return (recency * static_cast<double>(entry.last_token) + frequency * static_cast<double>(entry.uses) +
            high_frequency * static_cast<double>(entry.high_uses)) /
               tokens +
           nearness * near;
  }
};

/// MoE-APEX's cost of a miss (the successor of HOBBIT, ASPLOS 2026): uses at high precision count one, others what
/// their bytes cost in comparison; experts used in the last pass stay; of equals the nearer layer stays. How the paper
/// joins these could not be read: this order is our reading.
struct MissCost {
  double low_cost = 0.25;  // bytes of the less precise record over those of the most precise one

  double keep_score(const CacheEntry& entry, const CacheClock& clock) const noexcept {
    const double tokens = clock.token > 0 ? static_cast<double>(clock.token) : 1;
    // A sequence may begin between a use and its serving: then there are more of the latter.
    const std::uint64_t low_uses = entry.uses > entry.high_uses ? entry.uses - entry.high_uses : 0;
    const double cost = static_cast<double>(entry.high_uses) + low_cost * static_cast<double>(low_uses);
    const bool in_last_pass = entry.last_token != 0 && entry.last_token + 1 >= clock.token;
    constexpr double tie_break = 1e-9;
    return cost / tokens + (in_last_pass ? 1 : 0) + tie_break / (layers_ahead(entry, clock) + 0.1);
  }
};

/// ExpertFlow's cache (He et al. 2024): what no plan names goes first: experts of this layer, then of layers that are
/// over, then of others; of what is planned, the layer that comes last. Experts that were planned wrongly lose their
/// mark when their layer is routed.
struct ByPlan {
  double keep_score(const CacheEntry& entry, const CacheClock& clock) const noexcept {
    const int ahead = layers_ahead(entry, clock);
    if (entry.planned) return 2 * clock.layers - ahead;
    return ahead == 0 ? 0 : clock.layers - ahead;
  }
};

/// Any eviction behind two function pointers; copies share the policy.
class AnyEviction {
 public:
  template <class E>
  requires(!std::same_as<E, AnyEviction>) AnyEviction(E eviction) {
    static_assert(Eviction<E>,
                  "moe::Eviction: needs `double keep_score(const CacheEntry&, const CacheClock&) const noexcept` "
                  "(docs/policies.md#eviction)");
    if constexpr (Eviction<E>) {
      policy_ = std::make_shared<const E>(std::move(eviction));
      score_ = [](const void* policy, const CacheEntry& entry, const CacheClock& clock) noexcept {
        return static_cast<const E*>(policy)->keep_score(entry, clock);
      };
      if constexpr (requires(const E e, CacheEntry& entry, CacheClock clock) { e.used(entry, clock); })
        used_ = [](const void* policy, CacheEntry& entry, const CacheClock& clock) noexcept {
          static_cast<const E*>(policy)->used(entry, clock);
        };
    }
  }
  double keep_score(const CacheEntry& entry, const CacheClock& clock) const noexcept {
    return score_(policy_.get(), entry, clock);
  }
  void used(CacheEntry& entry, const CacheClock& clock) const noexcept {
    if (used_ != nullptr) used_(policy_.get(), entry, clock);
  }

 private:
  std::shared_ptr<const void> policy_;
  double (*score_)(const void*, const CacheEntry&, const CacheClock&) noexcept = nullptr;
  void (*used_)(const void*, CacheEntry&, const CacheClock&) noexcept = nullptr;
};

}  // namespace moe

// Which expert a full cache gives up: score functions, nothing else.
#pragma once

#include <cstdint>

#include <moe/expert.hpp>

namespace moe {

/// What a cache remembers of one resident expert. Time counts uses of the cache, over all its layers.
struct CacheEntry {
  ExpertId expert = -1;
  std::uint64_t last_use = 0;
  std::uint64_t uses = 0;  // since it was loaded
};

/// The expert with the lowest `keep_score` goes.
// clang-format off
template <class E>
concept Eviction = requires(const E e, const CacheEntry& entry, std::uint64_t now) {
  { e.keep_score(entry, now) } noexcept -> std::same_as<double>;
};
// clang-format on

/// Least recently used.
struct Lru {
  double keep_score(const CacheEntry& entry, std::uint64_t) const noexcept {
    return static_cast<double>(entry.last_use);
  }
};

}  // namespace moe

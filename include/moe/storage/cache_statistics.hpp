// CacheStatistics: what a cache counts.
#pragma once

#include <array>
#include <cstdint>

namespace moe {

inline constexpr int max_cached_formats = 4;

/// Since construction. Every need that was served is a hit, a miss or skipped. Taken together, because a hit rate
/// without bytes and stalls misleads: prefetching raises it while more is read.
struct CacheStatistics {
  std::uint64_t hits = 0, misses = 0, skipped = 0;
  std::uint64_t streamed = 0, evictions = 0;  // misses that were not kept; records given up
  std::uint64_t loads = 0, bytes_read = 0;    // demanded and prefetched
  std::uint64_t prefetched = 0, prefetched_used = 0, prefetched_wasted = 0;  // loads by guess; used; given up unused
  std::uint64_t needed = 0, predicted = 0, predicted_right = 0;              // in calls that a guess preceded
  std::uint64_t stalls = 0, stall_ns = 0;  // times a call waited for a load, and how long
  std::array<std::uint64_t, max_cached_formats> loads_by_format{};
};

}  // namespace moe

// Xxh3: checksums of records by XXH3, for File and RecordWriter. Component moelayer::xxhash.
#pragma once

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <moe/config.hpp>

namespace moe::io {

// xxhash.h is compiled for the flags of each translation unit.
inline namespace MOE_BASELINE {

/// The 64-bit XXH3 hash with seed 0 (Collet's XXH3, specification 0.2.0) of all bytes of a record. Finds faults of
/// disks and half-written files, not forgeries.
struct Xxh3 {
  static constexpr std::string_view name = "xxh3_64";
  static std::uint64_t of(std::span<const std::byte> bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }
};

}  // namespace MOE_BASELINE
}  // namespace moe::io

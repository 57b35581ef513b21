// CacheHistory: when and how often each expert of a cache's layers was used. No slots, no choice of who goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <moe/storage/eviction.hpp>

namespace moe::detail {

/// The entry of every expert, and the time by which uses are dated. Experts have numbers: those of the first layer from
/// 0, then those of the next.
class CacheHistory {
 public:
  void add_layer(int experts) {
    const int layer = layers();
    first_.push_back(entries_.size());
    for (ExpertId e = 0; e < experts; ++e) {
      CacheEntry entry;
      entry.layer = layer;
      entry.expert = e;
      entries_.push_back(entry);
    }
  }
  int layers() const noexcept { return static_cast<int>(first_.size()); }
  std::size_t experts() const noexcept { return entries_.size(); }  // of all layers
  std::size_t number(int layer, ExpertId e) const noexcept {
    return first_[static_cast<std::size_t>(layer)] + static_cast<std::size_t>(e);
  }
  const CacheEntry& operator[](std::size_t number) const noexcept { return entries_[number]; }
  CacheEntry& operator[](std::size_t number) noexcept { return entries_[number]; }
  CacheClock clock(int layer) const noexcept { return {use_, token_, layer, layers()}; }

  /// Counts begin anew; the order of last uses goes on.
  void begin_sequence() noexcept {
    token_ = 0;
    for (CacheEntry& entry : entries_) {
      entry.last_token = entry.uses = entry.high_uses = 0;
      entry.heat = 0;
    }
  }
  /// A pass through the layers: one token of the sequence.
  void begin_pass() noexcept { ++token_; }
  /// A call of `layer`. One that lies no deeper than the call before, or is the first of its sequence, begins a pass.
  void begin_call(int layer) noexcept {
    if (layer <= last_layer_ || token_ == 0) begin_pass();
    last_layer_ = layer;
  }
  /// The next use, of any layer, is of this expert.
  template <class E>
  void use(std::size_t number, const E& eviction) noexcept {
    CacheEntry& entry = entries_[number];
    ++use_;
    const CacheClock now = clock(entry.layer);
    if constexpr (requires { eviction.used(entry, now); }) eviction.used(entry, now);
    entry.last_use = use_;
    entry.last_token = token_;
    ++entry.uses;
  }
  /// A use was served by the most precise copy.
  void serve_high(std::size_t number) noexcept { ++entries_[number].high_uses; }

 private:
  std::vector<std::size_t> first_;   // [layer] number of its first expert
  std::vector<CacheEntry> entries_;  // [number]
  std::uint64_t use_ = 0, token_ = 0;
  int last_layer_ = -1;
};

}  // namespace moe::detail

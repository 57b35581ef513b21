// CacheRoom: which slot of a cache is taken next, and what gives way for it.
#pragma once

#include <cstdint>

#include <moe/storage/cache_history.hpp>
#include <moe/storage/cache_slots.hpp>
#include <moe/storage/eviction.hpp>

namespace moe::detail {

/// A slot that may be taken, if there is one.
struct Room {
  int slot = -1;
  bool streamed = false;  // a staging slot
};

/// In this order slots are given up, as far as they are at all.
enum class Rank : unsigned char { worthless, expected, used_now, wanted };

/// Looks at slots, uses and the eviction, and changes nothing. `rank_of(const CacheSlot&)` says what a record is worth
/// to those who ask. A look costs a scan of the format's slots, and a score for each that may be given up.
class CacheRoom {
 public:
  CacheRoom(const CacheSlots& slots, const CacheHistory& history, const AnyEviction& eviction) noexcept
      : slots_(slots), history_(history), eviction_(eviction) {}

  /// For a need: what has no worth; else a staging slot; without staging slots also what is expected, what this call is
  /// done with, and at last what another one wants, so that every call gets on.
  template <class RankOf>
  Room for_need(int layer, int format, const RankOf& rank_of) const noexcept {
    const int staging = slots_.limits().staging;
    const int s = victim(layer, format, staging > 0 ? Rank::worthless : Rank::wanted, rank_of);
    if (s >= 0 || staging == 0) return {s, false};
    return {slots_.staging(format, staging, true), true};
  }
  /// For a guess: what has no worth, else a staging slot; one of these is always left for needs.
  template <class RankOf>
  Room for_guess(int layer, int format, const RankOf& rank_of) const noexcept {
    const int staging = slots_.limits().staging;
    const int s = victim(layer, format, Rank::worthless, rank_of);
    if (s >= 0 || staging == 0) return {s, false};
    return {slots_.staging(format, staging - 1, false), true};
  }
  /// Gives up nothing.
  Room empty(int layer, int format) const noexcept {
    return {victim(layer, format, Rank::worthless, [](const CacheSlot&) { return Rank::expected; }), false};
  }

 private:
  const CacheEntry& entry_of(const CacheSlot& slot) const noexcept {
    return history_[history_.number(slot.layer, slot.expert)];
  }
  /// An empty slot, or the one that is given up first: that of the lowest rank, up to `highest`, and in it of the
  /// lowest score; -1 if there is none.
  template <class RankOf>
  int victim(int layer, int format, Rank highest, const RankOf& rank_of) const noexcept {
    const bool own_only = slots_.full(layer, format), may_grow = slots_.may_grow(layer, format);
    const CacheClock now = history_.clock(layer);
    int best = -1;
    Rank lowest = highest;
    double score = 0;
    for (int s = slots_.first(format); s < slots_.end(format); ++s) {
      const CacheSlot& candidate = slots_[s];
      if (candidate.phase == Phase::empty) {
        if (may_grow) return s;
        continue;
      }
      if (candidate.streamed || !candidate.idle() || (own_only && candidate.layer != layer)) continue;
      const Rank its = rank_of(candidate);
      if (its > lowest) continue;
      const CacheEntry& entry = entry_of(candidate);
      const double keep = eviction_.keep_score(entry, now);
      const bool first = best < 0 || its < lowest || keep < score ||
                         (keep == score && entry.last_use < entry_of(slots_[best]).last_use);
      if (!first) continue;
      best = s;
      lowest = its;
      score = keep;
    }
    return best;
  }

  const CacheSlots& slots_;
  const CacheHistory& history_;
  const AnyEviction& eviction_;
};

}  // namespace moe::detail

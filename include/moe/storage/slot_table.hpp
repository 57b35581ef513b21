// SlotTable: which expert lies in which slot of a cache and who may take it. No lock, no memory, no reading.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <moe/storage/cache_guesses.hpp>
#include <moe/storage/cache_history.hpp>
#include <moe/storage/cache_plan.hpp>
#include <moe/storage/cache_slots.hpp>
#include <moe/storage/cache_statistics.hpp>
#include <moe/storage/eviction.hpp>

namespace moe::detail {

/// The rules of a cache. It asks others where records lie (CacheSlots), when they were used (CacheHistory), what is
/// guessed (CacheGuesses) and planned (CachePlan), and tells them what happens.
class SlotTable {
 public:
  explicit SlotTable(AnyEviction eviction) : eviction_(std::move(eviction)) {}

  /// Before any load.
  void cut(SlotLimits limits) { slots_.cut(std::move(limits)); }
  int add_layer(int experts) {
    const int layer = layers();
    layers_.push_back({experts, 0});
    history_.add_layer(experts);
    slots_.add_layer(experts);
    guesses_.add_layer(experts);
    plan_.add_layer(experts);
    wanted_.resize(history_.experts(), 0);
    return layer;
  }

  int layers() const noexcept { return history_.layers(); }
  int experts(int layer) const noexcept { return layers_[static_cast<std::size_t>(layer)].experts; }
  int formats() const noexcept { return slots_.formats(); }
  const std::vector<CacheSlot>& slots() const noexcept { return slots_.all(); }
  const CacheSlot& slot(int s) const noexcept { return slots_[s]; }
  CacheSlot& slot(int s) noexcept { return slots_[s]; }
  const CacheEntry& entry(int layer, ExpertId e) const noexcept { return history_[number_of(layer, e)]; }
  bool ready(int layer, ExpertId e) const noexcept { return slots_.copy(layer, e, formats() - 1, Phase::ready) >= 0; }
  int wanted(int layer, ExpertId e) const noexcept { return wanted_[number_of(layer, e)]; }
  int loading(int layer) const noexcept { return layers_[static_cast<std::size_t>(layer)].loading; }
  CacheStatistics& statistics() noexcept { return statistics_; }
  const CacheStatistics& statistics() const noexcept { return statistics_; }
  bool unused() const noexcept {
    return std::all_of(slots().begin(), slots().end(), [](const CacheSlot& s) { return s.phase == Phase::empty; });
  }

  void begin_sequence() noexcept { history_.begin_sequence(); }

  /// A call of `layer` begins: its needs are used now, in order of importance. Returns the call's ticket.
  /// `lowest(need)` is the least precise format that serves it, negative if it may be skipped.
  template <class Lowest>
  std::uint64_t begin_call(int layer, std::span<ExpertNeed> needs, const Lowest& lowest) noexcept {
    std::sort(needs.begin(), needs.end(), [](const ExpertNeed& a, const ExpertNeed& b) {
      return a.mass_ahead != b.mass_ahead ? a.mass_ahead < b.mass_ahead : a.expert < b.expert;
    });
    history_.begin_call(layer);
    const std::uint64_t ticket = history_.clock(layer).use + 1;
    guesses_.compare(layer, needs, statistics_);
    for (const ExpertNeed& need : needs) {
      if (skips(layer, need, lowest(need))) continue;
      history_.use(number_of(layer, need.expert), eviction_);
      ++wanted_[number_of(layer, need.expert)];
    }
    plan_.correct(layer, needs, history_);
    return ticket;
  }
  /// The call ends before these needs were served.
  void abandon(int layer, std::span<const ExpertNeed> rest, const void* wave) noexcept {
    for (const ExpertNeed& need : rest) --wanted_[number_of(layer, need.expert)];
    drop_claims(wave);
  }

  /// Nothing of it is here or coming, and it is not worth a load.
  bool skips(int layer, const ExpertNeed& need, int lowest) const noexcept {
    return lowest < 0 && slots_.copy(layer, need.expert, formats() - 1, Phase::ready) < 0;
  }

  /// Pins the most precise copy that is here and serves the need; -1 if there is none.
  int lend(int layer, const ExpertNeed& need, int lowest, const void* wave) noexcept {
    const int s = slots_.copy(layer, need.expert, lowest < 0 ? formats() - 1 : lowest, Phase::ready);
    if (s < 0) return -1;
    CacheSlot& slot = slots_[s];
    const bool miss = slot.demanded && slot.claim == wave;
    ++(miss ? statistics_.misses : statistics_.hits);
    if (miss && slot.streamed) ++statistics_.streamed;
    if (slot.guessed) {
      ++statistics_.prefetched_used;
      guesses_in_slots_ -= 1;
    }
    slot.demanded = slot.demanded && !miss;
    slot.guessed = false;
    ++slot.pins;
    drop_claims_on(layer, need.expert, wave);
    const std::size_t used = number_of(layer, need.expert);
    if (slot.format == 0) history_.serve_high(used);
    plan_.used(used, history_);
    --wanted_[used];
    return s;
  }
  void unpin(int s) noexcept {
    CacheSlot& slot = slots_[s];
    if (--slot.pins == 0 && slot.streamed && slot.claim == nullptr) empty(slot);
  }

  /// Somebody waits for this copy, which is on its way; -1 if none is.
  int claim_coming(int layer, const ExpertNeed& need, int lowest, const void* wave) noexcept {
    const int s = slots_.copy(layer, need.expert, lowest, Phase::loading);
    if (s >= 0 && slot(s).claim == nullptr) {
      slot(s).claim = wave;
      slot(s).joined = true;
    }
    return s;
  }
  /// Takes a slot for a need that is neither here nor coming; -1 if it has to wait for room.
  int claim(int layer, const ExpertNeed& need, int lowest, const void* wave, std::uint64_t ticket) noexcept {
    if (place(layer, need.expert, lowest) >= 0) return -1;  // another wave has yet to see that its read failed
    const Taken taken = room(layer, lowest, ticket);
    if (taken.slot < 0) return -1;
    begin_load(taken, layer, need.expert);
    slot(taken.slot).claim = wave;
    slot(taken.slot).demanded = true;
    return taken.slot;
  }

  /// The record has arrived, or has not. Only the wave that began the load is told that it failed: false means that
  /// there is none, and who waits for what was a guess, or another call's, claims it anew.
  bool loaded(int s, bool well, std::uint64_t bytes) noexcept {
    CacheSlot& slot = slots_[s];
    --layers_[static_cast<std::size_t>(slot.layer)].loading;
    if (well) {
      slot.phase = Phase::ready;
      statistics_.bytes_read += bytes;
      if (slot.streamed && !slot.guessed && slot.claim == nullptr) empty(slot);  // nobody waits for it any more
      return true;
    }
    if (slot.claim != nullptr && !slot.joined) {
      slot.phase = Phase::failed;
      return true;
    }
    empty(slot);
    return false;
  }
  /// The slot of a read that this wave began and that has failed, or -1.
  int failed(int layer, const ExpertNeed& need, const void* wave) const noexcept {
    const int s = slots_.copy(layer, need.expert, formats() - 1, Phase::failed);
    return s >= 0 && slot(s).claim == wave ? s : -1;
  }
  void drop_claims(const void* wave) noexcept {
    for (int s = 0; s < num_slots(); ++s) drop_claim(slot(s), wave);
  }
  /// The layer goes: nothing of it is loaded or planned any more.
  void remove_layer(int layer) noexcept {
    for (int s = 0; s < num_slots(); ++s)
      if (slot(s).layer == layer) empty(slot(s));
    plan_.remove_layer(layer, history_);
    layers_[static_cast<std::size_t>(layer)].experts = 0;
  }

  // ---- guesses

  /// Remembers what is guessed for a layer, and counts what of it is neither here nor coming. With `keep`, what is
  /// guessed stays until the layer is called, if it is here: later layers' guesses do not push it out.
  template <class Lowest>
  int predict(int layer, std::span<const ExpertNeed> guesses, bool keep, const Lowest& lowest) noexcept {
    guesses_.predict(layer, guesses, keep);
    int missing = 0;
    for (const ExpertNeed& guess : guesses) missing += absent(layer, guess, lowest(guess)) ? 1 : 0;
    return missing;
  }
  /// No slot is taken for a copy that serves; the slot of a failed one is until its wave has seen the failure.
  bool absent(int layer, const ExpertNeed& need, int lowest) const noexcept {
    if (lowest < 0) return false;
    const auto copies = slots_.places(layer, need.expert).first(static_cast<std::size_t>(lowest) + 1);
    return std::all_of(copies.begin(), copies.end(), [](int s) { return s < 0; });
  }
  /// A slot for a guess: gives up neither what is in use or wanted, nor what is guessed for a layer that is still to
  /// come. -1: none.
  int claim_guess(int layer, ExpertId e, int format) noexcept {
    const auto rank_of = [&](const CacheSlot& slot) { return rank(slot, no_ticket); };
    return begin_guess(room_for_guess(layer, format, rank_of), layer, e);
  }
  int guesses_in_slots() const noexcept { return guesses_in_slots_; }

  // ---- plan

  /// What a pass through the layers will use, in the order of use; replaces the plan before.
  void plan(std::span<const std::pair<int, ExpertId>> uses) {
    plan_.replace(uses, history_);
    for (const auto& [layer, expert] : uses) guesses_.add(layer, expert);
  }
  bool has_plan() const noexcept { return !plan_.empty(); }
  /// Takes a slot for the next planned record that is neither here nor coming, in the order of use. What one layer
  /// uses is read ahead over whatever is not planned that near: computing a layer hides the reads of the next. Further
  /// on only empty slots are taken, because what lies in others may be used in the next pass. -1: nothing to load or
  /// no room.
  int claim_planned() noexcept {
    const int slots = slots_.keepable(0);
    const std::size_t near = plan_.reach(std::min(slots, plan_.uses_of_a_layer())).size();
    const auto rank_of = [&](const CacheSlot& slot) {
      const std::size_t number = number_of(slot.layer, slot.expert);
      if (wanted_[number] > 0) return Rank::wanted;
      return plan_.to_come(number, near) ? Rank::expected : Rank::worthless;
    };
    std::size_t position = 0;
    for (const std::size_t number : plan_.reach(slots)) {
      const bool is_near = position++ < near;
      const auto [layer, expert] = std::pair(history_[number].layer, history_[number].expert);
      if (!history_[number].planned || !absent(layer, {expert, 1, 0, 0}, 0)) continue;
      const int s = begin_guess(is_near ? room_for_guess(layer, 0, rank_of) : empty_slot(layer), layer, expert);
      if (s >= 0 || slots_.limits().slots_by_layer.empty()) return s;  // else another layer may have room
    }
    return -1;
  }

 private:
  struct Layer {
    int experts = 0;
    int loading = 0;
  };
  /// In this order slots are given up, as far as they are at all.
  enum class Rank : unsigned char { worthless, expected, used_now, wanted };
  static constexpr std::uint64_t no_ticket = std::numeric_limits<std::uint64_t>::max();
  struct Taken {
    int slot = -1;
    bool streamed = false;
  };

  std::size_t number_of(int layer, ExpertId e) const noexcept { return history_.number(layer, e); }
  int place(int layer, ExpertId e, int format) const noexcept {
    return slots_.places(layer, e)[static_cast<std::size_t>(format)];
  }
  int num_slots() const noexcept { return static_cast<int>(slots().size()); }

  // ---- room

  const CacheEntry& entry_of(int s) const noexcept { return entry(slot(s).layer, slot(s).expert); }

  /// Wanted by any call, used by the call with this ticket, or guessed for a call that is still to come.
  Rank rank(const CacheSlot& slot, std::uint64_t ticket) const noexcept {
    const std::size_t number = number_of(slot.layer, slot.expert);
    if (wanted_[number] > 0) return Rank::wanted;
    if (history_[number].last_use >= ticket) return Rank::used_now;
    return guesses_.expected(slot.layer, slot.expert) ? Rank::expected : Rank::worthless;
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
      const CacheSlot& candidate = slot(s);
      if (candidate.phase == Phase::empty) {
        if (may_grow) return s;
        continue;
      }
      if (candidate.streamed || !candidate.idle() || (own_only && candidate.layer != layer)) continue;
      const Rank its = rank_of(candidate);
      if (its > lowest) continue;
      const double keep = eviction_.keep_score(entry_of(s), now);
      const bool first =
          best < 0 || its < lowest || keep < score || (keep == score && entry_of(s).last_use < entry_of(best).last_use);
      if (!first) continue;
      best = s;
      lowest = its;
      score = keep;
    }
    return best;
  }
  /// For a need: what has no worth; else a staging slot; without staging slots also what is expected, what this call is
  /// done with, and at last what another one wants, so that every call gets on.
  Taken room(int layer, int format, std::uint64_t ticket) const noexcept {
    const bool staging = slots_.limits().staging > 0;
    const int s = victim(layer, format, staging ? Rank::worthless : Rank::wanted,
                         [&](const CacheSlot& slot) { return rank(slot, ticket); });
    if (s >= 0 || !staging) return {s, false};
    return {slots_.staging(format, slots_.limits().staging, true), true};
  }
  /// For a guess: what has no worth, else a staging slot.
  template <class RankOf>
  Taken room_for_guess(int layer, int format, const RankOf& rank_of) const noexcept {
    const int s = victim(layer, format, Rank::worthless, rank_of);
    if (s >= 0 || slots_.limits().staging == 0) return {s, false};
    return {slots_.staging(format, slots_.limits().staging - 1, false), true};  // one is always left for needs
  }

  Taken empty_slot(int layer) const noexcept {
    return {victim(layer, 0, Rank::worthless, [](const CacheSlot&) { return Rank::expected; }), false};
  }

  // ---- changes of a slot

  void drop_claim(CacheSlot& slot, const void* wave) noexcept {
    if (slot.phase == Phase::empty || slot.claim != wave) return;
    slot.claim = nullptr;
    slot.joined = false;
    if (slot.phase == Phase::failed || (slot.phase == Phase::ready && slot.streamed && slot.pins == 0)) empty(slot);
  }
  /// A wave that was served may have claimed another copy, which was on its way.
  void drop_claims_on(int layer, ExpertId e, const void* wave) noexcept {
    for (int f = 0; f < formats(); ++f)
      if (const int s = place(layer, e, f); s >= 0) drop_claim(slots_[s], wave);
  }
  void empty(CacheSlot& slot) noexcept {
    if (slot.phase == Phase::empty) return;
    if (slot.guessed) {
      ++statistics_.prefetched_wasted;
      --guesses_in_slots_;
    }
    slots_.empty(slot);
  }
  void begin_load(Taken taken, int layer, ExpertId e) noexcept {
    CacheSlot& slot = slots_[taken.slot];
    if (slot.phase == Phase::ready) ++statistics_.evictions;
    empty(slot);
    slots_.fill(taken.slot, layer, e, taken.streamed);
    ++layers_[static_cast<std::size_t>(layer)].loading;
    ++statistics_.loads;
    ++statistics_.loads_by_format[static_cast<std::size_t>(slot.format)];
  }
  int begin_guess(Taken taken, int layer, ExpertId e) noexcept {
    if (taken.slot < 0) return -1;
    begin_load(taken, layer, e);
    slot(taken.slot).guessed = true;
    ++guesses_in_slots_;
    ++statistics_.prefetched;
    return taken.slot;
  }

  AnyEviction eviction_;
  std::vector<Layer> layers_;
  CacheHistory history_;     // gives experts their numbers
  std::vector<int> wanted_;  // [number] calls that wait for it
  CacheSlots slots_;
  CacheGuesses guesses_;
  CachePlan plan_;
  int guesses_in_slots_ = 0;
  CacheStatistics statistics_;
};

}  // namespace moe::detail

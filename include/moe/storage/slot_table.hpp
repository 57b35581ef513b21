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
#include <moe/storage/cache_room.hpp>
#include <moe/storage/cache_slots.hpp>
#include <moe/storage/cache_statistics.hpp>
#include <moe/storage/eviction.hpp>

namespace moe::detail {

/// The rules of a cache. It asks others where records lie (CacheSlots), when they were used (CacheHistory), what is
/// guessed (CacheGuesses) and planned (CachePlan) and what gives way (CacheRoom), and tells them what happens.
///
/// Needs come with their `lowest` set. A call is known by the ticket that `begin_call` gave it; a call without a use
/// may share it with the next one, and claims nothing.
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
  void append(int s, LoadList& loads) noexcept { loads.append(slots_, s); }
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

  /// A call of `layer` begins: its needs are used now, in order of importance. Returns the call's ticket, above 0.
  std::uint64_t begin_call(int layer, std::span<ExpertNeed> needs) noexcept {
    std::sort(needs.begin(), needs.end(), [](const ExpertNeed& a, const ExpertNeed& b) {
      return a.mass_ahead != b.mass_ahead ? a.mass_ahead < b.mass_ahead : a.expert < b.expert;
    });
    history_.begin_call(layer);
    const std::uint64_t ticket = history_.clock(layer).use + 1;
    guesses_.compare(layer, needs, statistics_);
    for (const ExpertNeed& need : needs) {
      if (skips(layer, need)) continue;
      history_.use(number_of(layer, need.expert), eviction_);
      ++wanted_[number_of(layer, need.expert)];
    }
    plan_.correct(layer, needs, history_);
    return ticket;
  }
  /// The call ends before these needs were served.
  void abandon(int layer, std::span<const ExpertNeed> rest, std::uint64_t ticket) noexcept {
    for (const ExpertNeed& need : rest) {
      --wanted_[number_of(layer, need.expert)];
      drop_claims(layer, need.expert, ticket);
    }
  }

  /// Nothing of it is here or coming, and it is not worth a load.
  bool skips(int layer, const ExpertNeed& need) const noexcept {
    return need.lowest < 0 && slots_.copy(layer, need.expert, formats() - 1, Phase::ready) < 0;
  }

  /// The most precise copy that is ready and serves the need; -1 if there is none.
  int place(int layer, const ExpertNeed& need) const noexcept {
    return slots_.copy(layer, need.expert, need.lowest < 0 ? formats() - 1 : need.lowest, Phase::ready);
  }
  /// Serves a need of this call by that copy, in slot `s`, which is pinned.
  void lend(int s, int layer, const ExpertNeed& need, std::uint64_t ticket) noexcept {
    CacheSlot& slot = slots_[s];
    const bool miss = slot.loaded_for == For::need && slot.claim == ticket;
    const bool guessed = slot.loaded_for == For::guess;
    ++(miss ? statistics_.misses : statistics_.hits);
    if (miss && slot.streamed) ++statistics_.streamed;
    if (guessed) {
      ++statistics_.prefetched_used;
      --guesses_in_slots_;
    }
    if (miss || guessed) slot.loaded_for = For::nobody;
    ++slot.pins;
    drop_claims(layer, need.expert, ticket);
    const std::size_t used = number_of(layer, need.expert);
    if (slot.format == 0) history_.serve_high(used);
    plan_.used(used, history_);
    --wanted_[used];
  }
  void unpin(int s) noexcept {
    CacheSlot& slot = slots_[s];
    if (--slot.pins == 0 && slot.streamed && slot.claim == 0) empty(slot);
  }

  /// Somebody waits for a copy that serves and is on its way; -1 if none is.
  int claim_coming(int layer, const ExpertNeed& need, std::uint64_t ticket) noexcept {
    const int s = slots_.copy(layer, need.expert, need.lowest, Phase::loading);
    if (s >= 0 && slots_[s].claim == 0) {
      slots_[s].claim = ticket;
      slots_[s].joined = true;
    }
    return s;
  }
  /// Takes a slot for a need that is neither here nor coming; -1 if it has to wait for room.
  int claim(int layer, const ExpertNeed& need, std::uint64_t ticket) noexcept {
    if (slot_of(layer, need.expert, need.lowest) >= 0) return -1;  // another call has yet to see that its read failed
    const Room taken = room().for_need(layer, need.lowest, [&](const CacheSlot& slot) { return rank(slot, ticket); });
    if (taken.slot < 0) return -1;
    begin_load(taken, layer, need.expert, For::need);
    slots_[taken.slot].claim = ticket;
    return taken.slot;
  }

  /// The record has arrived, or has not. Only the call that began the load is told that it failed: false means that
  /// there is none, and who waits for what was a guess, or another call's, claims it anew.
  bool loaded(int s, bool well, std::uint64_t bytes) noexcept {
    CacheSlot& slot = slots_[s];
    --layers_[static_cast<std::size_t>(slot.layer)].loading;
    if (well) {
      slot.phase = Phase::ready;
      statistics_.bytes_read += bytes;
      if (slot.streamed && slot.loaded_for != For::guess && slot.claim == 0)
        empty(slot);  // nobody waits for it any more
      return true;
    }
    if (slot.claim != 0 && !slot.joined) {
      slot.phase = Phase::failed;
      return true;
    }
    empty(slot);
    return false;
  }
  /// The slot of a read that this call began and that has failed, or -1.
  int failed(int layer, const ExpertNeed& need, std::uint64_t ticket) const noexcept {
    const int s = slots_.copy(layer, need.expert, formats() - 1, Phase::failed);
    return s >= 0 && slot(s).claim == ticket ? s : -1;
  }
  /// The layer goes: nothing of it is loaded or planned any more.
  void remove_layer(int layer) noexcept {
    for (int s = 0; s < num_slots(); ++s)
      if (slot(s).layer == layer) empty(slots_[s]);
    plan_.remove_layer(layer, history_);
    layers_[static_cast<std::size_t>(layer)].experts = 0;
  }

  // ---- guesses

  /// Remembers what is guessed for a layer. With `keep`, what is guessed stays until the layer is called, if it is
  /// here: later layers' guesses do not push it out.
  void predict(int layer, std::span<const ExpertNeed> guesses, bool keep) noexcept {
    guesses_.predict(layer, guesses, keep);
  }
  /// No slot is taken for a copy that serves; the slot of a failed one is until its call has seen the failure.
  bool absent(int layer, const ExpertNeed& need) const noexcept {
    if (need.lowest < 0) return false;
    const auto copies = slots_.places(layer, need.expert).first(static_cast<std::size_t>(need.lowest) + 1);
    return std::all_of(copies.begin(), copies.end(), [](int s) { return s < 0; });
  }
  /// A slot for a guess: gives up neither what is in use or wanted, nor what is guessed for a layer that is still to
  /// come. -1: none.
  int claim_guess(int layer, const ExpertNeed& guess) noexcept {
    const auto rank_of = [&](const CacheSlot& slot) { return rank(slot, no_ticket); };
    return begin_guess(room().for_guess(layer, guess.lowest, rank_of), layer, guess.expert);
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
      if (!history_[number].planned || !absent(layer, {.expert = expert})) continue;
      const Room taken = is_near ? room().for_guess(layer, 0, rank_of) : room().empty(layer, 0);
      const int s = begin_guess(taken, layer, expert);
      if (s >= 0 || slots_.limits().slots_by_layer.empty()) return s;  // else another layer may have room
    }
    return -1;
  }

 private:
  struct Layer {
    int experts = 0;
    int loading = 0;
  };
  static constexpr std::uint64_t no_ticket = std::numeric_limits<std::uint64_t>::max();

  std::size_t number_of(int layer, ExpertId e) const noexcept { return history_.number(layer, e); }
  int slot_of(int layer, ExpertId e, int format) const noexcept {
    return slots_.places(layer, e)[static_cast<std::size_t>(format)];
  }
  int num_slots() const noexcept { return static_cast<int>(slots().size()); }

  // ---- room

  CacheRoom room() const noexcept { return {slots_, history_, eviction_}; }
  /// Wanted by any call, used by the call with this ticket, or guessed for a call that is still to come.
  Rank rank(const CacheSlot& slot, std::uint64_t ticket) const noexcept {
    const std::size_t number = number_of(slot.layer, slot.expert);
    if (wanted_[number] > 0) return Rank::wanted;
    if (history_[number].last_use >= ticket) return Rank::used_now;
    return guesses_.expected(slot.layer, slot.expert) ? Rank::expected : Rank::worthless;
  }
  // ---- changes of a slot

  void drop_claim(CacheSlot& slot) noexcept {
    slot.claim = 0;
    slot.joined = false;
    if (slot.phase == Phase::failed || (slot.phase == Phase::ready && slot.streamed && slot.pins == 0)) empty(slot);
  }
  /// The call has no use any more for copies of a record: it was served, by one of them, or has ended.
  void drop_claims(int layer, ExpertId e, std::uint64_t ticket) noexcept {
    for (int f = 0; f < formats(); ++f)
      if (const int s = slot_of(layer, e, f); s >= 0 && slots_[s].claim == ticket) drop_claim(slots_[s]);
  }
  void empty(CacheSlot& slot) noexcept {
    if (slot.phase == Phase::empty) return;
    if (slot.loaded_for == For::guess) {
      ++statistics_.prefetched_wasted;
      --guesses_in_slots_;
    }
    slots_.empty(slot);
  }
  void begin_load(Room taken, int layer, ExpertId e, For reason) noexcept {
    CacheSlot& slot = slots_[taken.slot];
    if (slot.phase == Phase::ready) ++statistics_.evictions;
    empty(slot);
    slots_.fill(taken.slot, layer, e, taken.streamed);
    slot.loaded_for = reason;
    ++layers_[static_cast<std::size_t>(layer)].loading;
    ++statistics_.loads;
    ++statistics_.loads_by_format[static_cast<std::size_t>(slot.format)];
  }
  int begin_guess(Room taken, int layer, ExpertId e) noexcept {
    if (taken.slot < 0) return -1;
    begin_load(taken, layer, e, For::guess);
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

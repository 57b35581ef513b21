// SlotTable: which expert lies in which slot of a cache and who may take it. No lock, no memory, no reading.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <moe/storage/eviction.hpp>

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

namespace detail {

enum class Phase : unsigned char { empty, loading, ready, failed };

/// One place for one record. Only `ready` slots without pins and claims may be given up.
struct CacheSlot {
  Phase phase = Phase::empty;
  bool demanded = false;  // loaded for a need, until it is lent
  bool guessed = false;   // loaded by guess and not used since
  bool streamed = false;  // in a staging slot: goes after its use
  int format = 0;         // the slot's slab
  int layer = -1;
  ExpertId expert = -1;
  int pins = 0;
  const void* claim = nullptr;  // the wave that it is for and that has not been lent it yet
  bool joined = false;          // the claim came when the load was under way
  int next = -1;                // list of loads that are to be started
};

/// Limits on what the slots may hold.
struct SlotLimits {
  std::vector<int> slots;           // of each format
  std::vector<int> slots_by_layer;  // most that a layer keeps of the first format; empty: no limit
  int staging = 0;                  // slots of each format for records that are not kept
};

class SlotTable {
 public:
  explicit SlotTable(AnyEviction eviction) : eviction_(std::move(eviction)) {}

  /// Before any load. Slots of one format stand together, in the order of formats.
  void cut(SlotLimits limits) {
    limits_ = std::move(limits);
    slots_.clear();
    kept_.assign(limits_.slots.size(), 0);
    streamed_.assign(limits_.slots.size(), 0);
    first_slot_.assign(1, 0);
    for (std::size_t f = 0; f < limits_.slots.size(); ++f) {
      CacheSlot slot;
      slot.format = static_cast<int>(f);
      slots_.insert(slots_.end(), static_cast<std::size_t>(limits_.slots[f]), slot);
      first_slot_.push_back(static_cast<int>(slots_.size()));
    }
    places_.assign(entries_.size() * limits_.slots.size(), -1);
  }
  int add_layer(int experts) {
    const int layer = layers();
    layers_.push_back({static_cast<int>(entries_.size()), experts, 0, 0, false});
    for (ExpertId e = 0; e < experts; ++e) {
      CacheEntry entry;
      entry.layer = layer;
      entry.expert = e;
      entries_.push_back(entry);
      wanted_.push_back(0);
      plan_position_.push_back(0);
      predicted_.push_back(0);
    }
    places_.resize(entries_.size() * limits_.slots.size(), -1);
    return layer;
  }

  int layers() const noexcept { return static_cast<int>(layers_.size()); }
  int experts(int layer) const noexcept { return layers_[static_cast<std::size_t>(layer)].experts; }
  int formats() const noexcept { return static_cast<int>(limits_.slots.size()); }
  const std::vector<CacheSlot>& slots() const noexcept { return slots_; }
  const CacheSlot& slot(int s) const noexcept { return slots_[static_cast<std::size_t>(s)]; }
  CacheSlot& slot(int s) noexcept { return slots_[static_cast<std::size_t>(s)]; }
  const CacheEntry& entry(int layer, ExpertId e) const noexcept { return entries_[index(layer, e)]; }
  bool ready(int layer, ExpertId e) const noexcept { return copy(layer, e, formats() - 1, Phase::ready) >= 0; }
  int wanted(int layer, ExpertId e) const noexcept { return wanted_[index(layer, e)]; }
  int loading(int layer) const noexcept { return layers_[static_cast<std::size_t>(layer)].loading; }
  CacheClock clock(int layer) const noexcept { return {use_, token_, layer, layers()}; }
  CacheStatistics& statistics() noexcept { return statistics_; }
  const CacheStatistics& statistics() const noexcept { return statistics_; }
  bool unused() const noexcept {
    return std::all_of(slots_.begin(), slots_.end(), [](const CacheSlot& s) { return s.phase == Phase::empty; });
  }

  void begin_sequence() noexcept {
    token_ = 0;
    for (CacheEntry& entry : entries_) {
      entry.last_token = entry.uses = entry.high_uses = 0;
      entry.heat = 0;
    }
  }

  /// A call of `layer` begins: its needs are used now, in order of importance. Returns the call's ticket.
  /// `lowest(need)` is the least precise format that serves it, negative if it may be skipped.
  template <class Lowest>
  std::uint64_t begin_call(int layer, std::span<ExpertNeed> needs, const Lowest& lowest) noexcept {
    if (layer <= last_layer_ || token_ == 0) ++token_;
    last_layer_ = layer;
    std::sort(needs.begin(), needs.end(), [](const ExpertNeed& a, const ExpertNeed& b) {
      return a.mass_ahead != b.mass_ahead ? a.mass_ahead < b.mass_ahead : a.expert < b.expert;
    });
    const std::uint64_t ticket = use_ + 1;
    compare_prediction(layer, needs);
    for (const ExpertNeed& need : needs) {
      if (skips(layer, need, lowest(need))) continue;
      CacheEntry& entry = entries_[index(layer, need.expert)];
      ++use_;
      eviction_.used(entry, clock(layer));
      entry.last_use = use_;
      entry.last_token = token_;
      ++entry.uses;
      ++wanted_[index(layer, need.expert)];
    }
    correct_plan(layer, needs);
    return ticket;
  }
  /// The call ends before these needs were served.
  void abandon(int layer, std::span<const ExpertNeed> rest, const void* wave) noexcept {
    for (const ExpertNeed& need : rest) --wanted_[index(layer, need.expert)];
    drop_claims(wave);
  }

  /// Nothing of it is here or coming, and it is not worth a load.
  bool skips(int layer, const ExpertNeed& need, int lowest) const noexcept {
    return lowest < 0 && copy(layer, need.expert, formats() - 1, Phase::ready) < 0;
  }

  /// Pins the most precise copy that is here and serves the need; -1 if there is none.
  int lend(int layer, const ExpertNeed& need, int lowest, const void* wave) noexcept {
    const int s = copy(layer, need.expert, lowest < 0 ? formats() - 1 : lowest, Phase::ready);
    if (s < 0) return -1;
    CacheSlot& slot = slots_[static_cast<std::size_t>(s)];
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
    CacheEntry& entry = entries_[index(layer, need.expert)];
    if (slot.format == 0) ++entry.high_uses;
    entry.planned = false;
    --wanted_[index(layer, need.expert)];
    return s;
  }
  void unpin(int s) noexcept {
    CacheSlot& slot = slots_[static_cast<std::size_t>(s)];
    if (--slot.pins == 0 && slot.streamed && slot.claim == nullptr) empty(slot);
  }

  /// Somebody waits for this copy, which is on its way; false if none is.
  int claim_coming(int layer, const ExpertNeed& need, int lowest, const void* wave) noexcept {
    const int s = copy(layer, need.expert, lowest, Phase::loading);
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
    CacheSlot& slot = slots_[static_cast<std::size_t>(s)];
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
    const int s = copy(layer, need.expert, formats() - 1, Phase::failed);
    return s >= 0 && slot(s).claim == wave ? s : -1;
  }
  void drop_claims(const void* wave) noexcept {
    for (CacheSlot& slot : slots_) drop_claim(slot, wave);
  }
  /// The layer goes: nothing of it is loaded or planned any more.
  void remove_layer(int layer) noexcept {
    for (CacheSlot& slot : slots_)
      if (slot.layer == layer) empty(slot);
    std::erase_if(plan_, [layer](const auto& use) { return use.first == layer; });
    for (std::size_t i = 0; i < plan_.size(); ++i)
      plan_position_[index(plan_[i].first, plan_[i].second)] = static_cast<int>(i);
    layers_[static_cast<std::size_t>(layer)].experts = 0;
  }

  // ---- guesses

  /// Remembers what is guessed for a layer, and counts what of it is neither here nor coming. With `keep`, what is
  /// guessed stays until the layer is called, if it is here: later layers' guesses do not push it out.
  template <class Lowest>
  int predict(int layer, std::span<const ExpertNeed> guesses, bool keep, const Lowest& lowest) noexcept {
    Layer& l = layers_[static_cast<std::size_t>(layer)];
    for (ExpertId e = 0; e < l.experts; ++e) predicted_[index(layer, e)] &= kept_guess;
    l.predicted = true;
    int missing = 0;
    for (const ExpertNeed& guess : guesses) {
      predicted_[index(layer, guess.expert)] |= keep ? newest_guess | kept_guess : newest_guess;
      missing += absent(layer, guess, lowest(guess)) ? 1 : 0;
    }
    return missing;
  }
  /// No slot is taken for a copy that serves; the slot of a failed one is until its wave has seen the failure.
  bool absent(int layer, const ExpertNeed& need, int lowest) const noexcept {
    const int* const places = places_of(layer, need.expert);
    return lowest >= 0 && std::all_of(places, places + lowest + 1, [](int place) { return place < 0; });
  }
  /// A slot for a guess: gives up neither what is in use or wanted, nor what is guessed for a layer that is still to
  /// come. -1: none.
  int claim_guess(int layer, ExpertId e, int format) noexcept {
    return begin_guess(room_for_guess(layer, format, [&](const CacheSlot& slot) { return !expected(slot); }), layer, e);
  }
  int guesses_in_slots() const noexcept { return guesses_in_slots_; }

  // ---- plan

  /// What a pass through the layers will use, in the order of use; replaces the plan before.
  void plan(std::span<const std::pair<int, ExpertId>> uses) {
    for (const auto& [layer, expert] : plan_) entries_[index(layer, expert)].planned = false;
    plan_.clear();
    for (const auto& [layer, expert] : uses) {
      if (entries_[index(layer, expert)].planned) continue;  // twice in this plan
      plan_position_[index(layer, expert)] = static_cast<int>(plan_.size());
      plan_.emplace_back(layer, expert);
      layers_[static_cast<std::size_t>(layer)].predicted = true;
      predicted_[index(layer, expert)] |= newest_guess;
      entries_[index(layer, expert)].planned = true;
    }
  }
  bool has_plan() const noexcept { return !plan_.empty(); }
  /// Takes a slot for the next planned record that is neither here nor coming, in the order of use and no further than
  /// the slots reach; gives up only what is not planned, or planned beyond that reach. -1: nothing to load or no room.
  int claim_planned() noexcept {
    const int end = plan_reach();
    const auto may_go = [&](const CacheSlot& slot) {
      const std::size_t e = index(slot.layer, slot.expert);
      return !entries_[e].planned || plan_position_[e] >= end;
    };
    for (int i = 0; i < end; ++i) {
      const auto& [layer, expert] = plan_[static_cast<std::size_t>(i)];
      if (!entries_[index(layer, expert)].planned || !absent(layer, {expert, 1, 0, 0}, 0)) continue;
      const int s = begin_guess(room_for_guess(layer, 0, may_go), layer, expert);
      if (s >= 0 || limits_.slots_by_layer.empty()) return s;  // else another layer may have room
    }
    return -1;
  }

 private:
  struct Layer {
    int first = 0;  // of its entries
    int experts = 0;
    int loading = 0;
    int kept = 0;  // slots of the first format
    bool predicted = false;
  };
  static constexpr unsigned newest_guess = 1, kept_guess = 2;  // bits of predicted_
  struct Taken {
    int slot = -1;
    bool streamed = false;
  };

  std::size_t index(int layer, ExpertId e) const noexcept {
    return static_cast<std::size_t>(layers_[static_cast<std::size_t>(layer)].first + e);
  }
  int& place(int layer, ExpertId e, int format) noexcept {
    return places_[index(layer, e) * limits_.slots.size() + static_cast<std::size_t>(format)];
  }
  /// [formats] slots, or -1.
  const int* places_of(int layer, ExpertId e) const noexcept {
    return places_.data() + index(layer, e) * limits_.slots.size();
  }
  /// The most precise copy in `phase`, no less precise than `lowest`.
  int copy(int layer, ExpertId e, int lowest, Phase phase) const noexcept {
    const int* const places = places_of(layer, e);
    for (int f = 0; f <= lowest; ++f)
      if (places[f] >= 0 && slot(places[f]).phase == phase) return places[f];
    return -1;
  }

  // ---- room

  int keepable(int format) const noexcept { return limits_.slots[static_cast<std::size_t>(format)] - limits_.staging; }
  bool limited(int format) const noexcept { return format == 0 && !limits_.slots_by_layer.empty(); }
  bool layer_full(int layer, int format) const noexcept {
    return limited(format) &&
           layers_[static_cast<std::size_t>(layer)].kept >= limits_.slots_by_layer[static_cast<std::size_t>(layer)];
  }
  /// An empty slot, or the one that is given up first among those that `may_go` allows; -1 if there is none.
  template <class MayGo>
  int victim(int layer, int format, const MayGo& may_go) const noexcept {
    const bool own_only = layer_full(layer, format);
    const bool may_grow = !own_only && kept_[static_cast<std::size_t>(format)] < keepable(format);
    const CacheClock now = clock(layer);
    int lowest = -1;
    double score = 0;
    for (int s = first_slot_[static_cast<std::size_t>(format)]; s < first_slot_[static_cast<std::size_t>(format) + 1];
         ++s) {
      const CacheSlot& candidate = slot(s);
      if (candidate.phase == Phase::empty) {
        if (may_grow) return s;
        continue;
      }
      if (candidate.streamed || !idle(candidate) || (own_only && candidate.layer != layer) || !may_go(candidate))
        continue;
      const CacheEntry& entry = entries_[index(candidate.layer, candidate.expert)];
      const double keep = eviction_.keep_score(entry, now);
      if (lowest >= 0 && !(keep < score || (keep == score && entry.last_use < entry_of(lowest).last_use))) continue;
      lowest = s;
      score = keep;
    }
    return lowest;
  }
  /// As many uses of the plan as there are slots are still to come before this one.
  int plan_reach() const noexcept {
    int left = keepable(0), i = 0;
    for (; i < static_cast<int>(plan_.size()); ++i) {
      const auto& [layer, expert] = plan_[static_cast<std::size_t>(i)];
      if (entries_[index(layer, expert)].planned && left-- == 0) break;
    }
    return i;
  }
  static bool idle(const CacheSlot& slot) noexcept {
    return slot.phase == Phase::ready && slot.pins == 0 && slot.claim == nullptr;
  }
  const CacheEntry& entry_of(int s) const noexcept { return entries_[index(slot(s).layer, slot(s).expert)]; }

  bool expected(const CacheSlot& s) const noexcept { return (predicted_[index(s.layer, s.expert)] & kept_guess) != 0; }
  /// For a need: first what no call wants or is expected to, and this call has not used; then a staging slot; without
  /// staging slots what is expected, what this call is done with, and what another one wants, so that every call gets
  /// on.
  Taken room(int layer, int format, std::uint64_t ticket) const noexcept {
    const auto wanted = [&](const CacheSlot& s) { return wanted_[index(s.layer, s.expert)] > 0; };
    const auto used_now = [&](const CacheSlot& s) { return entries_[index(s.layer, s.expert)].last_use >= ticket; };
    int s = victim(layer, format, [&](const CacheSlot& c) { return !wanted(c) && !used_now(c) && !expected(c); });
    if (s >= 0) return {s, false};
    if (limits_.staging > 0) return {staging_slot(format, limits_.staging, true), true};
    s = victim(layer, format, [&](const CacheSlot& c) { return !wanted(c) && !used_now(c); });
    if (s >= 0) return {s, false};
    s = victim(layer, format, [&](const CacheSlot& c) { return !wanted(c); });
    if (s >= 0) return {s, false};
    return {victim(layer, format, [](const CacheSlot&) { return true; }), false};
  }
  template <class MayGo>
  Taken room_for_guess(int layer, int format, const MayGo& may_go) const noexcept {
    const int s = victim(layer, format, [&](const CacheSlot& slot) {
      return wanted_[index(slot.layer, slot.expert)] == 0 && may_go(slot);
    });
    if (s >= 0 || limits_.staging == 0) return {s, false};
    return {staging_slot(format, limits_.staging - 1, false), true};  // one is always left for needs
  }
  /// A free staging slot, while fewer than `most` are taken; a need may also take that of an unused guess.
  int staging_slot(int format, int most, bool over_guesses) const noexcept {
    const auto f = static_cast<std::size_t>(format);
    for (int s = first_slot_[f]; s < first_slot_[f + 1]; ++s) {
      if (slot(s).phase == Phase::empty && streamed_[f] < most) return s;
      if (over_guesses && slot(s).streamed && slot(s).guessed && idle(slot(s))) return s;
    }
    return -1;
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
      if (const int s = place(layer, e, f); s >= 0) drop_claim(slots_[static_cast<std::size_t>(s)], wave);
  }
  void empty(CacheSlot& slot) noexcept {
    if (slot.phase == Phase::empty) return;
    const auto format = static_cast<std::size_t>(slot.format);
    place(slot.layer, slot.expert, slot.format) = -1;
    --(slot.streamed ? streamed_ : kept_)[format];
    if (slot.format == 0 && !slot.streamed) --layers_[static_cast<std::size_t>(slot.layer)].kept;
    if (slot.guessed) {
      ++statistics_.prefetched_wasted;
      --guesses_in_slots_;
    }
    const int f = slot.format;
    slot = {};
    slot.format = f;
  }
  void begin_load(Taken taken, int layer, ExpertId e) noexcept {
    CacheSlot& slot = slots_[static_cast<std::size_t>(taken.slot)];
    if (slot.phase == Phase::ready) ++statistics_.evictions;
    empty(slot);
    slot.phase = Phase::loading;
    slot.layer = layer;
    slot.expert = e;
    slot.streamed = taken.streamed;
    place(layer, e, slot.format) = taken.slot;
    ++(slot.streamed ? streamed_ : kept_)[static_cast<std::size_t>(slot.format)];
    Layer& l = layers_[static_cast<std::size_t>(layer)];
    if (slot.format == 0 && !slot.streamed) ++l.kept;
    ++l.loading;
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

  void compare_prediction(int layer, std::span<const ExpertNeed> needs) noexcept {
    Layer& l = layers_[static_cast<std::size_t>(layer)];
    if (!std::exchange(l.predicted, false)) return;
    const auto guessed = [&](ExpertId e) { return predicted_[index(layer, e)] & newest_guess; };
    statistics_.needed += needs.size();
    for (const ExpertNeed& need : needs) statistics_.predicted_right += guessed(need.expert);
    for (ExpertId e = 0; e < l.experts; ++e) statistics_.predicted += guessed(e);
    std::fill_n(predicted_.begin() + l.first, l.experts, 0u);
  }
  /// The layer's routing is known: earlier layers are over, and its experts that were planned wrongly are the first
  /// to go (ExpertFlow's real-time correction).
  void correct_plan(int layer, std::span<const ExpertNeed> needs) noexcept {
    for (const auto& [planned_layer, expert] : plan_)
      if (planned_layer < layer || (planned_layer == layer && !among(needs, expert)))
        entries_[index(planned_layer, expert)].planned = false;
  }
  static bool among(std::span<const ExpertNeed> needs, ExpertId e) noexcept {
    return std::any_of(needs.begin(), needs.end(), [e](const ExpertNeed& need) { return need.expert == e; });
  }

  AnyEviction eviction_;
  SlotLimits limits_;
  std::vector<int> first_slot_;       // [formats + 1]
  std::vector<int> kept_, streamed_;  // [formats] slots taken
  std::vector<CacheSlot> slots_;
  std::vector<Layer> layers_;
  std::vector<CacheEntry> entries_;  // of all layers
  std::vector<int> wanted_;          // [entry] calls that wait for it
  std::vector<unsigned> predicted_;  // [entry] bits
  std::vector<int> places_;          // [entry][format] slot, or -1
  std::vector<std::pair<int, ExpertId>> plan_;
  std::vector<int> plan_position_;  // [entry] where the plan names it
  std::uint64_t use_ = 0, token_ = 0;
  int last_layer_ = -1;
  int guesses_in_slots_ = 0;
  CacheStatistics statistics_;
};

}  // namespace detail
}  // namespace moe

// CacheSlots: which record lies in which slot of a cache, and how many slots are taken. No choice of who goes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <moe/expert.hpp>
#include <moe/storage/loading.hpp>

namespace moe::detail {

/// What a record was loaded for, until that came: the need that began the load was lent it, the guess was used.
enum class For : unsigned char { nobody, need, guess };

/// One place for one record.
struct CacheSlot {
  Phase phase = Phase::empty;
  For loaded_for = For::nobody;
  bool streamed = false;  // in a staging slot: goes after its use
  int format = 0;         // the slot's slab
  int layer = -1;
  ExpertId expert = -1;
  int pins = 0;
  std::uint64_t claim = 0;  // ticket of the call that it is for and that has not been lent it yet; 0: none
  bool joined = false;      // the claim came when the load was under way
  int next = -1;            // LoadList

  /// Only such slots may be given up.
  bool idle() const noexcept { return phase == Phase::ready && pins == 0 && claim == 0; }
};

/// Limits on what the slots may hold.
struct SlotLimits {
  std::vector<int> slots;           // of each format
  std::vector<int> slots_by_layer;  // most that a layer keeps of the first format; empty: no limit
  int staging = 0;                  // slots of each format for records that are not kept
};

class CacheSlots {
 public:
  /// All are empty. Slots of one format stand together, in the order of formats.
  void cut(SlotLimits limits) {
    limits_ = std::move(limits);
    slots_.clear();
    slabs_.clear();
    for (const int n : limits_.slots) {
      CacheSlot slot;
      slot.format = static_cast<int>(slabs_.size());
      slabs_.push_back({static_cast<int>(slots_.size()), 0, 0});
      slots_.insert(slots_.end(), static_cast<std::size_t>(n), slot);
    }
    for (Layer& layer : layers_) clear(layer);
  }
  void add_layer(int experts) {
    layers_.push_back({static_cast<std::size_t>(experts), 0, {}});
    clear(layers_.back());
  }

  int formats() const noexcept { return static_cast<int>(limits_.slots.size()); }
  const SlotLimits& limits() const noexcept { return limits_; }
  const std::vector<CacheSlot>& all() const noexcept { return slots_; }
  const CacheSlot& operator[](int s) const noexcept { return slots_[static_cast<std::size_t>(s)]; }
  CacheSlot& operator[](int s) noexcept { return slots_[static_cast<std::size_t>(s)]; }
  /// Of this format: from the first one on, before the end.
  int first(int format) const noexcept { return slab(format).first; }
  int end(int format) const noexcept { return first(format) + limits_.slots[static_cast<std::size_t>(format)]; }

  // ---- records

  /// [formats] slots of the copies of a record, or -1.
  std::span<const int> places(int layer, ExpertId e) const noexcept {
    return std::span(layers_[static_cast<std::size_t>(layer)].places).subspan(place(e, 0), limits_.slots.size());
  }
  /// The most precise copy in `phase`, no less precise than `lowest`; -1 if there is none.
  int copy(int layer, ExpertId e, int lowest, Phase phase) const noexcept {
    const std::span<const int> copies = places(layer, e);
    for (int f = 0; f <= lowest; ++f)
      if (const int s = copies[static_cast<std::size_t>(f)]; s >= 0 && (*this)[s].phase == phase) return s;
    return -1;
  }
  /// An empty slot begins to load a record.
  void fill(int s, int layer, ExpertId e, bool streamed) noexcept {
    CacheSlot& slot = (*this)[s];
    slot.phase = Phase::loading;
    slot.layer = layer;
    slot.expert = e;
    slot.streamed = streamed;
    layers_[static_cast<std::size_t>(layer)].places[place(e, slot.format)] = s;
    count(slot, 1);
  }
  void empty(CacheSlot& slot) noexcept {
    layers_[static_cast<std::size_t>(slot.layer)].places[place(slot.expert, slot.format)] = -1;
    count(slot, -1);
    const int format = slot.format;
    slot = {};
    slot.format = format;
  }

  // ---- room

  int keepable(int format) const noexcept { return limits_.slots[static_cast<std::size_t>(format)] - limits_.staging; }
  /// What the layer keeps next has to take the place of what it keeps.
  bool full(int layer, int format) const noexcept {
    return format == 0 && !limits_.slots_by_layer.empty() &&
           layers_[static_cast<std::size_t>(layer)].kept >= limits_.slots_by_layer[static_cast<std::size_t>(layer)];
  }
  /// One more record may be kept, in any slot that is empty.
  bool may_grow(int layer, int format) const noexcept {
    return !full(layer, format) && slab(format).kept < keepable(format);
  }
  /// A free staging slot, while fewer than `most` are taken; or that of an unused guess, if it may be taken. Else -1.
  int staging(int format, int most, bool over_guesses) const noexcept {
    for (int s = first(format); s < end(format); ++s) {
      const CacheSlot& slot = (*this)[s];
      if (slot.phase == Phase::empty && slab(format).streamed < most) return s;
      if (over_guesses && slot.streamed && slot.loaded_for == For::guess && slot.idle()) return s;
    }
    return -1;
  }

 private:
  /// The slots of one format.
  struct Slab {
    int first = 0;
    int kept = 0, streamed = 0;  // taken
  };
  struct Layer {
    std::size_t experts = 0;
    int kept = 0;             // slots of the first format
    std::vector<int> places;  // [expert][format] slot, or -1
  };
  const Slab& slab(int format) const noexcept { return slabs_[static_cast<std::size_t>(format)]; }
  std::size_t place(ExpertId e, int format) const noexcept {
    return static_cast<std::size_t>(e) * limits_.slots.size() + static_cast<std::size_t>(format);
  }
  void clear(Layer& layer) const {
    layer.kept = 0;
    layer.places.assign(layer.experts * limits_.slots.size(), -1);
  }
  void count(const CacheSlot& slot, int change) noexcept {
    Slab& slab = slabs_[static_cast<std::size_t>(slot.format)];
    (slot.streamed ? slab.streamed : slab.kept) += change;
    if (slot.format == 0 && !slot.streamed) layers_[static_cast<std::size_t>(slot.layer)].kept += change;
  }

  SlotLimits limits_;
  std::vector<CacheSlot> slots_;
  std::vector<Slab> slabs_;  // [formats]
  std::vector<Layer> layers_;
};

}  // namespace moe::detail

// RingTable: which layer is in which section of a ring, who uses it, and what is read next. No lock, no memory, no
// reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <moe/lending.hpp>
#include <moe/storage/loading.hpp>

namespace moe {

/// Since the ring was made.
struct RingStatistics {
  std::uint64_t copies = 0;                // layers whose records were asked for
  std::uint64_t demanded = 0;              // of those, because a call waited for a layer that was not next
  std::uint64_t bytes_read = 0;            // of records that arrived
  std::uint64_t stalls = 0, stall_ns = 0;  // calls that waited for their section, and how long
};

namespace detail {

/// Room for all records of one layer.
struct RingSection {
  bool idle() const noexcept { return users == 0 && phase != Phase::loading; }
  /// Nobody is going to miss what it holds.
  bool free() const noexcept { return idle() && (phase == Phase::empty || spent); }

  Phase phase = Phase::empty;
  int layer = -1;
  int users = 0;                     // calls that hold the layer or wait for its reads
  bool spent = false;                // the layer ended since it was read
  Urgency urgency = Urgency::later;  // of its reads, as they were asked for
  bool hurried = false;
  int next = -1;  // LoadList
};

/// The rules of a ring. Every call gets on: none holds a section while it waits for another, a section that a call
/// waits for stays until it was lent, and what becomes idle goes first to the layer that was waited for longest.
///
/// A call asks for its layer (`ask`), then plans and waits until its reads have `ended`, and then releases the section,
/// or gives it up if they failed. Who changes anything else calls `plan` too, and starts what it decides.
class RingTable {
 public:
  int add_layer() {
    layers_.emplace_back();
    return num_layers() - 1;
  }
  /// All sections are empty; no layer comes afterwards.
  void cut(std::size_t sections) { sections_.resize(sections); }

  int num_layers() const noexcept { return static_cast<int>(layers_.size()); }
  const std::vector<RingSection>& sections() const noexcept { return sections_; }
  const RingSection& section(int s) const noexcept { return sections_[static_cast<std::size_t>(s)]; }
  /// The layer's section, or -1.
  int place(int layer) const noexcept { return layers_[static_cast<std::size_t>(layer)].section; }
  bool in(int layer, Phase phase) const noexcept { return place(layer) >= 0 && section(place(layer)).phase == phase; }
  /// The layer has a section whose reads have ended, well or badly.
  bool ended(int layer) const noexcept { return place(layer) >= 0 && !in(layer, Phase::loading); }
  /// Calls that wait for the layer to be given a section.
  int waiting(int layer) const noexcept { return layers_[static_cast<std::size_t>(layer)].waiting; }
  RingStatistics& statistics() noexcept { return statistics_; }
  const RingStatistics& statistics() const noexcept { return statistics_; }

  // ---- calls

  /// A call wants the layer. True if it joins reads, or a section, that others asked for: then a failure is not its
  /// own.
  bool ask(int l) noexcept {
    Layer& layer = at(l);
    if (layer.section >= 0) {
      ++of(layer).users;
      return true;
    }
    if (layer.waiting++ == 0) layer.ticket = ++tickets_;
    return false;
  }
  /// A call waits for a layer whose reads were asked for as those of a guess, and nobody has hurried them yet.
  bool hurry(int l) noexcept {
    if (!in(l, Phase::loading)) return false;
    RingSection& section = of(at(l));
    return section.urgency == Urgency::later && !std::exchange(section.hurried, true);
  }
  /// A call is done with the layer.
  void release(int s) noexcept {
    --at_section(s).users;
    at_section(s).spent = true;
  }
  /// A call has seen that the section's reads failed; the last one to see it empties the section.
  void give_up(int s) noexcept {
    if (--at_section(s).users == 0) empty(at_section(s));
  }
  /// The layer ended without a need; what is being read for nobody is handed on when it is there.
  void pass(int l) noexcept {
    if (place(l) >= 0) of(at(l)).spent = true;
  }
  /// The layer goes: it is not read any more. `remove` when it is not being read either.
  void leave(int l) noexcept { at(l).gone = true; }
  void remove(int l) noexcept {
    if (place(l) >= 0) empty(of(at(l)));
  }

  // ---- loads

  /// Decides what is read next into which section: what calls wait for, then what comes next in the ring.
  LoadList plan() noexcept {
    LoadList loads;
    for (int l = most_patient(); l >= 0; l = most_patient()) {
      const int s = room_for(l);
      if (s < 0) return loads;
      begin_load(s, l, Urgency::now, loads);
      ++statistics_.demanded;
    }
    for (int s = 0; s < num_sections(); ++s) {
      if (!section(s).free()) continue;
      const int l = absent_after(section(s).layer);
      if (l >= 0) begin_load(s, l, Urgency::later, loads);
      at_section(s).spent = false;
    }
    return loads;
  }
  /// All reads of the section have ended.
  void loaded(int s, bool well) noexcept { at_section(s).phase = well ? Phase::ready : Phase::failed; }

 private:
  struct Layer {
    int section = -1;
    int waiting = 0;  // calls that wait for a section, since `ticket`
    std::uint64_t ticket = 0;
    bool gone = false;
  };
  /// Places for LoadList.
  struct Sections {
    std::vector<RingSection>& all;
    RingSection& operator[](int s) const noexcept { return all[static_cast<std::size_t>(s)]; }
  };

  Layer& at(int l) noexcept { return layers_[static_cast<std::size_t>(l)]; }
  RingSection& at_section(int s) noexcept { return sections_[static_cast<std::size_t>(s)]; }
  RingSection& of(const Layer& layer) noexcept { return at_section(layer.section); }
  int num_sections() const noexcept { return static_cast<int>(sections_.size()); }

  void empty(RingSection& section) noexcept {
    if (section.layer >= 0) at(section.layer).section = -1;
    section = {};
  }
  void begin_load(int s, int l, Urgency urgency, LoadList& loads) noexcept {
    RingSection& section = at_section(s);
    empty(section);
    section.phase = Phase::loading;
    section.layer = l;
    section.urgency = urgency;
    section.users = std::exchange(at(l).waiting, 0);
    at(l).section = s;
    ++statistics_.copies;
    Sections places{sections_};
    loads.append(places, s);
  }

  int most_patient() const noexcept {
    int found = -1;
    std::uint64_t ticket = 0;
    for (int l = 0; l < num_layers(); ++l) {
      const Layer& layer = layers_[static_cast<std::size_t>(l)];
      if (layer.waiting == 0 || (found >= 0 && layer.ticket > ticket)) continue;
      found = l;
      ticket = layer.ticket;
    }
    return found;
  }
  /// A free section, else the idle one whose layer is furthest ahead of `l`; -1 if there is none.
  int room_for(int l) const noexcept {
    int furthest = -1, distance = 0;
    for (int s = 0; s < num_sections(); ++s) {
      if (section(s).free()) return s;
      const int ahead = (section(s).layer - l + num_layers()) % num_layers();
      if (!section(s).idle() || ahead < distance) continue;
      furthest = s;
      distance = ahead;
    }
    return furthest;
  }
  /// The first layer behind `l`, round the ring, that has no section; negative if all have one. Layer 0 is behind -1.
  int absent_after(int l) const noexcept {
    for (int step = 1; step <= num_layers(); ++step) {
      const int candidate = (l + step) % num_layers();
      if (place(candidate) < 0 && !layers_[static_cast<std::size_t>(candidate)].gone) return candidate;
    }
    return -1;
  }

  std::vector<RingSection> sections_;
  std::vector<Layer> layers_;
  std::uint64_t tickets_ = 0;
  RingStatistics statistics_;
};

}  // namespace detail

}  // namespace moe

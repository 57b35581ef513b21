// RingState: which layer is in which section of a ring, who uses it, and what is read next.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <moe/concepts.hpp>
#include <moe/storage/layer_source.hpp>

namespace moe {

/// One of the two is set.
struct RingOptions {
  std::size_t bytes = 0;  // for all sections; as many as fit, each with room for the largest layer
  int sections = 0;
};

/// Since the ring was made.
struct RingStatistics {
  std::uint64_t copies = 0;                // layers whose records were asked for
  std::uint64_t demanded = 0;              // of those, because a call waited for a layer that was not next
  std::uint64_t bytes_read = 0;            // of records that arrived
  std::uint64_t stalls = 0, stall_ns = 0;  // calls that waited for their section, and how long
};

namespace detail {

struct RingState;

/// Room for all records of one layer.
struct RingSection {
  enum class Phase { empty, loading, ready, failed };

  bool idle() const noexcept { return users == 0 && phase != Phase::loading; }
  /// Nobody is going to miss what it holds.
  bool free() const noexcept { return idle() && (phase == Phase::empty || spent); }

  RingState* state = nullptr;
  std::byte* bytes = nullptr;
  int layer = -1;
  Phase phase = Phase::empty;
  int users = 0;                     // calls that hold the layer or wait for its reads
  bool spent = false;                // the layer ended since it was read
  Urgency urgency = Urgency::later;  // of its reads, as they were asked for
  bool hurried = false;
  int answers_left = 0;
  std::optional<std::string> error;
  RingSection* next = nullptr;  // list of loads that are to be started
};

struct RingLayer {
  int experts = 0, format = 0;
  std::size_t record_bytes = 0, stride = 0;
  LayerSource source;
  RingSection* section = nullptr;
  int waiting = 0;  // calls that wait for a section, since `ticket`
  std::uint64_t ticket = 0;
  bool gone = false;

  std::size_t bytes() const noexcept { return static_cast<std::size_t>(experts) * stride; }
};

/// Bookkeeping under one mutex; bytes and sources are used outside it.
///
/// Every call gets on: none holds a section while it waits for another, a section that a call waits for stays until it
/// was lent, and what becomes idle goes first to the layer that was waited for longest.
struct RingState {
  explicit RingState(const RingOptions& o) : options(o) {}

  std::mutex mutex;
  std::condition_variable changed;
  RingOptions options;
  std::size_t section_bytes = 1;
  Buffer memory;
  std::vector<RingSection> sections;  // empty before the start
  std::vector<RingLayer> layers;
  std::uint64_t tickets = 0;
  RingStatistics statistics;

  int join(const RingLayer& layer) {
    const std::lock_guard lock(mutex);
    if (!sections.empty()) raise(Error("moe::Ring", "a layer that joins", "before the first use", "after it"));
    if (options.sections == 0 && layer.bytes() > options.bytes)
      raise(Error("moe::Ring", "budget in bytes", concat("at least one layer, ", layer.bytes()),
                  std::to_string(options.bytes)));
    layers.push_back(layer);
    if (layer.bytes() > section_bytes) section_bytes = layer.bytes();
    return static_cast<int>(layers.size()) - 1;
  }
  /// Waits for reads of this layer that are under way; the ring goes on without it.
  void leave(int l) noexcept {
    std::unique_lock lock(mutex);
    RingLayer& layer = at(l);
    layer.gone = true;
    changed.wait(lock, [&] { return layer.section == nullptr || layer.section->phase != RingSection::Phase::loading; });
    if (layer.section != nullptr) empty(*layer.section);
    changed.notify_all();
  }

  void start() {
    std::unique_lock lock(mutex);
    cut();
    RingSection* loads = plan();
    lock.unlock();
    begin_reads(loads);
  }

  /// The layer's section when its records are there; the caller gives it back by `release`. Throws IoError if a load
  /// that began for this call fails; what began before it is loaded again.
  RingSection& claim(int l) {
    start();
    std::unique_lock lock(mutex);
    RingLayer& layer = at(l);
    for (;;) {
      const bool joined = layer.section != nullptr;
      if (joined)
        ++layer.section->users;
      else if (layer.waiting++ == 0)
        layer.ticket = ++tickets;
      await(layer, lock);
      RingSection& section = *layer.section;
      if (section.phase == RingSection::Phase::ready) return section;
      const IoError error(concat("layer ", l, " of the ring: ", *section.error));
      if (--section.users == 0) empty(section);
      changed.notify_all();
      if (!joined) {
        lock.unlock();
        raise(error);
      }
      changed.wait(lock,
                   [&] { return layer.section == nullptr || layer.section->phase != RingSection::Phase::failed; });
    }
  }
  void release(RingSection& section) noexcept {
    std::unique_lock lock(mutex);
    --section.users;
    section.spent = true;
    RingSection* loads = plan();
    lock.unlock();
    begin_reads(loads);
  }
  /// The layer ended without a need; what is being read for nobody is handed on when it is there.
  void pass(int l) {
    start();
    std::unique_lock lock(mutex);
    if (RingSection* section = at(l).section) section->spent = true;
    RingSection* loads = plan();
    lock.unlock();
    begin_reads(loads);
  }

 private:
  RingLayer& at(int l) noexcept { return layers[static_cast<std::size_t>(l)]; }
  int num_layers() const noexcept { return static_cast<int>(layers.size()); }

  /// Takes the memory, once.
  void cut() {
    if (!sections.empty()) return;
    if (layers.empty()) raise(Error("moe::RingSections", "layers of the ring", "at least 1", "0"));
    const std::size_t wanted =
        options.sections > 0 ? static_cast<std::size_t>(options.sections) : options.bytes / section_bytes;
    const std::size_t count = wanted < layers.size() ? wanted : layers.size();
    Buffer bytes(count * section_bytes);
    sections.resize(count);
    memory = std::move(bytes);
    memory.touch();
    for (std::size_t i = 0; i < count; ++i) {
      sections[i].state = this;
      sections[i].bytes = memory.data() + i * section_bytes;
    }
  }

  /// Returns with the layer's section, whose reads have ended.
  void await(const RingLayer& layer, std::unique_lock<std::mutex>& lock) {
    std::chrono::steady_clock::time_point begin{};
    bool waited = false;
    for (;;) {
      if (RingSection* loads = plan()) {
        lock.unlock();
        begin_reads(loads);
        lock.lock();
      } else if (layer.section != nullptr && layer.section->phase != RingSection::Phase::loading) {
        break;
      } else if (layer.section != nullptr && layer.section->urgency == Urgency::later && !layer.section->hurried) {
        RingSection& section = *layer.section;
        section.hurried = true;
        lock.unlock();
        for (int e = 0; e < layer.experts; ++e) layer.source.hurry(&section);
        lock.lock();
      } else {
        if (!waited) begin = std::chrono::steady_clock::now();
        waited = true;
        changed.wait(lock);
      }
    }
    if (!waited) return;
    ++statistics.stalls;
    statistics.stall_ns += static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin).count());
  }

  void empty(RingSection& section) noexcept {
    if (section.layer >= 0) at(section.layer).section = nullptr;
    section.layer = -1;
    section.phase = RingSection::Phase::empty;
    section.spent = false;
    section.error.reset();
  }

  /// Decides what is read next into which section: what calls wait for, then what comes next in the ring.
  RingSection* plan() noexcept {
    RingSection* loads = nullptr;
    for (int l = most_patient(); l >= 0; l = most_patient()) {
      RingSection* section = room_for(l);
      if (section == nullptr) return loads;
      begin_load(*section, l, Urgency::now, loads);
      ++statistics.demanded;
    }
    for (RingSection& section : sections) {
      if (!section.free()) continue;
      const int l = absent_after(section.layer);
      if (l >= 0) begin_load(section, l, Urgency::later, loads);
      section.spent = false;
    }
    return loads;
  }
  int most_patient() const noexcept {
    int found = -1;
    std::uint64_t ticket = 0;
    for (int l = 0; l < num_layers(); ++l) {
      const RingLayer& layer = layers[static_cast<std::size_t>(l)];
      if (layer.waiting == 0 || (found >= 0 && layer.ticket > ticket)) continue;
      found = l;
      ticket = layer.ticket;
    }
    return found;
  }
  /// A free section, else the idle one whose layer is furthest ahead of `l`; null if there is none.
  RingSection* room_for(int l) noexcept {
    RingSection* furthest = nullptr;
    int distance = 0;
    for (RingSection& section : sections) {
      if (section.free()) return &section;
      const int ahead = (section.layer - l + num_layers()) % num_layers();
      if (!section.idle() || ahead < distance) continue;
      furthest = &section;
      distance = ahead;
    }
    return furthest;
  }
  /// The first layer behind `l`, round the ring, that has no section; negative if all have one. Layer 0 is behind -1.
  int absent_after(int l) noexcept {
    for (int step = 1; step <= num_layers(); ++step) {
      const int candidate = (l + step) % num_layers();
      if (const RingLayer& layer = at(candidate); layer.section == nullptr && !layer.gone) return candidate;
    }
    return -1;
  }
  /// Appends to `loads`: reads are started in the order of the decisions.
  void begin_load(RingSection& section, int l, Urgency urgency, RingSection*& loads) noexcept {
    empty(section);
    RingLayer& layer = at(l);
    section.layer = l;
    section.phase = RingSection::Phase::loading;
    section.urgency = urgency;
    section.hurried = false;
    section.users = std::exchange(layer.waiting, 0);
    section.answers_left = layer.experts + 1;
    section.next = nullptr;
    layer.section = &section;
    ++statistics.copies;
    RingSection** end = &loads;
    while (*end != nullptr) end = &(*end)->next;
    *end = &section;
  }

  /// Without the lock: a source may answer at once, on this thread. The last answer is ours, so that a layer cannot go
  /// while its source is being asked.
  void begin_reads(RingSection* loads) noexcept {
    while (loads != nullptr) {
      RingSection& section = *loads;
      loads = section.next;
      const RingLayer& layer = at(section.layer);
      for (ExpertId e = 0; e < layer.experts; ++e) {
        std::byte* const to = section.bytes + static_cast<std::size_t>(e) * layer.stride;
        layer.source.read({e, layer.format, to, &RingState::arrived, &section, section.urgency});
      }
      answer(section, nullptr, 0);
    }
  }
  static void arrived(void* who, const Error* error) noexcept {
    auto& section = *static_cast<RingSection*>(who);
    section.state->answer(section, error, section.state->at(section.layer).record_bytes);
  }
  void answer(RingSection& section, const Error* error, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex);
    if (error == nullptr)
      statistics.bytes_read += bytes;
    else if (!section.error)
      section.error.emplace(error->what());
    if (--section.answers_left > 0) return;
    section.phase = !section.error ? RingSection::Phase::ready : RingSection::Phase::failed;
    changed.notify_all();
  }
};

/// Keeps a section where it is; one of a wave's pins does it for all of them.
class RingPin {
 public:
  RingPin() = default;
  explicit RingPin(RingSection& section) noexcept : section_(&section) {}
  RingPin(RingPin&& other) noexcept : section_(std::exchange(other.section_, nullptr)) {}
  RingPin& operator=(RingPin&&) = delete;
  ~RingPin() {
    if (section_ != nullptr) section_->state->release(*section_);
  }

 private:
  RingSection* section_ = nullptr;
};

}  // namespace detail

}  // namespace moe

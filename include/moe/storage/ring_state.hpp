// RingState: the sections of a ring with their memory, under one mutex; what layers and pins of a ring share.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <moe/error.hpp>
#include <moe/storage/layer_source.hpp>
#include <moe/storage/loading.hpp>
#include <moe/storage/ring_table.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// One of the two is set.
struct RingOptions {
  std::size_t bytes = 0;  // for all sections; as many as fit, each with room for the largest layer
  int sections = 0;
};

namespace detail {

/// What is read for a layer.
struct RingLayer {
  int experts = 0, format = 0;
  std::size_t record_bytes = 0, stride = 0;
  LayerSource source;

  std::size_t bytes() const noexcept { return static_cast<std::size_t>(experts) * stride; }
};

/// The table of sections under one mutex; bytes and sources are used outside it.
struct RingState {
  explicit RingState(const RingOptions& o) : options(o) {}

  /// The memory of one section; what a source is given as `who`.
  struct Cell {
    RingState* state = nullptr;
    int section = -1;
    std::byte* bytes = nullptr;
    int answers_left = 0;  // of the reads under way
    std::optional<std::string> error;
  };

  std::mutex mutex;
  std::condition_variable changed;
  RingOptions options;
  RingTable table;
  std::size_t section_bytes = 1;
  Buffer memory;
  std::vector<Cell> cells;  // empty before the start
  std::vector<RingLayer> layers;

  int join(const RingLayer& layer) {
    const std::lock_guard lock(mutex);
    if (!cells.empty()) raise(Error("moe::Ring", "a layer that joins", "before the first use", "after it"));
    if (options.sections == 0 && layer.bytes() > options.bytes)
      raise(Error("moe::Ring", "budget in bytes", concat("at least one layer, ", layer.bytes()),
                  std::to_string(options.bytes)));
    layers.push_back(layer);
    if (layer.bytes() > section_bytes) section_bytes = layer.bytes();
    return table.add_layer();
  }
  /// Waits for reads of this layer that are under way; the ring goes on without it.
  void leave(int l) noexcept {
    std::unique_lock lock(mutex);
    table.leave(l);
    changed.wait(lock, [&] { return !table.in(l, Phase::loading); });
    table.remove(l);
    changed.notify_all();
  }

  void start() {
    std::unique_lock lock(mutex);
    start(lock);
  }

  /// The layer's section when its records are there; the caller gives it back by `release`. Throws IoError if a load
  /// that began for this call fails; what began before it is loaded again.
  int claim(int l) {
    std::unique_lock lock(mutex);
    start(lock);
    for (;;) {
      const bool joined = table.ask(l);
      await(l, lock);
      const int s = table.place(l);
      if (table.section(s).phase == Phase::ready) return s;
      const IoError error(concat("layer ", l, " of the ring: ", *cells[static_cast<std::size_t>(s)].error));
      table.give_up(s);
      changed.notify_all();
      if (!joined) {
        lock.unlock();
        raise(error);
      }
      changed.wait(lock, [&] { return !table.in(l, Phase::failed); });
    }
  }
  void release(int s) noexcept {
    std::unique_lock lock(mutex);
    table.release(s);
    plan(lock);
  }
  /// The layer ended without a need.
  void pass(int l) {
    std::unique_lock lock(mutex);
    start(lock);
    table.pass(l);
    plan(lock);
  }

 private:
  void start(std::unique_lock<std::mutex>& lock) {
    cut();
    plan(lock);
  }
  /// Takes the memory, once.
  void cut() {
    if (!cells.empty()) return;
    if (layers.empty()) raise(Error("moe::RingSections", "layers of the ring", "at least 1", "0"));
    const std::size_t wanted =
        options.sections > 0 ? static_cast<std::size_t>(options.sections) : options.bytes / section_bytes;
    const std::size_t count = wanted < layers.size() ? wanted : layers.size();
    Buffer bytes(count * section_bytes);
    table.cut(count);
    cells.resize(count);
    memory = std::move(bytes);
    memory.touch();
    for (std::size_t i = 0; i < count; ++i) {
      cells[i].state = this;
      cells[i].section = static_cast<int>(i);
      cells[i].bytes = memory.data() + i * section_bytes;
    }
  }

  /// Returns when the layer has a section whose reads have ended.
  void await(int l, std::unique_lock<std::mutex>& lock) {
    std::optional<StallClock> stall;
    for (;;) {
      if (plan(lock)) continue;
      if (table.ended(l)) break;
      if (table.hurry(l)) {
        hurry(l, lock);
      } else {
        if (!stall) stall.emplace();
        changed.wait(lock);
      }
    }
    if (stall) stall->stop(table.statistics());
  }
  void hurry(int l, std::unique_lock<std::mutex>& lock) const {
    const RingLayer& layer = layers[static_cast<std::size_t>(l)];
    const Cell& cell = cells[static_cast<std::size_t>(table.place(l))];
    lock.unlock();
    for (int e = 0; e < layer.experts; ++e) layer.source.hurry(&cell);
    lock.lock();
  }

  /// Starts what may be read now; false if there is nothing. Without the lock: a source may answer at once, on this
  /// thread.
  bool plan(std::unique_lock<std::mutex>& lock) noexcept {
    const LoadList loads = table.plan();
    if (loads.empty()) return false;
    lock.unlock();
    for (int s = loads.first; s >= 0;) {
      const RingSection& section = table.section(s);
      Cell& cell = cells[static_cast<std::size_t>(s)];
      s = section.next;
      read(layers[static_cast<std::size_t>(section.layer)], section.urgency, cell);
    }
    lock.lock();
    return true;
  }
  /// The last answer is ours, so that a layer cannot go while its source is being asked.
  static void read(const RingLayer& layer, Urgency urgency, Cell& cell) noexcept {
    cell.answers_left = layer.experts + 1;
    cell.error.reset();
    for (ExpertId e = 0; e < layer.experts; ++e) {
      std::byte* const to = cell.bytes + static_cast<std::size_t>(e) * layer.stride;
      layer.source.read({e, layer.format, to, &RingState::arrived, &cell, urgency});
    }
    answer(cell, nullptr, 0);
  }
  static void arrived(void* who, const Error* error) noexcept {
    auto& cell = *static_cast<Cell*>(who);
    const int layer = cell.state->table.section(cell.section).layer;  // loading: nobody changes it
    answer(cell, error, cell.state->layers[static_cast<std::size_t>(layer)].record_bytes);
  }
  static void answer(Cell& cell, const Error* error, std::size_t bytes) noexcept {
    RingState& state = *cell.state;
    const std::lock_guard lock(state.mutex);
    if (error == nullptr)
      state.table.statistics().bytes_read += bytes;
    else if (!cell.error)
      cell.error.emplace(error->what());
    if (--cell.answers_left > 0) return;
    state.table.loaded(cell.section, !cell.error);
    state.changed.notify_all();
  }
};

/// Keeps a section where it is; one of a wave's pins does it for all of them.
class RingPin {
 public:
  RingPin() = default;
  RingPin(RingState& state, int section) noexcept : state_(&state), section_(section) {}
  RingPin(RingPin&& other) noexcept : state_(std::exchange(other.state_, nullptr)), section_(other.section_) {}
  RingPin& operator=(RingPin&&) = delete;
  ~RingPin() {
    if (state_ != nullptr) state_->release(section_);
  }

 private:
  RingState* state_ = nullptr;
  int section_ = -1;
};

}  // namespace detail

}  // namespace moe

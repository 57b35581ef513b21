// CacheState: the slots of a cache with their memory, under one mutex; what layers and pins of a cache share.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <moe/concepts.hpp>
#include <moe/storage/cache_slots.hpp>
#include <moe/storage/eviction.hpp>
#include <moe/storage/host_slots.hpp>
#include <moe/storage/layer_source.hpp>
#include <moe/storage/slot_table.hpp>

namespace moe {

/// What a cache does with guesses (`MoELayer::prefetch`, `ExpertCache::plan`): nothing, count how right they are, or
/// also load them.
enum class Prefetch { off, observe, enforce };

struct CacheOptions {
  std::size_t bytes = 0;            // for the records of all layers that share the cache
  std::vector<double> shares = {};  // of the bytes, for each format of the records; empty: as many slots of each
  /// Most records of the first format that each layer keeps, 0 too (AdapMoE's allocation); empty: layers compete.
  std::vector<int> slots_by_layer = {};
  int staging_slots = 0;  // of each format, within the bytes: for records that are used and not kept
  Prefetch prefetch = Prefetch::enforce;
  std::size_t prefetch_bytes = std::numeric_limits<std::size_t>::max();  // of guesses coming or not used yet
};

namespace detail {

/// The table of slots under one mutex; bytes and sources are used outside it.
template <CacheMemory Slots>
struct CacheState {
  CacheState(CacheOptions o, AnyEviction eviction) : options(std::move(o)), table(std::move(eviction)) {}

  /// The load of one slot; what a source is given as `who`.
  struct Cell {
    CacheState* state = nullptr;
    int slot = -1;
    std::string error;  // its own text: a copied exception shares it between threads
  };

  std::mutex mutex;
  std::condition_variable changed;
  int waiting = 0, leaving = 0;  // threads that wait for a change: calls, and layers that go
  const CacheOptions options;
  SlotTable table;
  std::vector<std::size_t> record_bytes;  // [formats] of the slots
  Slots memory;
  std::vector<Cell> cells;           // [slot]
  std::vector<LayerSource> sources;  // [layer]
  std::vector<int> asking;           // [layer] threads inside its source

  /// Slots are cut when the first layer joins, and again for larger records while they are unused.
  int join(const LayerSource& source, int experts, std::span<const std::size_t> bytes) {
    const std::lock_guard lock(mutex);
    check_limits(table.layers());
    std::vector<std::size_t> slot_bytes;
    for (const std::size_t b : bytes) slot_bytes.push_back(round_up(b, page_alignment));
    if (record_bytes.empty()) {
      cut(std::move(slot_bytes));
    } else {
      grow(std::move(slot_bytes));
    }
    sources.push_back(source);
    asking.push_back(0);
    return table.add_layer(experts);
  }
  /// Waits for loads under way, and for who is inside the layer's source, and empties its slots.
  void leave(int layer) noexcept {
    std::unique_lock lock(mutex);
    ++leaving;
    changed.wait(lock, [&] { return table.loading(layer) == 0 && asking[static_cast<std::size_t>(layer)] == 0; });
    --leaving;
    table.remove_layer(layer);
  }

  /// Answer of a source, on any thread.
  static void loaded(void* who, const Error* error) noexcept {
    auto& cell = *static_cast<Cell*>(who);
    CacheState& state = *cell.state;
    const std::lock_guard lock(state.mutex);
    const auto format = static_cast<std::size_t>(state.table.slot(cell.slot).format);
    if (state.table.loaded(cell.slot, error == nullptr, state.record_bytes[format]) && error != nullptr)
      cell.error = error->what();
    state.wake();
  }
  /// Starts loads, each without the lock: a source may answer at once, on this thread. It may also answer before it
  /// returns from being asked, so a layer does not go while somebody asks.
  void start(const LoadList& loads, std::unique_lock<std::mutex>& lock) {
    for (int s = loads.first; s >= 0;) {
      const CacheSlot& slot = table.slot(s);
      const auto layer = static_cast<std::size_t>(slot.layer);
      const LayerSource source = sources[layer];
      const Urgency urgency = slot.loaded_for == For::need ? Urgency::now : Urgency::later;
      Cell& cell = cells[static_cast<std::size_t>(s)];
      const ReadRequest request{slot.expert, slot.format, nullptr, &CacheState::loaded, &cell, urgency};
      s = slot.next;
      ++asking[layer];
      lock.unlock();
      memory.read(source, request, cell.slot);
      lock.lock();
      if (--asking[layer] == 0 && leaving > 0) changed.notify_all();
    }
  }

  /// Until something has changed.
  void wait(std::unique_lock<std::mutex>& lock) {
    const StallClock clock;
    ++waiting;
    changed.wait(lock);
    --waiting;
    clock.stop(table.statistics());
  }
  /// Something has changed. Asked under the lock, for every pin that goes: nearly always nobody waits.
  void wake() noexcept {
    if (waiting + leaving > 0) changed.notify_all();
  }

  bool may_guess() const noexcept {
    return options.prefetch == Prefetch::enforce &&
           (static_cast<std::size_t>(table.guesses_in_slots()) + 1) * record_bytes[0] <= options.prefetch_bytes;
  }
  /// Claims what of the plan has room.
  void claim_plan(LoadList& loads) noexcept {
    if (!table.has_plan()) return;
    while (may_guess()) {
      const int slot = table.claim_planned();
      if (slot < 0) break;
      table.append(slot, loads);
    }
  }

  void unpin(int slot) noexcept {
    std::unique_lock lock(mutex);
    table.unpin(slot);
    wake();
    LoadList loads;
    claim_plan(loads);
    start(loads, lock);
  }

 private:
  void check_limits(int layers) const {
    const std::vector<int>& limits = options.slots_by_layer;
    if (limits.empty()) return;
    if (static_cast<std::size_t>(layers) >= limits.size())
      raise(Error("moe::Cached", "layers of the cache", concat(limits.size(), ", as in slots_by_layer"), "one more"));
    if (limits[static_cast<std::size_t>(layers)] < 1 && options.staging_slots < 1)
      raise(Error("moe::ExpertCache", concat("slots of layer ", layers), "at least 1, or staging_slots", "neither"));
  }
  /// For records of these sizes too, in whole pages.
  void grow(std::vector<std::size_t> bytes) {
    require_equal("moe::Cached", "formats of the records", static_cast<int>(record_bytes.size()),
                  static_cast<int>(bytes.size()));
    for (std::size_t f = 0; f < bytes.size(); ++f) bytes[f] = std::max(bytes[f], record_bytes[f]);
    if (bytes == record_bytes) return;
    if (!table.unused())
      raise(Error("moe::Cached", "bytes of a record", "at most those of the slots, which are in use", "more"));
    cut(std::move(bytes));
  }
  int slots_of(std::size_t format, std::span<const std::size_t> bytes) const {
    const std::vector<double>& shares = options.shares;
    if (!shares.empty()) {
      require_equal("moe::ExpertCache", "shares of the budget", static_cast<int>(bytes.size()),
                    static_cast<int>(shares.size()));
      return static_cast<int>(shares[format] * static_cast<double>(options.bytes) / static_cast<double>(bytes[format]));
    }
    std::size_t one_of_each = 0;
    for (const std::size_t b : bytes) one_of_each += b;
    return static_cast<int>(options.bytes / one_of_each);
  }
  /// Slots of these sizes, in whole pages.
  void cut(std::vector<std::size_t> bytes) {
    SlotLimits limits;
    limits.slots_by_layer = options.slots_by_layer;
    limits.staging = options.staging_slots;
    std::size_t total = 0;
    for (std::size_t f = 0; f < bytes.size(); ++f) {
      limits.slots.push_back(slots_of(f, bytes));
      check_slots(limits, f, bytes[f]);
      total += static_cast<std::size_t>(limits.slots[f]) * bytes[f];
    }
    if (total > options.bytes)
      raise(Error("moe::ExpertCache", "shares of the budget", "at most 1 in all", concat(total, " bytes")));
    std::vector<std::size_t> sizes;  // [slot], format by format
    for (std::size_t f = 0; f < bytes.size(); ++f)
      sizes.insert(sizes.end(), static_cast<std::size_t>(limits.slots[f]), bytes[f]);
    cells.clear();  // if there is no memory for the new slots there are none, and `acquire` says so
    memory.allocate(sizes);
    table.cut(std::move(limits));
    record_bytes = std::move(bytes);
    for (std::size_t s = 0; s < sizes.size(); ++s) cells.push_back({this, static_cast<int>(s), {}});
  }
  void check_slots(const SlotLimits& limits, std::size_t format, std::size_t bytes) const {
    const int slots = limits.slots[format];
    const int least = options.staging_slots > 0 ? options.staging_slots : 1;
    if (slots < least)
      raise(Error("moe::ExpertCache", concat("budget in bytes for records of format ", format),
                  concat("at least ", least, " of ", bytes), std::to_string(options.bytes)));
    if (format != 0) return;
    std::int64_t kept = 0;
    for (const int n : limits.slots_by_layer) kept += n;
    if (kept > slots - options.staging_slots)
      raise(Error("moe::ExpertCache", "slots_by_layer in all",
                  concat("at most ", slots - options.staging_slots, ", what the budget holds beside staging"),
                  std::to_string(kept)));
  }
};

/// Keeps one slot where it is.
template <CacheMemory Slots>
class CachePin {
 public:
  using Queue = typename Slots::memory::queue;

  CachePin() = default;  // of a need that is skipped
  CachePin(CacheState<Slots>& state, int slot) noexcept : state_(&state), slot_(slot) {}
  CachePin(CachePin&& other) noexcept : state_(std::exchange(other.state_, nullptr)), slot_(other.slot_) {}
  CachePin& operator=(CachePin&&) = delete;
  /// What the call has queued may still read the slot.
  void release(Queue& queue) noexcept requires requires(Slots slots) { slots.release(0, queue); }
  {
    if (state_ == nullptr) return;
    const std::lock_guard lock(state_->mutex);
    state_->memory.release(slot_, queue);
  }
  ~CachePin() {
    if (state_ != nullptr) state_->unpin(slot_);
  }

 private:
  CacheState<Slots>* state_ = nullptr;
  int slot_ = -1;
};

}  // namespace detail

}  // namespace moe

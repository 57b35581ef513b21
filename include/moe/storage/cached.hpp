// Cached: experts in slots of a byte budget that layers share, loaded by any source while others compute.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
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
#include <moe/storage/eviction.hpp>
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

/// One use that a predictor of whole paths expects.
struct PlannedExpert {
  int layer = 0;
  ExpertId expert = -1;
  float probability = 1;
};

namespace detail {

/// A layer's source behind pointers, so that one layer's call may start loads of another.
struct LayerSource {
  const void* source = nullptr;
  void (*read)(const void* source, const ReadRequest& request) = nullptr;
  void (*hurry)(const void* source, const void* who) noexcept = nullptr;
};

/// Slots whose loads are to be started, linked by CacheSlot::next.
struct LoadList {
  int first = -1, last = -1;
};

/// The table of slots under one mutex; bytes and sources are used outside it.
struct CacheState {
  CacheState(CacheOptions o, AnyEviction eviction) : options(std::move(o)), table(std::move(eviction)) {}

  /// The memory of one slot; what a source is given as `who`.
  struct Cell {
    CacheState* state = nullptr;
    int slot = -1;
    std::byte* bytes = nullptr;
    LayerSource source;  // of the load under way
    std::string error;   // its own text: a copied exception shares it between threads
  };

  std::mutex mutex;
  std::condition_variable changed;
  const CacheOptions options;
  SlotTable table;
  std::vector<std::size_t> record_bytes;  // [formats] of the slots
  Buffer memory;
  std::vector<Cell> cells;
  std::vector<LayerSource> sources;  // [layer]

  /// Slots are cut when the first layer joins, and again for larger records while they are unused.
  int join(const LayerSource& source, int experts, std::span<const std::size_t> bytes) {
    const std::lock_guard lock(mutex);
    check_limits(table.layers());
    if (record_bytes.empty()) {
      cut(bytes);
    } else {
      require_equal("moe::Cached", "formats of the records", static_cast<int>(record_bytes.size()),
                    static_cast<int>(bytes.size()));
      std::vector<std::size_t> larger(bytes.begin(), bytes.end());
      for (std::size_t f = 0; f < larger.size(); ++f)
        larger[f] = std::max(round_up(larger[f], page_alignment), record_bytes[f]);
      if (larger != record_bytes) grow(larger);
    }
    sources.push_back(source);
    return table.add_layer(experts);
  }
  /// Waits for loads under way and empties the layer's slots.
  void leave(int layer) noexcept {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return table.loading(layer) == 0; });
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
    state.changed.notify_all();
  }
  /// Starts loads without the lock: a source may answer at once, on this thread. The slots of a list are loading, so
  /// nobody else changes them.
  void start(const LoadList& loads, std::unique_lock<std::mutex>& lock) {
    if (loads.first < 0) return;
    lock.unlock();
    for (int s = loads.first; s >= 0;) {
      const CacheSlot& slot = table.slot(s);
      Cell& cell = cells[static_cast<std::size_t>(s)];
      const ReadRequest request{slot.expert,         slot.format, cell.bytes,
                                &CacheState::loaded, &cell,       slot.demanded ? Urgency::now : Urgency::later};
      s = slot.next;
      cell.source.read(cell.source.source, request);
    }
    lock.lock();
  }
  void append(int s, LoadList& loads) noexcept {
    CacheSlot& slot = table.slot(s);
    slot.next = -1;
    cells[static_cast<std::size_t>(s)].source = sources[static_cast<std::size_t>(slot.layer)];
    if (loads.first < 0)
      loads.first = s;
    else
      table.slot(loads.last).next = s;
    loads.last = s;
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
      append(slot, loads);
    }
  }

  void unpin(int slot) noexcept {
    std::unique_lock lock(mutex);
    table.unpin(slot);
    changed.notify_all();
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
  void grow(std::span<const std::size_t> bytes) {
    if (!table.unused())
      raise(Error("moe::Cached", "bytes of a record", concat("at most those of the slots, which are in use"), "more"));
    cut(bytes);
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
  void cut(std::span<const std::size_t> records) {
    std::vector<std::size_t> bytes;
    for (const std::size_t b : records) bytes.push_back(round_up(b, page_alignment));
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
    memory = Buffer();
    memory = Buffer(total);
    table.cut(std::move(limits));
    record_bytes = std::move(bytes);
    cells.assign(table.slots().size(), {});
    std::byte* next = memory.data();
    for (std::size_t s = 0; s < cells.size(); ++s) {
      cells[s].state = this;
      cells[s].slot = static_cast<int>(s);
      cells[s].bytes = next;
      next += record_bytes[static_cast<std::size_t>(table.slots()[s].format)];
    }
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
class CachePin {
 public:
  CachePin() = default;  // of a need that is skipped
  CachePin(CacheState& state, int slot) noexcept : state_(&state), slot_(slot) {}
  CachePin(CachePin&& other) noexcept : state_(std::exchange(other.state_, nullptr)), slot_(other.slot_) {}
  CachePin& operator=(CachePin&&) = delete;
  ~CachePin() {
    if (state_ != nullptr) state_->unpin(slot_);
  }

 private:
  CacheState* state_ = nullptr;
  int slot_ = -1;
};

}  // namespace detail

/// Slots for the experts of one or several layers, and the rule for giving them up. A handle: copies share the slots.
/// Layers join in the order in which they are computed. All memory is taken when the first one joins (again when one
/// with larger records does); nothing is allocated later.
class ExpertCache {
 public:
  /// Any Eviction. Throws Error when the first layer joins if the budget holds no record of some format.
  explicit ExpertCache(CacheOptions options, AnyEviction eviction = Lru{})
      : state_(std::make_shared<detail::CacheState>(std::move(options), std::move(eviction))) {}

  /// Taken together, so that the figures belong to one moment.
  CacheStatistics statistics() const {
    const std::lock_guard lock(state_->mutex);
    return state_->table.statistics();
  }
  /// Bytes of slots; 0 before the first layer joined.
  std::size_t bytes_held() const {
    const std::lock_guard lock(state_->mutex);
    return state_->memory.bytes();
  }
  int slots() const {
    const std::lock_guard lock(state_->mutex);
    return static_cast<int>(state_->table.slots().size());
  }

  /// A new sequence: counts of uses begin anew, what is here stays.
  void begin_sequence() const {
    const std::lock_guard lock(state_->mutex);
    state_->table.begin_sequence();
  }

  /// What the next pass through the layers is expected to use (ExpertFlow, He et al. 2024): loaded at once, by layer
  /// and then by probability, as far as the slots reach, and further as layers end. Once a layer is routed, what was
  /// planned for it wrongly gives way first. Choose ByPlan as the eviction. An empty plan ends planning.
  /// Throws Error for a layer or an expert that there is not.
  void plan(std::span<const PlannedExpert> uses) const {
    std::vector<PlannedExpert> sorted(uses.begin(), uses.end());
    std::stable_sort(sorted.begin(), sorted.end(), [](const PlannedExpert& a, const PlannedExpert& b) {
      return a.layer != b.layer ? a.layer < b.layer : a.probability > b.probability;
    });
    std::vector<std::pair<int, ExpertId>> order;
    for (const PlannedExpert& use : sorted) order.emplace_back(use.layer, use.expert);
    std::unique_lock lock(state_->mutex);
    for (const PlannedExpert& use : sorted) check(use);
    if (state_->options.prefetch == Prefetch::off) return;
    state_->table.plan(order);
    detail::LoadList loads;
    state_->claim_plan(loads);
    state_->start(loads, lock);
  }

 private:
  void check(const PlannedExpert& use) const {
    const auto in = [](const char* what, int count, int found) {
      if (found < 0 || found >= count)
        raise(Error("moe::ExpertCache::plan", what, concat("0 to ", count - 1), std::to_string(found)));
    };
    in("layer", state_->table.layers(), use.layer);
    in("expert", state_->table.experts(use.layer), use.expert);
  }

  template <RecordSource Source>
  friend class Cached;
  std::shared_ptr<detail::CacheState> state_;
};

/// One layer's experts through a cache: hits are lent at once, misses are loaded by `Source` while the hits compute.
///
/// Output is bit-identical to a resident storage for every budget of at least one record, unless the source has several
/// precisions (Mixed). Several threads may acquire at once; none holds pins while it waits, and a record stays from the
/// decision to load it until it was lent, so every thread gets on. A read that fails throws IoError from `acquire` and
/// leaves the cache usable. Costs a scan of the slots per miss, a lock per record.
template <RecordSource Source>
class Cached {
 public:
  using memory = host_memory;
  using layout = typename Source::layout;
  using formats = typename Source::formats;
  using pin = detail::CachePin;

  Cached(const ExpertCache& cache, Source source)
      : cache_(cache), member_(std::make_shared<Member>(cache.state_, std::move(source))) {}

  ExpertShape shape() const noexcept { return member_->source.shape(); }
  int num_experts() const noexcept { return member_->source.num_experts(); }
  const ExpertCache& cache() const noexcept { return cache_; }
  CacheStatistics statistics() const { return cache_.statistics(); }

  /// Lends what is there and starts what is not, as far as there is room. Waits only while nothing wanted is there.
  /// Served needs come first in `todo`; the rest comes back.
  std::span<ExpertNeed> acquire(std::span<ExpertNeed> todo, Wave<pin>& wave, host_queue&) const {
    State& state = *member_->state;
    std::unique_lock lock(state.mutex);
    if (wave.ticket == 0) {
      wave.ticket = state.table.begin_call(layer(), todo, lowest());
      todo = skip(todo, wave);
    }
    for (;;) {
      raise_failure(todo, wave);
      todo = lend(todo, wave);
      const detail::LoadList loads = claim(todo, wave);
      state.start(loads, lock);
      if (!wave.empty() || todo.empty()) return todo;
      if (loads.first < 0) wait(lock);
    }
  }

  /// The call that owned `wave` ended before `rest` was served: what it claimed may go.
  void abandon(std::span<const ExpertNeed> rest, const Wave<pin>& wave) const noexcept {
    if (wave.ticket == 0) return;
    State& state = *member_->state;
    const std::lock_guard lock(state.mutex);
    state.table.abandon(layer(), rest, &wave);
    state.changed.notify_all();
  }

  /// Loads what may be wanted soon, most rows first, as the options allow. Gives up nothing that is in use or wanted,
  /// and nothing that is guessed for a layer whose call is still to come. Returns how many of the guesses were neither
  /// here nor coming.
  int expect(std::span<const ExpertNeed> guesses) const {
    State& state = *member_->state;
    if (state.options.prefetch == Prefetch::off) return 0;
    std::unique_lock lock(state.mutex);
    const int missing = state.table.predict(layer(), guesses, state.options.prefetch == Prefetch::enforce, lowest());
    detail::LoadList loads;
    while (state.may_guess()) {
      const ExpertNeed* best = most_wanted(guesses);
      if (best == nullptr) break;
      const int slot = state.table.claim_guess(layer(), best->expert, choose(member_->source, *best));
      if (slot < 0) break;
      state.append(slot, loads);
    }
    state.start(loads, lock);
    return missing;
  }

  /// Sets a bit for every expert that is here now: [pieces(E, 32)] words.
  void residency(std::uint32_t* bits) const noexcept {
    State& state = *member_->state;
    const std::lock_guard lock(state.mutex);
    for (int word = 0; word < pieces(num_experts(), 32); ++word) bits[word] = 0;
    for (ExpertId e = 0; e < num_experts(); ++e)
      if (state.table.ready(layer(), e)) bits[e / 32] |= 1u << (e % 32);
  }

 private:
  using State = detail::CacheState;
  static constexpr int num_formats = count_of(formats{});
  static_assert(num_formats <= max_cached_formats, "moe::Cached: a source of at most 4 formats");

  /// A layer of the cache; goes only when its loads have ended.
  struct Member {
    Member(std::shared_ptr<State> s, Source src) : state(std::move(s)), source(std::move(src)), layer(join()) {}
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;
    ~Member() { state->leave(layer); }

    int join() {
      std::array<std::size_t, num_formats> bytes;
      for (int f = 0; f < num_formats; ++f) bytes[static_cast<std::size_t>(f)] = source.bytes(f);
      return state->join({&source, &read, &hurry}, source.num_experts(), bytes);
    }
    static void read(const void* source, const ReadRequest& request) {
      static_cast<const Source*>(source)->read(request);
    }
    static void hurry(const void* source, const void* who) noexcept {
      moe::hurry(*static_cast<const Source*>(source), who);
    }
    std::shared_ptr<State> state;
    Source source;
    int layer;
  };

  int layer() const noexcept { return member_->layer; }
  auto lowest() const noexcept {
    return [&source = member_->source](const ExpertNeed& need) { return choose(source, need); };
  }

  /// Answers the needs that are not worth a load: first in `todo`, with refs to nothing.
  std::span<ExpertNeed> skip(std::span<ExpertNeed> todo, Wave<pin>& wave) const {
    detail::SlotTable& table = member_->state->table;
    std::size_t skipped = 0;
    for (ExpertNeed& need : todo) {
      if (!table.skips(layer(), need, choose(member_->source, need))) continue;
      ++table.statistics().skipped;
      wave.push({need.expert, 0, nullptr}, pin());
      std::swap(todo[skipped++], need);
    }
    return todo.subspan(skipped);
  }

  void raise_failure(std::span<const ExpertNeed> todo, const Wave<pin>& wave) const {
    State& state = *member_->state;
    for (const ExpertNeed& need : todo) {
      const int slot = state.table.failed(layer(), need, &wave);
      if (slot < 0) continue;
      raise(IoError(concat("expert ", need.expert, ": ", state.cells[static_cast<std::size_t>(slot)].error)));
    }
  }

  /// Pins what is ready, moves it to the front, and returns the rest.
  std::span<ExpertNeed> lend(std::span<ExpertNeed> todo, Wave<pin>& wave) const {
    State& state = *member_->state;
    std::size_t served = 0;
    for (ExpertNeed& need : todo) {
      const int slot = state.table.lend(layer(), need, choose(member_->source, need), &wave);
      if (slot < 0) continue;
      wave.push({need.expert, state.table.slot(slot).format, state.cells[static_cast<std::size_t>(slot)].bytes},
                pin(state, slot));
      std::swap(todo[served++], need);
    }
    return todo.subspan(served);
  }

  /// Takes slots for what is neither here nor coming, and protects what a guess is bringing. List of loads to start.
  detail::LoadList claim(std::span<const ExpertNeed> todo, const Wave<pin>& wave) const {
    State& state = *member_->state;
    detail::LoadList loads;
    for (const ExpertNeed& need : todo) {
      const int format = choose(member_->source, need);
      if (const int coming = state.table.claim_coming(layer(), need, format, &wave); coming >= 0) {
        if (!state.table.slot(coming).demanded) hurry(member_->source, &state.cells[static_cast<std::size_t>(coming)]);
        continue;
      }
      if (const int slot = state.table.claim(layer(), need, format, &wave, wave.ticket); slot >= 0)
        state.append(slot, loads);
    }
    state.claim_plan(loads);
    return loads;
  }

  void wait(std::unique_lock<std::mutex>& lock) const {
    State& state = *member_->state;
    const auto begin = std::chrono::steady_clock::now();
    state.changed.wait(lock);
    CacheStatistics& statistics = state.table.statistics();
    ++statistics.stalls;
    statistics.stall_ns += static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin).count());
  }

  const ExpertNeed* most_wanted(std::span<const ExpertNeed> guesses) const noexcept {
    const ExpertNeed* best = nullptr;
    for (const ExpertNeed& need : guesses) {
      if (!member_->state->table.absent(layer(), need, choose(member_->source, need))) continue;
      const bool better =
          best == nullptr || need.rows > best->rows || (need.rows == best->rows && need.mass_ahead < best->mass_ahead);
      if (better) best = &need;
    }
    return best;
  }

  ExpertCache cache_;
  std::shared_ptr<const Member> member_;
};

}  // namespace moe

// Cached: experts in slots of a byte budget that layers share, loaded by any source while others compute.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <moe/concepts.hpp>
#include <moe/storage/eviction.hpp>

namespace moe {

struct CacheOptions {
  std::size_t bytes = 0;  // for the records of all layers that share the cache
};

/// Since construction; every need that was served is a hit or a miss.
struct CacheStatistics {
  std::uint64_t hits = 0, misses = 0;
  std::uint64_t evictions = 0;
  std::uint64_t loads = 0, bytes_read = 0;            // demanded and prefetched
  std::uint64_t prefetched = 0, prefetched_used = 0;  // loads by guess, and those that were used
  std::uint64_t stalls = 0, stall_ns = 0;             // times a call waited for a load, and how long
};

namespace detail {

struct CacheState;

enum class Phase { empty, loading, ready, failed };

/// One place for one record. Only `ready` slots without pins and claims may be given up.
struct CacheSlot {
  CacheState* state = nullptr;
  std::byte* bytes = nullptr;
  int layer = -1;
  CacheEntry entry;
  Phase phase = Phase::empty;
  int pins = 0;
  const void* claim = nullptr;  // the wave that decided to load it and has not been lent it yet
  bool demanded = false;        // loaded for a need, not by guess; until it is lent
  bool guessed = false;         // loaded by guess and not used since
  CacheSlot* next = nullptr;    // list of loads that are to be started
  std::optional<Error> error;
};

/// Bookkeeping under one mutex; bytes and sources are used outside it.
struct CacheState {
  explicit CacheState(std::size_t budget) : budget_bytes(budget) {}

  std::mutex mutex;
  std::condition_variable changed;
  std::size_t budget_bytes;
  std::size_t record_bytes = 0;
  Buffer memory;
  std::vector<CacheSlot> slots;
  std::vector<std::vector<CacheSlot*>> places;  // [layer][expert]
  std::vector<int> loading;                     // [layer]
  std::uint64_t now = 0;
  CacheStatistics statistics;

  /// Slots are cut when the first layer joins; later layers must not have larger records.
  int join(int experts, std::size_t bytes) {
    const std::lock_guard lock(mutex);
    if (slots.empty()) cut(round_up(bytes, page_alignment));
    if (bytes > record_bytes)
      raise(Error("moe::Cached", "bytes of a record", concat("at most ", record_bytes, ", the slots of this cache"),
                  std::to_string(bytes)));
    places.emplace_back(static_cast<std::size_t>(experts), nullptr);
    loading.push_back(0);
    return static_cast<int>(places.size()) - 1;
  }
  /// Waits for loads under way and empties the layer's slots.
  void leave(int layer) noexcept {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return loading[static_cast<std::size_t>(layer)] == 0; });
    for (CacheSlot& slot : slots)
      if (slot.layer == layer) empty(slot);
  }

  CacheSlot*& place(int layer, ExpertId e) {
    return places[static_cast<std::size_t>(layer)][static_cast<std::size_t>(e)];
  }

  void empty(CacheSlot& slot) noexcept {
    if (slot.layer >= 0) place(slot.layer, slot.entry.expert) = nullptr;
    slot.layer = -1;
    slot.phase = Phase::empty;
    slot.claim = nullptr;
    slot.demanded = slot.guessed = false;
    slot.error.reset();
  }
  void begin_load(CacheSlot& slot, int layer, ExpertId e) noexcept {
    if (slot.phase == Phase::ready) ++statistics.evictions;
    empty(slot);
    slot.layer = layer;
    slot.entry = {e, ++now, 0};
    slot.phase = Phase::loading;
    place(layer, e) = &slot;
    ++loading[static_cast<std::size_t>(layer)];
    ++statistics.loads;
  }
  /// Answer of the source, on any thread. A guess that failed is a miss later, not an error now.
  static void loaded(void* who, const Error* error) noexcept {
    auto& slot = *static_cast<CacheSlot*>(who);
    CacheState& state = *slot.state;
    const std::lock_guard lock(state.mutex);
    --state.loading[static_cast<std::size_t>(slot.layer)];
    if (error == nullptr) {
      slot.phase = Phase::ready;
      state.statistics.bytes_read += state.record_bytes;
    } else if (slot.claim != nullptr) {
      slot.phase = Phase::failed;
      slot.error.emplace(std::string(error->what()));  // its own text: a copied exception shares it between threads
    } else {
      state.empty(slot);
    }
    state.changed.notify_all();
  }
  void drop_claims(const void* wave) noexcept {
    for (CacheSlot& slot : slots) {
      if (slot.claim != wave) continue;
      slot.claim = nullptr;
      if (slot.phase == Phase::failed) empty(slot);
    }
    changed.notify_all();
  }

  /// An empty slot, or the one the eviction gives up first among those that `may_go` allows; null if there is none.
  template <class E, class MayGo>
  CacheSlot* victim(const E& eviction, const MayGo& may_go) noexcept {
    CacheSlot* lowest = nullptr;
    double score = 0;
    for (CacheSlot& slot : slots) {
      if (slot.phase == Phase::empty) return &slot;
      if (slot.phase != Phase::ready || slot.pins > 0 || slot.claim != nullptr || !may_go(slot)) continue;
      const double s = eviction.keep_score(slot.entry, now);
      if (lowest != nullptr && s >= score) continue;
      lowest = &slot;
      score = s;
    }
    return lowest;
  }

 private:
  void cut(std::size_t bytes) {
    const std::size_t count = bytes == 0 ? 0 : budget_bytes / bytes;
    if (count == 0)
      raise(Error("moe::ExpertCache", "budget in bytes", concat("at least one record, ", bytes),
                  std::to_string(budget_bytes)));
    record_bytes = bytes;
    memory = Buffer(count * bytes);
    slots.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      slots[i].state = this;
      slots[i].bytes = memory.data() + i * bytes;
    }
  }
};

/// Keeps one slot where it is.
class CachePin {
 public:
  explicit CachePin(CacheSlot& slot) noexcept : slot_(&slot) {}
  CachePin(CachePin&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
  CachePin& operator=(CachePin&&) = delete;
  ~CachePin() {
    if (slot_ == nullptr) return;
    const std::lock_guard lock(slot_->state->mutex);
    if (--slot_->pins == 0) slot_->state->changed.notify_all();
  }

 private:
  CacheSlot* slot_;
};

}  // namespace detail

/// Slots for the experts of one or several layers, and the rule for giving them up. A handle: copies share the slots.
/// All memory is taken when the first layer joins, in slots of that layer's record size; nothing is allocated later.
template <Eviction E = Lru>
class ExpertCache {
 public:
  explicit ExpertCache(CacheOptions options, E eviction = {})
      : state_(std::make_shared<detail::CacheState>(options.bytes)), eviction_(eviction) {}

  /// Taken together, so that the figures belong to one moment.
  CacheStatistics statistics() const {
    const std::lock_guard lock(state_->mutex);
    return state_->statistics;
  }
  /// Bytes of slots; 0 before the first layer joined.
  std::size_t bytes_held() const {
    const std::lock_guard lock(state_->mutex);
    return state_->memory.bytes();
  }
  int slots() const {
    const std::lock_guard lock(state_->mutex);
    return static_cast<int>(state_->slots.size());
  }

 private:
  template <RecordSource Source, Eviction>
  friend class Cached;
  std::shared_ptr<detail::CacheState> state_;
  E eviction_;
};
ExpertCache(CacheOptions)->ExpertCache<Lru>;

/// One layer's experts through a cache: hits are lent at once, misses are loaded by `Source` while the hits compute.
///
/// Output is bit-identical to a resident storage for every budget of at least one record. Several threads may acquire
/// at once; none holds pins while it waits, and a record stays from the decision to load it until it was lent, so every
/// thread gets on. A read that fails throws IoError from `acquire` and leaves the cache usable.
template <RecordSource Source, Eviction E = Lru>
class Cached {
 public:
  using memory = host_memory;
  using layout = typename Source::layout;
  using formats = typename Source::formats;
  using pin = detail::CachePin;

  Cached(const ExpertCache<E>& cache, Source source)
      : cache_(cache), member_(std::make_shared<Member>(cache.state_, std::move(source))) {}

  ExpertShape shape() const noexcept { return member_->source.shape(); }
  int num_experts() const noexcept { return member_->source.num_experts(); }
  const ExpertCache<E>& cache() const noexcept { return cache_; }
  CacheStatistics statistics() const { return cache_.statistics(); }

  /// Lends what is there and starts what is not, as far as there is room. Waits only while nothing wanted is there.
  /// Served needs come first in `todo`; the rest comes back.
  std::span<ExpertNeed> acquire(std::span<ExpertNeed> todo, Wave<pin>& wave, host_queue&) const {
    detail::CacheState& state = *member_->state;
    std::unique_lock lock(state.mutex);
    for (;;) {
      raise_failure(todo, &wave);
      todo = lend(todo, wave);
      detail::CacheSlot* loads = claim(todo, &wave);
      if (loads != nullptr) {
        lock.unlock();
        start(loads);
        lock.lock();
      }
      if (!wave.empty() || todo.empty()) return todo;
      if (loads == nullptr) wait(lock);
    }
  }

  /// The call that owned `wave` ended early: what it claimed may go.
  void abandon(const Wave<pin>& wave) const noexcept {
    const std::lock_guard lock(member_->state->mutex);
    member_->state->drop_claims(&wave);
  }

  /// Loads what may be wanted soon, most rows first. Never gives up what an earlier guess for this layer brought and
  /// nobody used yet, and takes no more than has room beside what is pinned.
  void expect(std::span<const ExpertNeed> guesses) const {
    detail::CacheState& state = *member_->state;
    detail::CacheSlot* loads = nullptr;
    {
      const std::lock_guard lock(state.mutex);
      while (const ExpertNeed* best = most_wanted(guesses)) {
        detail::CacheSlot* slot = state.victim(cache_.eviction_, [&](const detail::CacheSlot& s) {
          return !(s.guessed && s.layer == member_->layer) &&
                 !(s.layer == member_->layer && among(guesses, s.entry.expert));
        });
        if (slot == nullptr) break;
        state.begin_load(*slot, member_->layer, best->expert);
        slot->guessed = true;
        ++state.statistics.prefetched;
        slot->next = std::exchange(loads, slot);
      }
    }
    start(loads);
  }

  /// Sets a bit for every expert that is here now: [pieces(E, 32)] words.
  void residency(std::uint32_t* bits) const noexcept {
    detail::CacheState& state = *member_->state;
    const std::lock_guard lock(state.mutex);
    for (int word = 0; word < pieces(num_experts(), 32); ++word) bits[word] = 0;
    for (ExpertId e = 0; e < num_experts(); ++e)
      if (const detail::CacheSlot* slot = state.place(member_->layer, e);
          slot != nullptr && slot->phase == detail::Phase::ready)
        bits[e / 32] |= 1u << (e % 32);
  }

 private:
  /// A layer of the cache; goes only when its loads have ended.
  struct Member {
    Member(std::shared_ptr<detail::CacheState> s, Source src)
        : state(std::move(s)), source(std::move(src)), layer(state->join(source.num_experts(), source.bytes(0))) {}
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;
    ~Member() { state->leave(layer); }
    std::shared_ptr<detail::CacheState> state;
    Source source;
    int layer;
  };

  detail::CacheSlot* place(const ExpertNeed& need) const { return member_->state->place(member_->layer, need.expert); }

  void raise_failure(std::span<const ExpertNeed> todo, const void* wave) const {
    for (const ExpertNeed& need : todo) {
      const detail::CacheSlot* slot = place(need);
      if (slot == nullptr || slot->phase != detail::Phase::failed || slot->claim != wave) continue;
      const IoError error(concat("expert ", need.expert, ": ", slot->error->what()));
      member_->state->drop_claims(wave);
      raise(error);
    }
  }

  /// Pins what is ready, moves it to the front, and returns the rest.
  std::span<ExpertNeed> lend(std::span<ExpertNeed> todo, Wave<pin>& wave) const {
    detail::CacheState& state = *member_->state;
    std::size_t served = 0;
    for (ExpertNeed& need : todo) {
      detail::CacheSlot* slot = place(need);
      if (slot == nullptr || slot->phase != detail::Phase::ready) continue;
      const bool miss = slot->demanded && slot->claim == &wave;
      ++(miss ? state.statistics.misses : state.statistics.hits);
      if (slot->guessed) ++state.statistics.prefetched_used;
      if (slot->claim == &wave) slot->claim = nullptr;
      slot->demanded = slot->demanded && !miss;
      slot->guessed = false;
      slot->entry.last_use = ++state.now;
      ++slot->entry.uses;
      ++slot->pins;
      wave.push({need.expert, 0, slot->bytes}, pin(*slot));
      std::swap(todo[served++], need);
    }
    return todo.subspan(served);
  }

  /// Takes slots for what is neither here nor coming, and protects what a guess is bringing. List of loads to start.
  detail::CacheSlot* claim(std::span<const ExpertNeed> todo, const void* wave) const {
    detail::CacheState& state = *member_->state;
    detail::CacheSlot* loads = nullptr;
    for (const ExpertNeed& need : todo) {
      if (detail::CacheSlot* coming = place(need)) {
        if (coming->phase == detail::Phase::loading && coming->claim == nullptr) coming->claim = wave;
        continue;
      }
      detail::CacheSlot* slot = state.victim(cache_.eviction_, [](const detail::CacheSlot&) { return true; });
      if (slot == nullptr) continue;
      state.begin_load(*slot, member_->layer, need.expert);
      slot->claim = wave;
      slot->demanded = true;
      slot->next = std::exchange(loads, slot);
    }
    return loads;
  }

  /// Without the lock: a source may answer at once, on this thread.
  void start(detail::CacheSlot* loads) const {
    while (loads != nullptr) {
      detail::CacheSlot& slot = *loads;
      loads = slot.next;
      member_->source.read(slot.entry.expert, 0, slot.bytes, &detail::CacheState::loaded, &slot);
    }
  }

  void wait(std::unique_lock<std::mutex>& lock) const {
    detail::CacheState& state = *member_->state;
    const auto begin = std::chrono::steady_clock::now();
    state.changed.wait(lock);
    ++state.statistics.stalls;
    state.statistics.stall_ns += static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin).count());
  }

  static bool among(std::span<const ExpertNeed> needs, ExpertId e) noexcept {
    for (const ExpertNeed& need : needs)
      if (need.expert == e) return true;
    return false;
  }
  const ExpertNeed* most_wanted(std::span<const ExpertNeed> guesses) const noexcept {
    const ExpertNeed* best = nullptr;
    for (const ExpertNeed& need : guesses)
      if (place(need) == nullptr && (best == nullptr || need.rows > best->rows)) best = &need;
    return best;
  }

  ExpertCache<E> cache_;
  std::shared_ptr<const Member> member_;
};

}  // namespace moe

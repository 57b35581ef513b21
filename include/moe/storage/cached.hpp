// Cached: experts in slots of a byte budget that layers share, loaded by any source while others compute.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include <moe/explain.hpp>
#include <moe/storage/cache_state.hpp>
#include <moe/storage/cache_statistics.hpp>
#include <moe/storage/eviction.hpp>
#include <moe/storage/slot_table.hpp>

namespace moe {

/// One use that a predictor of whole paths expects.
struct PlannedExpert {
  int layer = 0;
  ExpertId expert = -1;
  float probability = 1;
};

/// Slots for the experts of one or several layers, and the rule for giving them up. A handle: copies share the slots.
/// Layers join in the order in which they are computed. All memory is taken when the first one joins (again when one
/// with larger records does); nothing is allocated later.
///
/// `Slots` is the memory that they lie in (CacheMemory).
template <CacheMemory Slots>
class BasicExpertCache {
 public:
  /// Any Eviction. Throws Error when the first layer joins if the budget holds no record of some format.
  explicit BasicExpertCache(CacheOptions options, AnyEviction eviction = Lru{})
      : state_(std::make_shared<State>(std::move(options), std::move(eviction))) {}

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
  /// and then by probability, as far as there are empty slots, and over others one layer ahead. Once a layer is routed,
  /// what was planned for it wrongly gives way first. Choose ByPlan as the eviction. An empty plan ends planning.
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
    constexpr const char* where = "moe::ExpertCache::plan";
    require_index(where, "layer", state_->table.layers(), use.layer);
    require_index(where, "expert", state_->table.experts(use.layer), use.expert);
  }

  using State = detail::CacheState<Slots>;
  template <class Source, CacheMemory Memory>
  friend class Cached;
  std::shared_ptr<State> state_;
};
using ExpertCache = BasicExpertCache<HostSlots>;

/// One layer's experts through a cache: hits are lent at once, misses are loaded by `Source` while the hits compute.
///
/// Output is bit-identical to a resident storage for every budget of at least one record, unless the source has several
/// precisions (Mixed). Several threads may acquire at once; none holds pins while it waits, and a record stays from the
/// decision to load it until it was lent, so every thread gets on. A read that fails throws IoError from the `acquire`
/// that began it and leaves the cache usable; others that wait for it read again. Costs a scan of the slots per miss, a
/// lock per record.
template <class Source, CacheMemory Slots = HostSlots>
class Cached {
  static_assert(sizeof(detail::explain_source<Source>) > 0);

 public:
  using memory = typename Slots::memory;
  using layout = typename Source::layout;
  using formats = typename Source::formats;
  using pin = detail::CachePin<Slots>;
  using Cache = BasicExpertCache<Slots>;

  Cached(const Cache& cache, Source source)
      : cache_(cache), member_(std::make_shared<Member>(cache.state_, std::move(source))) {}

  ExpertShape shape() const noexcept { return member_->source.shape(); }
  int num_experts() const noexcept { return member_->source.num_experts(); }
  const Cache& cache() const noexcept { return cache_; }
  CacheStatistics statistics() const { return cache_.statistics(); }

  /// Lends what is there and starts what is not, as far as there is room. Waits only while nothing wanted is there.
  /// Served needs come first in `todo`; the rest comes back.
  std::span<ExpertNeed> acquire(std::span<ExpertNeed> todo, Wave<pin>& wave, typename memory::queue& queue) const {
    State& state = *member_->state;
    std::unique_lock lock(state.mutex);
    if (wave.ticket == 0) {
      if (state.cells.empty()) raise(Error("moe::Cached", "slots of the cache", "memory for them", "none"));
      for (ExpertNeed& need : todo) need.lowest = choose(member_->source, need);
      wave.ticket = state.table.begin_call(layer(), todo);
      todo = skip(todo, wave);
    }
    for (;;) {
      raise_failure(todo, wave);
      todo = lend(todo, wave, queue);
      const detail::LoadList loads = claim(todo, wave);
      state.start(loads, lock);
      if (!wave.empty() || todo.empty()) return todo;
      if (loads.empty()) state.wait(lock);
    }
  }

  /// The call that owned `wave` ended before `rest` was served: what it claimed may go.
  void abandon(std::span<const ExpertNeed> rest, const Wave<pin>& wave) const noexcept {
    if (wave.ticket == 0) return;
    State& state = *member_->state;
    const std::lock_guard lock(state.mutex);
    state.table.abandon(layer(), rest, wave.ticket);
    state.wake();
  }

  /// Loads what may be wanted soon, most rows first, as the options allow. Gives up nothing that is in use or wanted,
  /// and nothing that is guessed for a layer whose call is still to come. Returns how many of the guesses were neither
  /// here nor coming.
  int expect(std::span<const ExpertNeed> guesses) const {
    State& state = *member_->state;
    if (state.options.prefetch == Prefetch::off) return 0;
    std::unique_lock lock(state.mutex);
    state.table.predict(layer(), guesses, state.options.prefetch == Prefetch::enforce);
    int missing = 0;
    for (const ExpertNeed& guess : guesses) missing += state.table.absent(layer(), weighed(guess)) ? 1 : 0;
    detail::LoadList loads;
    while (state.may_guess()) {
      const ExpertNeed best = most_wanted(guesses);
      if (best.expert < 0) break;
      const int slot = state.table.claim_guess(layer(), best);
      if (slot < 0) break;
      state.table.append(slot, loads);
    }
    state.start(loads, lock);
    return missing;
  }

  /// Sets a bit for every expert that is here now: [pieces(E, 32)] words.
  void residency(std::uint32_t* bits) const noexcept {
    State& state = *member_->state;
    const std::lock_guard lock(state.mutex);
    fill_experts(bits, num_experts(), [&](ExpertId e) { return state.table.ready(layer(), e); });
  }

 private:
  using State = detail::CacheState<Slots>;
  using Queue = typename memory::queue;
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
      return state->join(detail::LayerSource::of(source), source.num_experts(), bytes);
    }
    std::shared_ptr<State> state;
    Source source;
    int layer;
  };

  int layer() const noexcept { return member_->layer; }
  ExpertNeed weighed(ExpertNeed need) const noexcept {
    need.lowest = choose(member_->source, need);
    return need;
  }

  /// Answers the needs that are not worth a load: first in `todo`, with refs to nothing.
  std::span<ExpertNeed> skip(std::span<ExpertNeed> todo, Wave<pin>& wave) const {
    detail::SlotTable& table = member_->state->table;
    std::size_t skipped = 0;
    for (ExpertNeed& need : todo) {
      if (!table.skips(layer(), need)) continue;
      ++table.statistics().skipped;
      wave.push({need.expert, 0, nullptr}, pin());
      std::swap(todo[skipped++], need);
    }
    return todo.subspan(skipped);
  }

  void raise_failure(std::span<const ExpertNeed> todo, const Wave<pin>& wave) const {
    State& state = *member_->state;
    for (const ExpertNeed& need : todo) {
      const int slot = state.table.failed(layer(), need, wave.ticket);
      if (slot < 0) continue;
      raise(IoError(concat("expert ", need.expert, ": ", state.cells[static_cast<std::size_t>(slot)].error)));
    }
  }

  /// Pins what is ready, moves it to the front, and returns the rest. What is here goes before what was only queued.
  std::span<ExpertNeed> lend(std::span<ExpertNeed> todo, Wave<pin>& wave, Queue& queue) const {
    const auto any = [](int) { return true; };
    if constexpr (requires(const Slots slots) { slots.here(0); }) {
      const Slots& memory_of = member_->state->memory;
      todo = lend_if([&](int slot) { return memory_of.here(slot); }, todo, wave, queue);
      if (!wave.empty()) return todo;
    }
    return lend_if(any, todo, wave, queue);
  }
  template <class May>
  std::span<ExpertNeed> lend_if(const May& may, std::span<ExpertNeed> todo, Wave<pin>& wave,
                                [[maybe_unused]] Queue& queue) const {
    State& state = *member_->state;
    std::size_t served = 0;
    for (ExpertNeed& need : todo) {
      const int slot = state.table.place(layer(), need);
      if (slot < 0 || !may(slot)) continue;
      state.table.lend(slot, layer(), need, wave.ticket);
      if constexpr (requires { state.memory.lend(slot, queue); }) state.memory.lend(slot, queue);
      wave.push({need.expert, state.table.slot(slot).format, state.memory.record(slot)}, pin(state, slot));
      std::swap(todo[served++], need);
    }
    return todo.subspan(served);
  }

  /// Takes slots for what is neither here nor coming, and protects what a guess is bringing. List of loads to start.
  detail::LoadList claim(std::span<const ExpertNeed> todo, const Wave<pin>& wave) const {
    State& state = *member_->state;
    detail::LoadList loads;
    for (const ExpertNeed& need : todo) {
      if (const int coming = state.table.claim_coming(layer(), need, wave.ticket); coming >= 0) {
        if (state.table.slot(coming).loaded_for != detail::For::need)
          hurry(member_->source, &state.cells[static_cast<std::size_t>(coming)]);
        continue;
      }
      if (const int slot = state.table.claim(layer(), need, wave.ticket); slot >= 0) state.table.append(slot, loads);
    }
    state.claim_plan(loads);
    return loads;
  }

  /// The absent guess of most rows, of equal ones the more important; expert -1: none is absent.
  ExpertNeed most_wanted(std::span<const ExpertNeed> guesses) const noexcept {
    ExpertNeed best;
    for (const ExpertNeed& guess : guesses) {
      const bool better =
          best.expert < 0 || guess.rows > best.rows || (guess.rows == best.rows && guess.mass_ahead < best.mass_ahead);
      if (!better) continue;
      if (const ExpertNeed need = weighed(guess); member_->state->table.absent(layer(), need)) best = need;
    }
    return best;
  }

  Cache cache_;
  std::shared_ptr<const Member> member_;
};

}  // namespace moe

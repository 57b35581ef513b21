// The storage laws over evictions, prefetch modes, ways of sharing slots, and reading threads.
#include <doctest/doctest.h>

#include "counted_cache.hpp"

namespace {

using storage_laws::experts;
using storage_laws::Source;

/// A source for the law's storage: as it is, or read by threads.
template <class Visit>
void with_threads(int threads, const Visit& visit) {
  if (threads == 0)
    visit([](auto source) { return source; });
  else
    visit([threads](auto source) { return moe::Background{std::move(source), threads}; });
}
/// A guess before each use, so that a mode shows.
template <class Storage>
struct Guessing : Storage {
  using pin = typename Storage::pin;
  explicit Guessing(Storage s) : Storage(std::move(s)) {}
  template <class W>
  std::span<moe::ExpertNeed> acquire(std::span<moe::ExpertNeed> todo, W& wave, moe::host_queue& queue) const {
    const std::vector<moe::ExpertNeed> guess = guesses_of({(todo.empty() ? 0 : todo[0].expert + 1) % experts, 3, 5});
    this->expect(guess);
    return Storage::acquire(todo, wave, queue);
  }
};

const std::vector<moe::AnyEviction>& evictions() {
  static const std::vector<moe::AnyEviction> all{moe::Lru{},           moe::Lfu{.decay = 0.5, .period = 7},
                                                 moe::FurthestLayer{}, moe::Multidimensional{},
                                                 moe::MissCost{},      moe::ByPlan{}};
  return all;
}
/// Every pair of a way to share the slots and an eviction, with a mode and a number of threads that go round.
template <class Laws>
void matrix(const Laws& laws) {
  using Options = moe::CacheOptions;
  const std::vector<Options> ways{slots(1),
                                  slots(3),
                                  slots(experts),
                                  {.bytes = 4 * slot_bytes(), .slots_by_layer = {2}, .staging_slots = 1},
                                  {.bytes = slot_bytes(), .slots_by_layer = {0}, .staging_slots = 1},
                                  {.bytes = 4 * slot_bytes(), .staging_slots = 2}};
  int turn = 0;
  for (const Options& way : ways)
    for (const moe::AnyEviction& eviction : evictions())
      for (const moe::Prefetch mode : {moe::Prefetch::off, moe::Prefetch::observe, moe::Prefetch::enforce}) {
        Options options = way;
        options.prefetch = mode;
        with_threads(turn++ % 3, [&](const auto& threaded) {
          laws([&](const Source& source) {
            const moe::Cached storage{moe::ExpertCache{options, eviction}, threaded(source)};
            return Guessing{storage};
          });
        });
      }
}

/// Two precisions that are the same, so that no output changes.
auto mixed(int slots_of_each, int staging) {
  return [=](const Source& source) {
    const moe::ExpertCache cache{
        {.bytes = static_cast<std::size_t>(2 * slots_of_each) * slot_bytes(), .staging_slots = staging},
        moe::Multidimensional{}};
    return moe::Cached{cache, moe::Mixed{moe::ByImportance{.up_to = {0.4f, 1, 1, 1}}, source, source}};
  };
}

}  // namespace

TEST_CASE("each need is served once by every kind of cache") {
  matrix([](const auto& make) { storage_laws::serves_each_need_once(make); });
}
TEST_CASE("a layer computes the same bits over every kind of cache") {
  matrix([](const auto& make) { storage_laws::computes_the_same_bits(make); });
}
TEST_CASE("any failing read is an IoError or read again, and every kind of cache stays usable") {
  matrix([](const auto& make) { storage_laws::survives_one_failing_read(make); });
}
TEST_CASE("a record that cannot be read is an IoError from every kind of cache, until it can be") {
  matrix([](const auto& make) { storage_laws::reports_a_record_that_cannot_be_read(make); });
}
TEST_CASE("a call that ended early holds nothing in every kind of cache") {
  matrix([](const auto& make) { storage_laws::holds_nothing_after_a_call_that_ended_early(make); });
}
TEST_CASE("residency tells what is here in every kind of cache") {
  for (const int n : {1, 3, experts})
    for (const moe::AnyEviction& eviction : evictions()) {
      storage_laws::residency_agrees([&](const Source& source) {
        return moe::Cached{moe::ExpertCache{slots(n), eviction}, source};
      });
      moe::CacheOptions options = slots(n + 1);
      options.staging_slots = 1;
      storage_laws::residency_agrees([&](const Source& source) {
        return moe::Cached{moe::ExpertCache{options, eviction}, source};
      });
    }
}
TEST_CASE("several host threads get right results from every kind of cache") {
  matrix([](const auto& make) { storage_laws::serves_several_threads(make, 3, 4); });
}
TEST_CASE("a cache of two equal precisions keeps the storage laws") { storage_laws::all(mixed(2, 0)); }
TEST_CASE("a cache of two equal precisions with staging keeps the storage laws") { storage_laws::all(mixed(3, 1)); }
TEST_CASE("a cache of three slots over reading threads keeps the storage laws") {
  storage_laws::all([](const Source& source) {
    return moe::Cached{moe::ExpertCache{slots(3)}, moe::Background{source, 2}};
  });
}
TEST_CASE("a cache of one slot keeps the storage laws") {
  storage_laws::all([](const Source& source) { return moe::Cached{moe::ExpertCache{slots(1)}, source}; });
}

#include <set>

#include <doctest/doctest.h>

#include "laws/storage_laws.hpp"

namespace {

using storage_laws::experts;
using storage_laws::shape;
using storage_laws::Source;

std::size_t slot_bytes() {
  return moe::round_up(moe::PanelLayout::record_bytes<moe::bf16>(shape), moe::page_alignment);
}
auto cached(int slots) {
  return [slots](const Source& source) {
    return moe::Cached{moe::ExpertCache{{.bytes = static_cast<std::size_t>(slots) * slot_bytes()}}, source};
  };
}
auto cached_in_background(int slots) {
  return [slots](const Source& source) {
    return moe::Cached{moe::ExpertCache{{.bytes = static_cast<std::size_t>(slots) * slot_bytes()}},
                       moe::Background{source, 2}};
  };
}

/// A cache with a source whose reads are counted, for tests that look at decisions.
struct Counted {
  explicit Counted(int slots)
      : cache({.bytes = static_cast<std::size_t>(slots) * slot_bytes()}),
        storage(cache, Source{weights.packed<moe::bf16>(), &plan}) {}
  void use(const std::vector<moe::ExpertId>& wanted) {
    storage_laws::lend_all(storage, wanted, [](const moe::ExpertRef&) {});
  }
  std::set<moe::ExpertId> residents() const {
    std::uint32_t bits = 0;
    storage.residency(&bits);
    std::set<moe::ExpertId> out;
    for (moe::ExpertId e = 0; e < experts; ++e)
      if ((bits >> e & 1u) != 0) out.insert(e);
    return out;
  }
  fixture::RandomExperts weights{shape, experts, 1};
  fixture::Plan plan;
  moe::ExpertCache<> cache;
  moe::Cached<Source> storage;
};

}  // namespace

TEST_CASE("a cache of one slot keeps the storage laws") { storage_laws::all(cached(1)); }
TEST_CASE("a cache of three slots keeps the storage laws") { storage_laws::all(cached(3)); }
TEST_CASE("a cache with room for everything keeps the storage laws") { storage_laws::all(cached(experts)); }
TEST_CASE("a cache over reading threads keeps the storage laws") { storage_laws::all(cached_in_background(2)); }

TEST_CASE("the least recently used expert goes first") {
  Counted c(3);
  c.use({0});
  c.use({1});
  c.use({2});
  c.use({0});
  c.use({3});
  CHECK(c.residents() == std::set<moe::ExpertId>{0, 2, 3});
  c.use({4});
  CHECK(c.residents() == std::set<moe::ExpertId>{0, 3, 4});
}

TEST_CASE("hits and misses add up to the needs served, and bytes to the loads") {
  Counted c(2);
  c.use({0, 1});
  c.use({1, 0});
  c.use({2});
  const moe::CacheStatistics s = c.cache.statistics();
  CHECK(s.misses == 3);
  CHECK(s.hits == 2);
  CHECK(s.loads == 3);
  CHECK(s.evictions == 1);
  CHECK(s.bytes_read == 3 * slot_bytes());
  CHECK(c.plan.reads == 3);
}

TEST_CASE("resident experts come in the first wave, before those that must be read") {
  Counted c(4);
  c.use({5});
  std::vector<moe::ExpertNeed> needs{{1, 1, 1, 0}, {5, 1, 1, 0}, {2, 1, 1, 0}};
  std::vector<moe::ExpertRef> refs(3);
  alignas(moe::detail::CachePin) std::byte pins[3 * sizeof(moe::detail::CachePin)];
  moe::Wave<moe::detail::CachePin> wave{refs.data(), reinterpret_cast<moe::detail::CachePin*>(pins)};
  moe::host_queue queue;
  std::span<moe::ExpertNeed> rest = c.storage.acquire(needs, wave, queue);
  REQUIRE(wave.refs().size() == 1);
  CHECK(wave.refs()[0].expert == 5);
  CHECK(rest.size() == 2);
  CHECK(c.plan.reads == 3);  // both misses were started before the hit was lent
  wave.release(queue);
  rest = c.storage.acquire(rest, wave, queue);
  CHECK(rest.empty());
  wave.release(queue);
}

TEST_CASE("an expert that is lent is never given up") {
  Counted c(2);
  std::vector<moe::ExpertNeed> first{{0, 1, 1, 0}}, second{{1, 1, 1, 0}, {2, 1, 1, 0}, {3, 1, 1, 0}};
  std::vector<moe::ExpertRef> refs(4);
  alignas(moe::detail::CachePin) std::byte pins[4 * sizeof(moe::detail::CachePin)];
  auto* const at = reinterpret_cast<moe::detail::CachePin*>(pins);
  moe::Wave<moe::detail::CachePin> held{refs.data(), at};
  moe::host_queue queue;
  CHECK(c.storage.acquire(first, held, queue).empty());
  {
    moe::Wave<moe::detail::CachePin> wave{refs.data() + 1, at + 1};
    std::span<moe::ExpertNeed> rest = second;
    while (!rest.empty()) {
      rest = c.storage.acquire(rest, wave, queue);
      wave.release(queue);
      CHECK(c.residents().count(0) == 1);
    }
  }
  held.release(queue);
}

TEST_CASE("a budget below one record is refused with the bytes that are needed") {
  const fixture::RandomExperts weights(shape, experts, 1);
  const moe::ExpertCache cache{{.bytes = slot_bytes() - 1}};
  const std::string expected = "moe::ExpertCache: budget in bytes: expected at least one record, " +
                               std::to_string(slot_bytes()) + ", found " + std::to_string(slot_bytes() - 1);
  CHECK_THROWS_WITH_AS((moe::Cached{cache, weights.packed<moe::bf16>()}), expected.c_str(), moe::Error);
}

TEST_CASE("a layer with larger records than the slots is refused") {
  const fixture::RandomExperts small(shape, 2, 1), large({128, 64}, 2, 1);
  const moe::ExpertCache cache{{.bytes = 8 * slot_bytes()}};
  const moe::Cached first{cache, small.packed<moe::bf16>()};
  CHECK_THROWS_AS((moe::Cached{cache, large.packed<moe::bf16>()}), moe::Error);
}

TEST_CASE("memory never exceeds the budget") {
  for (const int slots : {1, 2, 5}) {
    Counted c(slots);
    c.use({0, 1, 2, 3, 4, 5, 6});
    CHECK(c.cache.bytes_held() <= static_cast<std::size_t>(slots) * slot_bytes());
    CHECK(c.residents().size() <= static_cast<std::size_t>(slots));
  }
}

TEST_CASE("layers that share a cache share its slots and keep their experts apart") {
  const fixture::RandomExperts one(shape, experts, 1), two(shape, experts, 2);
  const moe::ExpertCache cache{{.bytes = 3 * slot_bytes()}};
  const moe::Cached first{cache, one.packed<moe::bf16>()}, second{cache, two.packed<moe::bf16>()};
  for (int round = 0; round < 3; ++round) {
    for (const bool use_first : {true, false}) {
      const moe::Packed<moe::bf16> source = (use_first ? one : two).packed<moe::bf16>();
      storage_laws::lend_all(use_first ? first : second, {0, 1, 2, 3}, [&](const moe::ExpertRef& ref) {
        CHECK(std::memcmp(ref.bytes, fixture::record(source, ref.expert).data(), source.bytes(0)) == 0);
      });
    }
  }
  CHECK(cache.slots() == 3);
}

TEST_CASE("a guess is loaded, used once as a hit, and counted") {
  Counted c(4);
  const std::vector<moe::ExpertNeed> guess{{2, 1, 1, 0}, {5, 3, 1, 0}};
  c.storage.expect(guess);
  CHECK(c.residents() == std::set<moe::ExpertId>{2, 5});
  c.use({2});
  const moe::CacheStatistics s = c.cache.statistics();
  CHECK(s.prefetched == 2);
  CHECK(s.prefetched_used == 1);
  CHECK(s.hits == 1);
  CHECK(s.misses == 0);
}

TEST_CASE("guesses beyond the room take the experts with most rows and do not push each other out") {
  Counted c(3);
  std::vector<moe::ExpertNeed> guess;
  for (moe::ExpertId e = 0; e < experts; ++e) guess.push_back({e, 1 + e, 1, 0});
  c.storage.expect(guess);
  CHECK(c.residents() == std::set<moe::ExpertId>{4, 5, 6});
  c.storage.expect(guess);
  CHECK(c.cache.statistics().prefetched == 3);
}

TEST_CASE("a guess that fails to load is a miss later, not an error") {
  Counted c(2);
  c.plan.fail_from = 0;
  c.plan.fail_count = 1;
  const std::vector<moe::ExpertNeed> guess{{1, 1, 1, 0}};
  c.storage.expect(guess);
  CHECK(c.residents().empty());
  c.use({1});
  CHECK(c.cache.statistics().misses == 1);
}

TEST_CASE("a layer that goes while its reads are under way waits for them") {
  const fixture::RandomExperts weights(shape, experts, 1);
  for (int i = 0; i < 50; ++i) {
    fixture::Plan plan;
    plan.delay_us = 50;
    const moe::ExpertCache cache{{.bytes = 3 * slot_bytes()}};
    const std::vector<moe::ExpertNeed> guess{{0, 1, 1, 0}, {1, 1, 1, 0}, {2, 1, 1, 0}};
    { moe::Cached{cache, moe::Background{Source{weights.packed<moe::bf16>(), &plan}, 2}}.expect(guess); }
    CHECK(plan.reads == 3);
  }
}

TEST_CASE("a call that ends early gives back what it claimed") {
  Counted c(2);
  const fixture::Inputs in(8, shape.hidden, experts, 3);
  const moe::MoELayer layer{in.linear(), moe::TopK{.experts = experts, .k = 3}, c.storage, moe::Cpu{.threads = 1}};
  struct Stop {
    void wave(moe::Row<const moe::ExpertRef>) const { throw 1; }
  };
  std::vector<float> y(in.x.size());
  moe::Workspace ws{layer.workspace(8)};
  for (int i = 0; i < 5; ++i)
    CHECK_THROWS_AS(layer.forward({.x = in.view(), .y = {y.data(), 8, shape.hidden}}, ws, Stop{}), int);
  const moe::MoELayer resident{in.linear(), moe::TopK{.experts = experts, .k = 3},
                               moe::Resident{c.weights.packed<moe::bf16>()}, moe::Cpu{.threads = 1}};
  CHECK(fixture::outputs(layer, in, 8) == fixture::outputs(resident, in, 8));
}

TEST_CASE("threads with different appetites share two slots without standing still") {
  Counted c(2);
  c.plan.delay_us = 10;
  std::vector<std::thread> hosts;
  std::atomic<int> served{0};
  for (int h = 0; h < 6; ++h)
    hosts.emplace_back([&, h] {
      for (int r = 0; r < 100; ++r)
        storage_laws::lend_all(c.storage,
                               {h, (h + r + 1) % experts == h ? (h + r + 2) % experts : (h + r + 1) % experts},
                               [&](const moe::ExpertRef&) { ++served; });
    });
  for (std::thread& host : hosts) host.join();
  CHECK(served == 6 * 100 * 2);
}

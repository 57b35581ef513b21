#include <chrono>
#include <optional>
#include <thread>

#include <doctest/doctest.h>

#include "counted_cache.hpp"

namespace {

using storage_laws::experts;
using storage_laws::shape;
using storage_laws::Source;

}  // namespace

TEST_CASE("the least recently used expert goes first") {
  CountedCache c(slots(3));
  c.use({0});
  c.use({1});
  c.use({2});
  c.use({0});
  c.use({3});
  CHECK(c.residents() == Experts{0, 2, 3});
  c.use({4});
  CHECK(c.residents() == Experts{0, 3, 4});
}

TEST_CASE("hits and misses add up to the needs served, and bytes to the loads") {
  CountedCache c(slots(2));
  c.use({0, 1});
  c.use({1, 0});
  c.use({2});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.misses == 3);
  CHECK(s.hits == 2);
  CHECK(s.loads == 3);
  CHECK(s.evictions == 1);
  CHECK(s.bytes_read == 3 * slot_bytes());
  CHECK(c.plan.reads == 3);
}

TEST_CASE("memory never exceeds the budget") {
  for (const int n : {1, 2, 5}) {
    CountedCache c(slots(n));
    c.use({0, 1, 2, 3, 4, 5, 6});
    CHECK(c.cache.bytes_held() <= static_cast<std::size_t>(n) * slot_bytes());
    CHECK(c.residents().size() <= static_cast<std::size_t>(n));
  }
}

TEST_CASE("layers that share a cache share its slots and keep their experts apart") {
  const fixture::RandomExperts one(shape, experts, 1), two(shape, experts, 2);
  const moe::ExpertCache cache{slots(3)};
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

TEST_CASE("a layer that goes while its reads are under way waits for them") {
  const fixture::RandomExperts weights(shape, experts, 1);
  for (int i = 0; i < 50; ++i) {
    fixture::Plan plan;
    plan.delay_us = 50;
    const moe::ExpertCache cache{slots(3)};
    const std::vector<moe::ExpertNeed> guess{{0, 1, 1, 0}, {1, 1, 1, 0}, {2, 1, 1, 0}};
    { moe::Cached{cache, moe::Background{Source{weights.packed<moe::bf16>(), &plan}, 2}}.expect(guess); }
    CHECK(plan.reads == 3);
  }
}

TEST_CASE("a layer that goes while its source is being asked waits until nobody is inside, though all was answered") {
  struct Lingering {
    using layout = Source::layout;
    using formats = Source::formats;
    moe::Packed<moe::bf16> source;
    std::atomic<int>* inside;
    moe::ExpertShape shape() const noexcept { return source.shape(); }
    int num_experts() const noexcept { return source.num_experts(); }
    std::size_t bytes(int format) const noexcept { return source.bytes(format); }
    void read(const moe::ReadRequest& request) const {
      source.read(request);
      ++*inside;
      inside->notify_all();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      --*inside;
    }
  };
  const fixture::RandomExperts weights(shape, experts, 1);
  std::atomic<int> inside{0};
  const moe::ExpertCache cache{slots(3)};
  std::optional<moe::Cached<Lingering>> layer;
  layer.emplace(cache, Lingering{weights.packed<moe::bf16>(), &inside});
  const std::vector<moe::PlannedExpert> plan{{0, 1, 1}, {0, 2, 1}};
  std::thread planner([&] { cache.plan(plan); });
  inside.wait(0);
  layer.reset();
  CHECK(inside == 0);
  planner.join();
}

TEST_CASE("a call that ends early gives back what it claimed") {
  CountedCache c(slots(2));
  const fixture::Inputs in(8, shape.hidden, experts, 3);
  const moe::MoELayer layer{in.linear(), moe::TopK{.experts = experts, .k = 3}, c.layers[0], moe::Cpu{.threads = 1}};
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
  CountedCache c(slots(2));
  c.plan.delay_us = 10;
  std::vector<std::thread> hosts;
  std::atomic<int> served{0};
  for (int h = 0; h < 6; ++h)
    hosts.emplace_back([&, h] {
      for (int r = 0; r < 100; ++r)
        storage_laws::lend_all(c.layers[0],
                               {h, (h + r + 1) % experts == h ? (h + r + 2) % experts : (h + r + 1) % experts},
                               [&](const moe::ExpertRef&) { ++served; });
    });
  for (std::thread& host : hosts) host.join();
  CHECK(served == 6 * 100 * 2);
}

TEST_CASE("resident experts come in the first wave, before those that must be read") {
  CountedCache c(slots(4));
  c.use({5});
  std::vector<moe::ExpertNeed> needs{{1, 1, 1, 0}, {5, 1, 1, 0}, {2, 1, 1, 0}};
  HeldWave wave;
  moe::host_queue queue;
  std::span<moe::ExpertNeed> rest = c.layers[0].acquire(needs, wave.get(), queue);
  REQUIRE(wave.get().refs().size() == 1);
  CHECK(wave.get().refs()[0].expert == 5);
  CHECK(rest.size() == 2);
  CHECK(c.plan.reads == 3);  // both misses were started before the hit was lent
  wave.release();
  rest = c.layers[0].acquire(rest, wave.get(), queue);
  CHECK(rest.empty());
  wave.release();
}

TEST_CASE("an expert that is lent is never given up") {
  CountedCache c(slots(2));
  std::vector<moe::ExpertNeed> first{{0, 1, 1, 0}}, second{{1, 1, 1, 0}, {2, 1, 1, 0}, {3, 1, 1, 0}};
  HeldWave held, wave;
  moe::host_queue queue;
  CHECK(c.layers[0].acquire(first, held.get(), queue).empty());
  std::span<moe::ExpertNeed> rest = second;
  while (!rest.empty()) {
    rest = c.layers[0].acquire(rest, wave.get(), queue);
    wave.release();
    CHECK(c.residents().count(0) == 1);
  }
}

TEST_CASE("a new sequence begins its counts anew and keeps what is here") {
  CountedCache c(slots(2), moe::Lfu{});
  for (int i = 0; i < 3; ++i) c.use({0});
  c.use({1});
  c.cache.begin_sequence();
  CHECK(c.residents() == Experts{0, 1});
  c.use({1});
  c.use({2});  // 0 was used more, but not in this sequence
  CHECK(c.residents() == Experts{1, 2});
}

TEST_CASE("a layer with larger records cuts slots that nobody uses anew") {
  const fixture::RandomExperts small(shape, 2, 1), large({128, 64}, 2, 1);
  const std::size_t record = moe::round_up(large.packed<moe::bf16>().bytes(0), moe::page_alignment);
  const moe::ExpertCache cache{{.bytes = 3 * record}};
  const moe::Cached first{cache, small.packed<moe::bf16>()};
  const int before = cache.slots();
  const moe::Cached second{cache, large.packed<moe::bf16>()};
  CHECK(before > 3);
  CHECK(cache.slots() == 3);
  CHECK(cache.bytes_held() == 3 * record);
  const auto check = [](const fixture::RandomExperts& weights) {
    return [source = weights.packed<moe::bf16>()](const moe::ExpertRef& ref) {
      CHECK(std::memcmp(ref.bytes, fixture::record(source, ref.expert).data(), source.bytes(0)) == 0);
    };
  };
  storage_laws::lend_all(first, {0, 1}, check(small));
  storage_laws::lend_all(second, {1, 0}, check(large));
}
TEST_CASE("a layer with larger records than slots in use is refused, and the cache stays as it was") {
  const fixture::RandomExperts large({128, 64}, 2, 1);
  CountedCache c(slots(8));
  c.use({0});
  CHECK_THROWS_WITH_AS(
      (moe::Cached{c.cache, large.packed<moe::bf16>()}),
      "moe::Cached: bytes of a record: expected at most those of the slots, which are in use, found more", moe::Error);
  c.use({0, 1});
  CHECK(c.statistics().hits == 1);
}
TEST_CASE("a call whose read failed holds nothing afterwards") {
  CountedCache c(slots(2));
  c.plan.fail_from = 1;
  c.plan.fail_count = 1;
  const auto fails = [&] { c.use({0, 1, 2}); };
  CHECK_THROWS_WITH_AS(fails(), "expert 1: injected fault", moe::IoError);
  c.use({3, 4});  // both slots can be had
  CHECK(c.residents() == Experts{3, 4});
}

// Plans of whole passes through the layers: ExpertFlow's cache.
#include <doctest/doctest.h>

#include "counted_cache.hpp"

namespace {

using storage_laws::experts;
using storage_laws::Source;

std::uint64_t random_number(std::uint64_t& state) { return moe::next_random(state) >> 33; }
std::vector<moe::ExpertId> two_of(std::uint64_t& state) {
  const auto a = static_cast<moe::ExpertId>(random_number(state) % experts);
  return {a, static_cast<moe::ExpertId>((static_cast<std::uint64_t>(a) + 1 + random_number(state) % (experts - 1)) %
                                        experts)};
}
constexpr int num_layers = 4;
using Paths = std::vector<std::vector<moe::ExpertId>>;  // [layer]
Paths random_paths(std::uint64_t& state) {
  Paths paths;
  for (int l = 0; l < num_layers; ++l) paths.push_back(two_of(state));
  return paths;
}
std::vector<moe::PlannedExpert> plan_of(const Paths& paths) {
  std::vector<moe::PlannedExpert> plan;
  for (int l = 0; l < num_layers; ++l)
    for (const moe::ExpertId e : paths[static_cast<std::size_t>(l)]) plan.push_back({l, e, 0.5f});
  return plan;
}
/// Passes of which the plan is right in each layer with odds of `right` in 8.
moe::CacheStatistics run(int num_slots, int right, const moe::AnyEviction& eviction) {
  CountedCache c(slots(num_slots), eviction, num_layers);
  std::uint64_t state = 17;
  for (int pass = 0; pass < 100; ++pass) {
    const Paths truth = random_paths(state);
    Paths planned = truth;
    for (auto& layer : planned)
      if (static_cast<int>(random_number(state) % 8) >= right) layer = two_of(state);
    c.cache.plan(plan_of(planned));
    for (int l = 0; l < num_layers; ++l) c.use(truth[static_cast<std::size_t>(l)], l);
  }
  c.cache.plan({});
  for (int l = 0; l < num_layers; ++l)  // whatever was guessed and not used goes
    for (moe::ExpertId e = 0; e < experts; ++e) c.use({e}, l);
  return c.statistics();
}

}  // namespace

TEST_CASE(
    "ExpertFlow's example: 3 slots for the first layer and 1 for the second, whose other expert follows when the "
    "first layer is done") {
  CountedCache c(slots(4), moe::ByPlan{}, 2);
  const std::vector<moe::PlannedExpert> plan{{1, 3, 0.6f}, {0, 2, 0.7f}, {1, 1, 0.9f}, {0, 0, 0.9f}, {0, 1, 0.8f}};
  c.cache.plan(plan);
  CHECK(c.residents(0) == Experts{0, 1, 2});
  CHECK(c.residents(1) == Experts{1});
  c.use({0, 1, 2}, 0);
  CHECK(c.residents(1) == Experts{1, 3});
  CHECK(c.residents(0).size() == 2);
  c.use({1, 3}, 1);
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.misses == 0);
  CHECK(s.hits == 5);
  CHECK(s.prefetched == 5);
  CHECK(s.prefetched_used == 5);
  CHECK(s.loads == 5);
  CHECK(s.predicted_right == 5);
}
TEST_CASE("full slots take records for one layer ahead; what they hold for later layers, planned or not, stays") {
  CountedCache c(slots(8), moe::ByPlan{}, 4);
  for (int l = 0; l < 4; ++l) c.use({0, 1}, l);
  const std::vector<moe::PlannedExpert> plan{{0, 2, 1}, {0, 3, 1}, {1, 2, 1}, {1, 3, 1}, {2, 0, 1}, {2, 1, 1}};
  c.cache.plan(plan);  // two uses a layer, six of eight slots
  CHECK(c.residents(0) == Experts{2, 3});
  CHECK(c.residents(1) == Experts{0, 1});
  CHECK(c.residents(3) == Experts{0, 1});
  c.use({2, 3}, 0);
  CHECK(c.residents(1) == Experts{2, 3});
  CHECK(c.residents(2) == Experts{0, 1});
  CHECK(c.statistics().misses == 8);
}
TEST_CASE("a slot that the first layer was wrongly given goes to the next layer as soon as the first is routed") {
  CountedCache c(slots(2), moe::ByPlan{}, 2);
  const std::vector<moe::PlannedExpert> plan{{0, 0, 1}, {0, 1, 1}, {1, 4, 1}};
  c.cache.plan(plan);
  CHECK(c.residents(0) == Experts{0, 1});
  c.use({0}, 0);
  CHECK(c.residents(1) == Experts{4});
  CHECK(c.statistics().prefetched_wasted <= 1);
}
TEST_CASE("what the plan missed takes the slot of what it named wrongly for this layer") {
  CountedCache c(slots(3), moe::ByPlan{}, 2);
  const std::vector<moe::PlannedExpert> plan{{0, 0, 0.9f}, {0, 1, 0.8f}, {1, 4, 0.9f}};
  c.cache.plan(plan);
  c.use({0, 5}, 0);
  CHECK(c.residents(0) == Experts{0, 5});
  CHECK(c.residents(1) == Experts{4});
  CHECK(c.statistics().misses == 1);
}
TEST_CASE("a use that is planned without a probability is certain") { CHECK(moe::PlannedExpert{}.probability == 1); }
TEST_CASE("the more probable experts of a layer come first") {
  CountedCache c(slots(2), moe::ByPlan{});
  const std::vector<moe::PlannedExpert> plan{{0, 0, 0.1f}, {0, 1, 0.5f}, {0, 2, 0.9f}, {0, 3, 0.2f}};
  c.cache.plan(plan);
  CHECK(c.residents() == Experts{1, 2});
}
TEST_CASE("a plan keeps what it names and is here") {
  CountedCache c(slots(3), moe::ByPlan{});
  c.use({0, 1, 2});
  const std::vector<moe::PlannedExpert> plan{{0, 1, 1}, {0, 5, 1}};
  c.cache.plan(plan);
  CHECK(c.plan.reads == 4);
  CHECK(c.residents().count(1) == 1);
  CHECK(c.residents().count(5) == 1);
}
TEST_CASE("an expert that is planned twice counts once") {
  CountedCache c(slots(3), moe::ByPlan{});
  const std::vector<moe::PlannedExpert> plan{{0, 0, 1}, {0, 0, 1}, {0, 0, 1}, {0, 1, 0.5f}, {0, 2, 0.5f}};
  c.cache.plan(plan);
  CHECK(c.residents() == Experts{0, 1, 2});
}

TEST_CASE("with perfect plans nothing is loaded on demand") {
  for (const int n : {2, 3, 5, 9}) {
    CountedCache c(slots(n), moe::ByPlan{}, num_layers);
    std::uint64_t state = 5;
    for (int pass = 0; pass < 50; ++pass) {
      const Paths truth = random_paths(state);
      c.cache.plan(plan_of(truth));
      for (int l = 0; l < num_layers; ++l) c.use(truth[static_cast<std::size_t>(l)], l);
    }
    const moe::CacheStatistics s = c.statistics();
    CHECK(s.misses == 0);
    CHECK(s.hits == 50 * num_layers * 2);
    CHECK(s.prefetched_wasted == 0);
  }
}
TEST_CASE("bytes read are those of demanded and planned loads, and every planned load is used or wasted") {
  for (const int right : {0, 4, 8})
    for (const moe::AnyEviction& eviction : {moe::AnyEviction(moe::ByPlan{}), moe::AnyEviction(moe::Lru{})})
      for (const int n : {2, 5}) {
        const moe::CacheStatistics s = run(n, right, eviction);
        CHECK(s.prefetched > 0);
        CHECK(s.bytes_read == s.loads * slot_bytes());
        CHECK(s.loads == s.misses + s.prefetched);
        CHECK(s.prefetched == s.prefetched_used + s.prefetched_wasted);
        CHECK(s.hits + s.misses == 100 * num_layers * 2 + num_layers * experts);
      }
}
TEST_CASE("better plans mean fewer demand loads") {
  const moe::CacheStatistics none = run(5, 0, moe::ByPlan{}), half = run(5, 4, moe::ByPlan{}),
                             all = run(5, 8, moe::ByPlan{});
  CHECK(all.misses < half.misses);
  CHECK(half.misses < none.misses);
}

TEST_CASE("wrong plans leave the output as it is") {
  const fixture::RandomExperts weights(storage_laws::shape, experts, 2);
  const fixture::Inputs in(9, storage_laws::shape.hidden, experts, 3);
  const moe::TopK router{.experts = experts, .k = 2};
  const std::vector<float> expected = fixture::outputs(
      moe::MoELayer{in.linear(), router, moe::Resident{weights.packed<moe::bf16>()}, moe::Cpu{.threads = 1}}, in, 1);
  for (const int threads : {0, 1, 3}) {
    const moe::ExpertCache cache{slots(3), moe::ByPlan{}};
    const auto layer = [&] {
      return moe::MoELayer{in.linear(), router,
                           moe::Cached{cache, moe::Background{weights.packed<moe::bf16>(), threads == 0 ? 1 : threads}},
                           moe::Cpu{.threads = 1}};
    };
    const auto first = layer(), second = layer();
    std::uint64_t state = 23;
    for (int pass = 0; pass < 20; ++pass) {
      std::vector<moe::PlannedExpert> plan;
      for (int i = 0; i < 6; ++i)
        plan.push_back({static_cast<int>(random_number(state) % 2),
                        static_cast<moe::ExpertId>(random_number(state) % experts), 0.5f});
      cache.plan(plan);
      CHECK(fixture::outputs(first, in, 1 + pass % 9) == expected);
      CHECK(fixture::outputs(second, in, 1 + pass % 9) == expected);
    }
  }
}
TEST_CASE("a plan is measured and loads nothing where guesses are observed") {
  moe::CacheOptions options = slots(4);
  options.prefetch = moe::Prefetch::observe;
  CountedCache c(options, moe::ByPlan{});
  const std::vector<moe::PlannedExpert> plan{{0, 1, 1}, {0, 2, 1}};
  c.cache.plan(plan);
  CHECK(c.plan.reads == 0);
  c.use({2, 3});
  CHECK(c.statistics().predicted == 2);
  CHECK(c.statistics().predicted_right == 1);
}
TEST_CASE("an empty plan ends planning") {
  CountedCache c(slots(1), moe::ByPlan{});
  const std::vector<moe::PlannedExpert> plan{{0, 1, 1}, {0, 2, 1}};
  c.cache.plan(plan);
  CHECK(c.plan.reads == 1);
  c.cache.plan({});
  c.use({1});
  CHECK(c.plan.reads == 1);
}
TEST_CASE("a plan for a layer or an expert that there is not is refused, and nothing of it is kept") {
  CountedCache c(slots(4), moe::ByPlan{}, 2);
  const std::vector<moe::PlannedExpert> layer{{0, 1, 1}, {2, 1, 1}}, expert{{1, 1, 1}, {1, experts, 1}},
      none{{0, -1, 1}};
  CHECK_THROWS_WITH_AS(c.cache.plan(layer), "moe::ExpertCache::plan: layer: expected 0 to 1, found 2", moe::Error);
  CHECK_THROWS_WITH_AS(c.cache.plan(expert), "moe::ExpertCache::plan: expert: expected 0 to 6, found 7", moe::Error);
  CHECK_THROWS_WITH_AS(c.cache.plan(none), "moe::ExpertCache::plan: expert: expected 0 to 6, found -1", moe::Error);
  CHECK(c.plan.reads == 0);
}

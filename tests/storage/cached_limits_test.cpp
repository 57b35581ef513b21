// How a cache's bytes are cut: limits of layers, staging, shares, and what is refused.
#include <doctest/doctest.h>

#include "counted_cache.hpp"

namespace {

using storage_laws::experts;
using storage_laws::shape;
using storage_laws::Source;

moe::CacheOptions limited(int n, std::vector<int> by_layer, int staging) {
  moe::CacheOptions options = slots(n);
  options.slots_by_layer = std::move(by_layer);
  options.staging_slots = staging;
  return options;
}
std::string refusal(const moe::CacheOptions& options, int layers = 1) {
  try {
    const CountedCache c(options, moe::Lru{}, layers);
  } catch (const moe::Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("a layer keeps no more than its limit and takes no slot of another layer") {
  CountedCache c(limited(4, {1, 3}, 0), moe::Lru{}, 2);
  for (int round = 0; round < 3; ++round) {
    c.use({0, 1, 2, 3}, 0);
    c.use({4, 5, 6}, 1);
    CHECK(c.residents(0).size() == 1);
    CHECK(c.residents(1) == Experts{4, 5, 6});
  }
  CHECK(c.statistics().misses == 4 + 3 + 3 + 3);  // the last of a call is still here in the next one
  CHECK(c.statistics().streamed == 0);
}
TEST_CASE("a guess keeps to its layer's limit too") {
  CountedCache c(limited(4, {1, 3}, 0), moe::Lru{}, 2);
  c.expect({0, 1, 2}, 0);
  CHECK(c.residents(0) == Experts{0});
}
TEST_CASE("a layer without slots streams: its experts are used and never kept") {
  CountedCache c(limited(3, {0, 2}, 1), moe::Lru{}, 2);
  for (std::uint64_t round = 1; round <= 3; ++round) {
    c.use({0, 1, 2}, 0);
    CHECK(c.residents(0).empty());
    CHECK(c.statistics().streamed == 3 * round);
    c.use({5, 6}, 1);
    CHECK(c.residents(1) == Experts{5, 6});
  }
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.misses == 9 + 2);
  CHECK(s.hits == 4);
  CHECK(s.evictions == 0);
}
TEST_CASE("with staging, a call gives up nothing that it uses itself") {
  CountedCache c(limited(3, {}, 1));
  c.use({0, 1, 2, 3, 4});
  CHECK(c.residents() == Experts{0, 1});
  CHECK(c.statistics().streamed == 3);
  CHECK(c.statistics().evictions == 0);
  c.use({5});
  CHECK(c.residents() == Experts{1, 5});
}
TEST_CASE("one staging slot is always left for needs") {
  CountedCache c(limited(2, {0}, 2));
  CHECK(c.expect({0, 1, 2}) == 3);
  CHECK(c.statistics().prefetched == 1);
  c.use({4, 5});
  CHECK(c.statistics().misses == 2);
  c.use({0});
  CHECK(c.statistics().prefetched == c.statistics().prefetched_used + c.statistics().prefetched_wasted);
}

TEST_CASE("impossible ways to cut a budget are refused") {
  const std::string bytes = std::to_string(slot_bytes()), less = std::to_string(slot_bytes() - 1);
  CHECK(refusal({.bytes = slot_bytes() - 1}) ==
        "moe::ExpertCache: budget in bytes for records of format 0: expected at least 1 of " + bytes + ", found " +
            less);
  CHECK(refusal(limited(1, {}, 2)) ==
        "moe::ExpertCache: budget in bytes for records of format 0: expected at least 2 of " + bytes + ", found " +
            bytes);
  CHECK(refusal(limited(4, {2, 2}, 1), 1) ==
        "moe::ExpertCache: slots_by_layer in all: expected at most 3, what the budget holds beside staging, found 4");
  CHECK(refusal(limited(4, {1, 0}, 0), 2) ==
        "moe::ExpertCache: slots of layer 1: expected at least 1, or staging_slots, found neither");
  CHECK(refusal(limited(4, {1, 1}, 0), 3) ==
        "moe::Cached: layers of the cache: expected 2, as in slots_by_layer, found one more");
  moe::CacheOptions shares = slots(4);
  shares.shares = {0.5, 0.5};
  CHECK(refusal(shares) == "moe::ExpertCache: shares of the budget: expected 1, found 2");
  shares.shares = {1.5};
  CHECK(refusal(shares) == "moe::ExpertCache: shares of the budget: expected at most 1 in all, found " +
                               std::to_string(6 * slot_bytes()) + " bytes");
}
TEST_CASE("a layer with another number of precisions is refused") {
  const fixture::RandomExperts weights(shape, experts, 1);
  const moe::ExpertCache cache{slots(4)};
  const moe::Cached first{cache, weights.packed<moe::bf16>()};
  const moe::Mixed two{moe::ByImportance{}, weights.packed<moe::bf16>(), weights.packed<moe::bf16>()};
  CHECK_THROWS_WITH_AS((moe::Cached{cache, two}), "moe::Cached: formats of the records: expected 1, found 2",
                       moe::Error);
}

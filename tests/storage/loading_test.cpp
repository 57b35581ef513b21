// The time that calls wait for reads: counted while they wait, and only then.
#include <chrono>

#include <doctest/doctest.h>

#include "laws/storage_laws.hpp"

namespace {

using storage_laws::experts;
using storage_laws::shape;
using storage_laws::Source;

/// Reads that end well after a call has begun to wait for them. `make(source)`: the storage and who counts for it.
template <class Make>
void stalls_are_counted(const Make& make) {
  using namespace std::chrono;
  const fixture::RandomExperts weights(shape, experts, 1);
  for (microseconds delay(2000); delay < seconds(2); delay *= 2) {  // a busy machine may be late to wait
    fixture::Plan plan;
    plan.delay_us = static_cast<int>(delay.count());
    const auto [storage, counting] = make(moe::Background{Source{weights.packed<moe::bf16>(), &plan}, experts});
    CHECK(counting.statistics().stalls == 0);
    CHECK(counting.statistics().stall_ns == 0);
    const auto begin = steady_clock::now();
    storage_laws::lend_all(storage, {3}, [](const moe::ExpertRef&) {});
    const nanoseconds elapsed = steady_clock::now() - begin;
    const auto s = counting.statistics();
    const nanoseconds stalled(s.stall_ns);
    CHECK(stalled <= elapsed);
    CHECK((s.stalls == 0) == (stalled.count() == 0));
    if (s.stalls == 0 || stalled < delay / 2) continue;

    storage_laws::lend_all(storage, {3}, [](const moe::ExpertRef&) {});  // is here
    CHECK(counting.statistics().stalls == s.stalls);
    CHECK(counting.statistics().stall_ns == s.stall_ns);
    return;
  }
  FAIL("no call was counted that waited for a read");
}

}  // namespace

TEST_CASE("a call that waits for a cache's load is a stall as long as it waits, and one that finds it here is none") {
  stalls_are_counted([](const auto& source) {
    const moe::ExpertCache cache{{.bytes = 1u << 20}};
    return std::pair{moe::Cached{cache, source}, cache};
  });
}
TEST_CASE("a call that waits for a ring's section is a stall as long as it waits, and one that finds it here is none") {
  stalls_are_counted([](const auto& source) {
    const moe::RingSections ring{{.sections = 1}};
    return std::pair{moe::Ring{ring, source}, ring};
  });
}
TEST_CASE("a source that answers at once makes no call wait") {
  const fixture::RandomExperts weights(shape, experts, 1);
  const moe::ExpertCache cache{{.bytes = 1u << 20}};
  const moe::RingSections ring{{.sections = 1}};
  const auto use_all = [](const auto& storage) {
    storage_laws::lend_all(storage, {0, 1, 2, 3, 4, 5, 6}, [](const moe::ExpertRef&) {});
  };
  use_all(moe::Cached{cache, weights.packed<moe::bf16>()});
  use_all(moe::Ring{ring, weights.packed<moe::bf16>()});
  CHECK(cache.statistics().stalls == 0);
  CHECK(cache.statistics().stall_ns == 0);
  CHECK(ring.statistics().stalls == 0);
  CHECK(ring.statistics().stall_ns == 0);
}

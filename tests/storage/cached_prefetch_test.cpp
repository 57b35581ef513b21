// What a cache does with guesses.
#include <atomic>
#include <thread>

#include <doctest/doctest.h>

#include "counted_cache.hpp"

namespace {

using storage_laws::experts;
using storage_laws::Source;

moe::CacheOptions with(int n, moe::Prefetch mode) {
  moe::CacheOptions options = slots(n);
  options.prefetch = mode;
  return options;
}

/// The first read waits for the gate; all are written down in the order in which they are served.
struct Gate {
  std::atomic<bool> open{false};
  std::vector<moe::ExpertId> order;  // of one reading thread
};
struct Gated {
  using layout = Source::layout;
  using formats = Source::formats;
  moe::Packed<moe::bf16> source;
  Gate* gate;
  moe::ExpertShape shape() const noexcept { return source.shape(); }
  int num_experts() const noexcept { return source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return source.bytes(format); }
  void read(const moe::ReadRequest& request) const {
    gate->open.wait(false);
    gate->order.push_back(request.expert);
    source.read(request);
  }
};
/// Tells when something was asked for that a call waits for.
struct Watched {
  using layout = Source::layout;
  using formats = Source::formats;
  moe::Background<Gated> source;
  std::atomic<int>* demands;
  moe::ExpertShape shape() const noexcept { return source.shape(); }
  int num_experts() const noexcept { return source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return source.bytes(format); }
  void read(const moe::ReadRequest& request) const {
    source.read(request);
    if (request.urgency == moe::Urgency::now) demand();
  }
  void hurry(const void* who) const noexcept {
    source.hurry(who);
    demand();
  }
  void demand() const noexcept {
    ++*demands;
    demands->notify_all();
  }
};

/// The order in which one thread reads experts 0..5, all guessed, if `wanted` is needed while 0 is being read.
std::vector<moe::ExpertId> order_of_reads(moe::ExpertId wanted) {
  const fixture::RandomExperts weights(storage_laws::shape, experts, 1);
  Gate gate;
  std::atomic<int> demands{0};
  const moe::Cached storage{moe::ExpertCache{slots(experts)},
                            Watched{moe::Background{Gated{weights.packed<moe::bf16>(), &gate}, 1}, &demands}};
  storage.expect(guesses_of({0, 1, 2, 3, 4, 5}));
  std::thread call([&] { storage_laws::lend_all(storage, {wanted}, [](const moe::ExpertRef&) {}); });
  demands.wait(0);
  gate.open = true;
  gate.open.notify_all();
  call.join();
  // Reads that nobody waits for may still be under way: use all.
  storage_laws::lend_all(storage, {0, 1, 2, 3, 4, 5}, [](const moe::ExpertRef&) {});
  return gate.order;
}
/// The first read of `order` may have been taken before or after the demand; what counts is what follows it.
bool second_at_latest(const std::vector<moe::ExpertId>& order, moe::ExpertId wanted) {
  return order.size() > 1 && (order[0] == wanted || order[1] == wanted);
}

}  // namespace

TEST_CASE("a guess is loaded, used once as a hit, and counted") {
  CountedCache c(slots(4));
  c.expect({2, 5});
  CHECK(c.residents() == Experts{2, 5});
  c.use({2});
  c.use({2});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.prefetched == 2);
  CHECK(s.prefetched_used == 1);
  CHECK(s.hits == 2);
  CHECK(s.misses == 0);
}
TEST_CASE("a guess that is given up unused is counted as wasted") {
  CountedCache c(slots(1));
  c.expect({2});
  c.use({3});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.prefetched == 1);
  CHECK(s.prefetched_wasted == 1);
  CHECK(s.prefetched_used == 0);
  CHECK(s.bytes_read == 2 * slot_bytes());
}
TEST_CASE("guesses beyond the room take the experts with most rows and do not push each other out") {
  CountedCache c(slots(3));
  std::vector<moe::ExpertNeed> guess;
  for (moe::ExpertId e = 0; e < experts; ++e) guess.push_back({e, 1 + e, 1, 0});
  c.layers[0].expect(guess);
  CHECK(c.residents() == Experts{4, 5, 6});
  c.layers[0].expect(guess);
  CHECK(c.statistics().prefetched == 3);
}
TEST_CASE("a guess that fails to load is a miss later, not an error") {
  CountedCache c(slots(2));
  c.plan.fail_from = 0;
  c.plan.fail_count = 1;
  c.expect({1});
  CHECK(c.residents().empty());
  c.use({1});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.misses == 1);
  CHECK(s.prefetched_wasted == 1);
  CHECK(s.loads == 2);
  CHECK(s.bytes_read == slot_bytes());  // what failed brought nothing
}
TEST_CASE("a guess never gives up what is lent") {
  CountedCache c(slots(2));
  c.use({1});
  std::vector<moe::ExpertNeed> needs = guesses_of({0});
  HeldWave held;
  moe::host_queue queue;
  CHECK(c.layers[0].acquire(needs, held.get(), queue).empty());
  c.expect({2, 3, 4});
  CHECK(c.residents() == Experts{0, 2});
  held.release();
}
TEST_CASE("a guess never gives up what a call is still waiting for") {
  CountedCache c(slots(2));
  std::vector<moe::ExpertNeed> needs = guesses_of({0, 1, 2});
  HeldWave wave;
  moe::host_queue queue;
  std::span<moe::ExpertNeed> rest = c.layers[0].acquire(needs, wave.get(), queue);
  CHECK(rest.size() == 1);
  wave.release();
  rest = c.layers[0].acquire(rest, wave.get(), queue);
  CHECK(rest.empty());
  wave.release();
  CHECK(c.plan.reads == 3);
}

TEST_CASE("expect returns how many guesses were neither here nor coming") {
  CountedCache c(slots(4));
  c.use({1});
  CHECK(c.expect({1, 2, 3}) == 2);
  CHECK(c.expect({1, 2, 3}) == 0);
  CHECK(c.expect({}) == 0);
  CHECK(c.expect({4, 5, 6}) == 3);  // though there is no room for all
}
TEST_CASE("guesses do nothing where prefetch is off") {
  CountedCache c(with(4, moe::Prefetch::off));
  CHECK(c.expect({1, 2, 3}) == 0);
  c.use({1, 2});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.prefetched == 0);
  CHECK(s.predicted == 0);
  CHECK(s.needed == 0);
  CHECK(s.misses == 2);
}
TEST_CASE("observed guesses are measured and load nothing") {
  CountedCache c(with(5, moe::Prefetch::observe));
  CHECK(c.expect({1, 2, 3}) == 3);
  CHECK(c.plan.reads == 0);
  c.use({2, 3, 4, 5});
  c.use({6});  // nobody guessed
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.predicted == 3);
  CHECK(s.predicted_right == 2);
  CHECK(s.needed == 4);
  CHECK(s.prefetched == 0);
  CHECK(s.loads == 5);
}
TEST_CASE("enforced guesses are measured as observed ones are") {
  CountedCache c(with(5, moe::Prefetch::enforce));
  c.expect({1, 2, 3});
  c.use({2, 3, 4, 5});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.predicted == 3);
  CHECK(s.predicted_right == 2);
  CHECK(s.needed == 4);
  CHECK(s.prefetched == 3);
}
TEST_CASE("a later guess for the same call replaces an earlier one in the measure") {
  CountedCache c(with(5, moe::Prefetch::observe));
  c.expect({0, 1});
  c.expect({2, 3});
  c.use({0, 3});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.predicted == 2);
  CHECK(s.predicted_right == 1);
}
TEST_CASE("guesses stay within their byte budget until they are used") {
  moe::CacheOptions options = slots(6);
  options.prefetch_bytes = 2 * slot_bytes() + slot_bytes() / 2;
  CountedCache c(options);
  CHECK(c.expect({0, 1, 2, 3}) == 4);
  CHECK(c.residents() == Experts{0, 1});
  c.expect({0, 1, 2, 3});
  CHECK(c.residents() == Experts{0, 1});
  c.use({0});
  c.expect({2, 3});
  CHECK(c.residents() == Experts{0, 1, 2});
}
TEST_CASE("guesses for later layers do not push out those for nearer ones") {
  CountedCache c(slots(3), moe::Lru{}, 2);
  c.expect({0, 1}, 0);
  c.expect({2, 3}, 1);
  CHECK(c.residents(0) == Experts{0, 1});
  CHECK(c.residents(1) == Experts{2});
}

TEST_CASE("what an older guess brought for a layer stays when a newer one comes, until the layer is called") {
  CountedCache c(slots(3), moe::Lru{}, 2);
  c.expect({0, 1}, 0);
  c.expect({2}, 0);
  c.expect({3, 4}, 1);  // finds no slot that may go
  CHECK(c.residents(0) == Experts{0, 1, 2});
  c.use({2}, 0);
  c.expect({3, 4}, 1);
  CHECK(c.residents(1) == Experts{3, 4});
  const moe::CacheStatistics s = c.statistics();
  CHECK(s.prefetched == 5);
  CHECK(s.prefetched_used == 1);
  CHECK(s.prefetched_wasted == 2);
}

TEST_CASE("a record that a call waits for overtakes queued guesses") { CHECK(second_at_latest(order_of_reads(6), 6)); }
TEST_CASE("a queued guess that a call waits for overtakes the others") {
  CHECK(second_at_latest(order_of_reads(5), 5));
}

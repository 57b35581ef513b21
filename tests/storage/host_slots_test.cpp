// Caches over memory into which copies are queued, as a device's is: the order of copies, lending and computing.
#include <mutex>
#include <random>
#include <string>

#include <doctest/doctest.h>

#include "counted_cache.hpp"

namespace {

using storage_laws::experts;
using storage_laws::Source;

/// What happened to each slot: 'c' a copy was queued, 'l' it was lent, 'r' given back. And which copies have come to
/// their end.
struct Events {
  std::mutex mutex;
  std::vector<std::string> of;
  std::vector<bool> here;
  bool at_once = false;  // copies have come to their end as soon as they are queued
};
/// Host memory that pretends: a slot is answered for when its copy was queued.
class QueuedSlots {
 public:
  using memory = moe::host_memory;
  static inline Events* events = nullptr;

  void allocate(std::span<const std::size_t> bytes) {
    host_.allocate(bytes);
    events->of.assign(bytes.size(), {});
    events->here.assign(bytes.size(), false);
  }
  std::size_t bytes() const noexcept { return host_.bytes(); }
  const std::byte* record(int slot) const noexcept { return host_.record(slot); }
  void read(const moe::detail::LayerSource& source, const moe::ReadRequest& request, int slot) const {
    note(slot, 'c');
    {
      const std::lock_guard lock(events->mutex);
      events->here[static_cast<std::size_t>(slot)] = events->at_once;
    }
    host_.read(source, request, slot);
  }
  bool here(int slot) const noexcept {
    const std::lock_guard lock(events->mutex);
    return events->here[static_cast<std::size_t>(slot)];
  }
  void lend(int slot, moe::host_queue&) noexcept { note(slot, 'l'); }
  void release(int slot, moe::host_queue&) noexcept { note(slot, 'r'); }

 private:
  static void note(int slot, char what) {
    const std::lock_guard lock(events->mutex);
    events->of[static_cast<std::size_t>(slot)] += what;
  }
  moe::HostSlots host_;
};
using QueuedCache = moe::BasicExpertCache<QueuedSlots>;

struct Queued {
  explicit Queued(int n) {
    QueuedSlots::events = &events;
    storage.emplace(QueuedCache{slots(n)}, Source{weights.packed<moe::bf16>(), &plan});
  }
  void arrive() { events.here.assign(events.here.size(), true); }

  Events events;
  fixture::RandomExperts weights{storage_laws::shape, experts, 1};
  fixture::Plan plan;
  std::optional<moe::Cached<Source, QueuedSlots>> storage;
};
/// One call, wave by wave.
class Waves {
  using Storage = moe::Cached<Source, QueuedSlots>;
  using Pin = Storage::pin;

 public:
  Waves(const Storage& storage, const Experts& wanted) : storage_(storage) {
    for (const moe::ExpertId e : wanted) needs_.push_back({e, 1, 1, 0});
    rest_ = needs_;
  }
  Experts next() {
    wave_.release(queue_);
    rest_ = storage_.acquire(rest_, wave_, queue_);
    Experts lent;
    for (const moe::ExpertRef& ref : wave_.refs()) lent.insert(ref.expert);
    return lent;
  }
  ~Waves() { wave_.release(queue_); }

 private:
  const Storage& storage_;
  std::vector<moe::ExpertNeed> needs_;
  std::span<moe::ExpertNeed> rest_;
  std::vector<moe::ExpertRef> refs_ = std::vector<moe::ExpertRef>(experts);
  alignas(Pin) std::byte pins_[experts * sizeof(Pin)];
  moe::Wave<Pin> wave_{refs_.data(), reinterpret_cast<Pin*>(pins_)};
  moe::host_queue queue_;
};

}  // namespace

TEST_CASE("experts whose copies have come to their end are lent before those whose copies are queued") {
  Queued q(4);
  Waves(*q.storage, {5}).next();
  q.arrive();
  q.storage->expect(guesses_of({2, 3}));
  Waves call(*q.storage, {2, 3, 5});
  CHECK(call.next() == Experts{5});
  CHECK(call.next() == Experts{2, 3});
  CHECK(q.plan.reads == 3);
}
TEST_CASE("where no copy has come to its end, what is queued is lent at once: nobody waits for it here") {
  Queued q(4);
  Waves call(*q.storage, {1, 2, 3});
  CHECK(call.next() == Experts{1, 2, 3});
  CHECK(q.storage->statistics().stalls == 0);
}
TEST_CASE("an expert that is lent later than others starts no second load of its record") {
  Queued q(2);
  Waves(*q.storage, {5}).next();
  q.arrive();
  Waves call(*q.storage, {4, 5});
  CHECK(call.next() == Experts{5});
  CHECK(call.next() == Experts{4});
  CHECK(q.storage->statistics().loads == 2);
}
TEST_CASE("every lent slot is told when it is lent and given back, and is not copied into in between") {
  for (const int n : {1, 2, 5})
    for (const bool at_once : {false, true}) {
      Queued q(n);
      q.events.at_once = at_once;
      std::mt19937 random(7);
      for (int call = 0; call < 200; ++call) {
        const auto expert = [&] { return static_cast<moe::ExpertId>(random() % experts); };
        q.storage->expect(guesses_of({expert()}));
        int left = call % 3 == 0 ? 1 : experts;  // some calls end early
        try {
          storage_laws::lend_all(*q.storage, {expert() % 3, 3 + expert() % 3, 6}, [&](const moe::ExpertRef&) {
            if (left-- == 0) throw 1;
          });
        } catch (int) {
        }
      }
      for (const std::string& of : q.events.of) {
        int lent = 0;
        for (const char what : of) {
          lent += what == 'l' ? 1 : what == 'r' ? -1 : 0;
          REQUIRE((lent == 0 || (lent == 1 && what == 'l')));
        }
        CHECK(lent == 0);
        CHECK(of.front() == 'c');
      }
    }
}
TEST_CASE("pins of experts that are skipped are given back without a slot") {
  Events events;
  QueuedSlots::events = &events;
  const fixture::RandomExperts weights(storage_laws::shape, experts, 1);
  const moe::Mixed source{moe::ByImportance{.up_to = {0.5f, 1, 1, 1}}, weights.packed<moe::bf16>()};
  const moe::Cached storage{QueuedCache{slots(2)}, source};
  using Pin = decltype(storage)::pin;
  moe::ExpertNeed need{3, 1, 1, 0.9f};
  moe::ExpertRef ref;
  alignas(Pin) std::byte pin[sizeof(Pin)];
  moe::Wave<Pin> wave{&ref, reinterpret_cast<Pin*>(pin)};
  moe::host_queue queue;
  CHECK(storage.acquire({&need, 1}, wave, queue).empty());
  CHECK(wave.refs()[0].bytes == nullptr);
  wave.release(queue);
  CHECK(events.of == std::vector<std::string>(2));
}
TEST_CASE("a cache over queued copies keeps the storage laws") {
  Events events;
  QueuedSlots::events = &events;
  for (const bool at_once : {false, true}) {
    events.at_once = at_once;
    const auto make = [](const Source& source) {
      return moe::Cached{QueuedCache{slots(3)}, moe::Background{source, 2}};
    };
    storage_laws::serves_each_need_once(make);
    storage_laws::computes_the_same_bits(make);
    storage_laws::survives_one_failing_read(make);
    storage_laws::holds_nothing_after_a_call_that_ended_early(make);
    storage_laws::residency_agrees(make);
    storage_laws::serves_several_threads(make, 3, 10);
  }
}

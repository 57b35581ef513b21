// Ring: the laws of storages, the order and timing of SE-MoE's ring against its recurrence and failures.
#include <algorithm>
#include <string>

#include <doctest/doctest.h>

#include "laws/storage_laws.hpp"
#include "problem.hpp"
#include "ring_fixture.hpp"

namespace {

using ring_fixture::experts;
using ring_fixture::Lent;
using ring_fixture::Model;
using ring_fixture::Packed;
using ring_fixture::small;
using ring_fixture::Weights;
using storage_laws::lend_all;

/// SE-MoE's recurrence (papers-systems.md, 3D) for K < N: when each step ends.
std::vector<std::int64_t> steps_by_recurrence(int sections, const std::vector<std::int64_t>& compute,
                                              const std::vector<std::int64_t>& copy) {
  const auto k = static_cast<std::size_t>(sections);
  std::vector<std::int64_t> load_end(compute.size(), 0), comp_end(compute.size(), 0);
  for (std::size_t g = 0; g < compute.size(); ++g) {
    const std::int64_t before = g == 0 ? 0 : comp_end[g - 1];
    if (g >= k) load_end[g] = std::max(load_end[g - 1], comp_end[g - k]) + copy[g];
    comp_end[g] = std::max(before, load_end[g]) + compute[g];
  }
  return comp_end;
}

/// When each step of the library's ring ends, for the same costs.
std::vector<std::int64_t> steps_of_ring(int layers, int sections, const std::vector<std::int64_t>& compute,
                                        const std::vector<std::int64_t>& copy) {
  Model m(layers, sections);
  m.world.copy_cost = copy;
  for (int g = 0; g < sections; ++g) m.world.copy_cost[static_cast<std::size_t>(g)] = 0;  // the preloaded
  m.ring.start();
  std::vector<std::int64_t> ends;
  for (std::size_t g = 0; g < compute.size(); ++g) {
    m.step(static_cast<int>(g) % layers, compute[g]);
    ends.push_back(m.world.now);
  }
  return ends;
}

std::vector<std::int64_t> random_costs(oracle::Random& random, std::size_t count) {
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(random.between(200, 1800));
  return out;
}
/// Time per step once the start is over.
std::int64_t period(int layers, int sections, std::int64_t compute, std::int64_t copy) {
  const std::size_t steps = 60;
  const auto ends = steps_of_ring(layers, sections, std::vector<std::int64_t>(steps, compute),
                                  std::vector<std::int64_t>(steps, copy));
  return (ends[50] - ends[30]) / 20;
}

/// A ring over layers 0, 1, 2 of which 1 is the storage under test: a call uses the others too.
template <class Source>
struct Middle {
  using memory = moe::host_memory;
  using layout = typename Source::layout;
  using formats = typename Source::formats;
  using pin = moe::detail::RingPin;
  explicit Middle(const Source& source)
      : others(std::make_shared<fixture::RandomExperts>(storage_laws::shape, storage_laws::experts, 9u)),
        before(ring, others->template packed<moe::bf16>()),
        self(ring, source),
        after(ring, others->template packed<moe::bf16>()) {}
  moe::ExpertShape shape() const noexcept { return self.shape(); }
  int num_experts() const noexcept { return self.num_experts(); }
  std::span<moe::ExpertNeed> acquire(std::span<moe::ExpertNeed> todo, moe::Wave<pin>& wave, moe::host_queue& q) const {
    if (used->exchange(true)) lend_all(after, {1}, [](const moe::ExpertRef&) {});
    lend_all(before, {0}, [](const moe::ExpertRef&) {});
    return self.acquire(todo, wave, q);
  }
  std::shared_ptr<std::atomic<bool>> used = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<fixture::RandomExperts> others;
  moe::RingSections ring{{.sections = 2}};
  moe::Ring<Packed> before;
  moe::Ring<Source> self;
  moe::Ring<Packed> after;
};

}  // namespace

// ---- storage laws

TEST_CASE("a ring of one layer keeps the storage laws") {
  storage_laws::all([](const auto& source) { return moe::Ring{moe::RingSections{{.sections = 1}}, source}; });
}
TEST_CASE("a ring over reading threads keeps the storage laws") {
  storage_laws::all([](const auto& source) {
    return moe::Ring{moe::RingSections{{.sections = 3}}, moe::Background{source, 2}};
  });
}
TEST_CASE("a layer among others on two sections keeps the storage laws") {
  storage_laws::all([](const auto& source) { return Middle{source}; });
}
TEST_CASE("every number of sections gives the bits of resident experts, layer by layer") {
  for (const int layers : {1, 3, 5}) {
    const Weights weights(layers);
    const fixture::Inputs in(5, small.hidden, experts, 3);
    const moe::TopK router{.experts = experts, .k = 1};
    const moe::Cpu cpu{.threads = 1};
    for (int k = 1; k <= layers; ++k) {
      const moe::RingSections ring{{.sections = k}};
      const auto make = [&](int l) {
        return moe::MoELayer{in.linear(), router, moe::Ring{ring, moe::Background{weights.packed(l)}}, cpu};
      };
      std::vector<decltype(make(0))> model;
      for (int l = 0; l < layers; ++l) model.push_back(make(l));
      for (int token = 0; token < 3; ++token)
        for (int l = 0; l < layers; ++l) {
          const auto expected =
              fixture::outputs(moe::MoELayer{in.linear(), router, moe::Resident{weights.packed(l)}, cpu}, in, 5);
          CHECK(fixture::outputs(model[static_cast<std::size_t>(l)], in, token == 2 ? 2 : 5) == expected);
        }
    }
  }
}

// ---- the schedule

TEST_CASE("at the start the first K layers are read, in order and nothing else") {
  Model m(5, 3);
  CHECK(m.world.copied.empty());
  m.ring.start();
  CHECK(m.world.copied == std::vector<int>{0, 1, 2});
  m.ring.start();
  CHECK(m.world.copied.size() == 3);
}
TEST_CASE("the copy of the layer K ahead begins when a layer ends, across the end of a token") {
  for (int layers = 2; layers <= 6; ++layers)
    for (int k = 1; k < layers; ++k) {
      Model m(layers, k);
      for (int g = 0; g < 4 * layers; ++g) {
        m.step(g % layers);
        REQUIRE(m.world.copied.size() == static_cast<std::size_t>(g + 1 + k));
        CHECK(m.world.copied.back() == (g + k) % layers);
      }
      CHECK(m.ring.statistics().demanded == 0);
    }
}
TEST_CASE("not before its last pin goes is a section written, and never more than K of them") {
  for (int layers = 2; layers <= 5; ++layers)
    for (int k = 1; k <= layers; ++k) {
      Model m(layers, k);
      for (int g = 0; g < 3 * layers; ++g) {
        Lent lent(m.storage[static_cast<std::size_t>(g % layers)], {1, 0});
        for (const moe::ExpertRef& ref : lent.refs()) m.world.lent.insert(ref.bytes);
        const std::size_t before = m.world.copied.size();
        m.step(g % layers);  // somebody else uses the layer and ends first
        CHECK(m.world.copied.size() == before);
        for (const moe::ExpertRef& ref : lent.refs()) CHECK(m.weights.holds(g % layers, ref));
        m.world.lent.clear();
        lent.give_back();
      }
      CHECK_FALSE(m.world.overwritten);
      CHECK(m.world.places.size() == static_cast<std::size_t>(k));
    }
}
TEST_CASE("with as many sections as layers nothing is copied after the start") {
  for (const int sections : {4, 9}) {
    Model m(4, sections);
    for (int g = 0; g < 12; ++g) m.step(g % 4);
    CHECK(m.world.copied == std::vector<int>{0, 1, 2, 3});
    CHECK(m.ring.sections() == 4);
  }
}
TEST_CASE("copies and bytes are counted exactly") {
  for (int k = 1; k < 5; ++k) {
    Model m(5, k);
    for (int g = 0; g < 15; ++g) m.step(g % 5);
    const moe::RingStatistics s = m.ring.statistics();
    CHECK(s.copies == m.world.copied.size());
    CHECK(s.copies == static_cast<std::uint64_t>(15 + k));
    CHECK(s.bytes_read == s.copies * experts * m.weights.packed(0).bytes(0));
    CHECK(s.stalls == 0);  // this source answers at once
  }
}
TEST_CASE("a layer without needs hands its section on") {
  Model m(5, 2);
  for (int g = 0; g < 10; ++g) {
    m.step(g % 5, 1, g % 2 == 0 ? std::vector<moe::ExpertId>{} : std::vector<moe::ExpertId>{1});
    CHECK(m.world.copied.size() == static_cast<std::size_t>(g + 3));
    CHECK(m.world.copied.back() == (g + 2) % 5);
  }
}

TEST_CASE("steps end when the recurrence says, for varying costs of computing and copying") {
  oracle::Random random(51);
  CAPTURE(random.seed);
  for (int layers = 2; layers <= 9; ++layers)
    for (int k = 1; k < layers; ++k) {
      CAPTURE(layers);
      CAPTURE(k);
      const auto compute = random_costs(random, 40), copy = random_costs(random, 40 + 9);
      CHECK(steps_of_ring(layers, k, compute, copy) == steps_by_recurrence(k, compute, copy));
    }
}
TEST_CASE("a step costs computing plus copying with one section, the larger of them with more, computing with all") {
  for (const auto& [compute, copy] : {std::pair{100, 100}, {100, 80}, {100, 13}, {60, 100}})
    for (const int layers : {4, 5, 7}) {
      CHECK(period(layers, 1, compute, copy) == compute + copy);
      for (int k = 2; k < layers; ++k) CHECK(period(layers, k, compute, copy) == std::max(compute, copy));
      CHECK(period(layers, layers, compute, copy) == compute);
    }
}

// ---- layers out of the ring's order

TEST_CASE("a layer that is asked for out of order is read in the place of the one that is needed last") {
  Model m(6, 2);
  m.step(0);  // now 1 and 2 are here
  m.step(4);
  CHECK(m.world.copied == std::vector<int>{0, 1, 2, 4, 5});
  m.step(1);  // stayed, because 2 is behind it as seen from 4
  CHECK(m.ring.statistics().demanded == 1);
}
TEST_CASE("any order of layers is served") {
  oracle::Random random(52);
  for (int k = 1; k <= 5; ++k) {
    Model m(5, k);
    for (int g = 0; g < 100; ++g) m.step(random.between(0, 4));
    CHECK(m.world.places.size() == static_cast<std::size_t>(k));
  }
}
TEST_CASE("a ring that was used out of order finds back to reading ahead") {
  Model m(5, 3);
  for (const int l : {0, 3, 1, 4, 4, 2}) m.step(l);
  for (int g = 0; g < 5; ++g) m.step(g);
  const std::uint64_t demanded = m.ring.statistics().demanded;
  for (int g = 0; g < 25; ++g) m.step(g % 5);
  CHECK(m.ring.statistics().demanded == demanded);
}

// ---- failures

TEST_CASE("whichever record fails: what was read ahead is read again, and if that fails too there is one IoError") {
  const int layers = 4, steps = 16;
  for (int i = 0; i < 2 * layers; ++i) {
    const int k = i / 2 + 1, failures = i % 2 + 1;
    const int reads = experts * (k == layers ? layers : k + steps - layers);
    for (int failing = 0; failing < reads; ++failing) {
      CAPTURE(k);
      CAPTURE(failing);
      Model m(layers, k);
      m.world.failing_read = failing;
      m.world.failures = failures;
      int errors = 0;
      for (int g = 0; g < steps + layers; ++g) {
        try {
          m.step(g % layers);
        } catch (const moe::IoError& error) {
          ++errors;
          CHECK(std::string(error.what()) == "layer " + std::to_string(g % layers) + " of the ring: injected fault");
          m.step(g % layers);
        }
      }
      CHECK(errors == failures - 1);
      const moe::RingStatistics s = m.ring.statistics();
      const std::uint64_t arrived = s.copies * experts - static_cast<std::uint64_t>(failures);
      CHECK(s.bytes_read == arrived * m.weights.packed(0).bytes(0));
    }
  }
}
TEST_CASE("a layer whose reads failed and that is not needed is forgotten") {
  Model m(4, 2);
  m.world.failing_read = 1 * experts;  // of layer 1
  m.world.failures = 1;
  m.step(0);
  m.step(1, 1, {});
  for (int g = 2; g < 10; ++g) m.step(g % 4);
}

// ---- sizes and misuse

TEST_CASE("as many sections as the bytes hold, each with room for the largest layer") {
  const fixture::RandomExperts few(small, 1, 1), many(small, 3, 2);
  const std::size_t record = moe::round_up(many.packed<moe::bf16>().bytes(0), moe::page_alignment);
  const moe::RingSections ring{{.bytes = 7 * record}};
  const moe::Ring first{ring, few.packed<moe::bf16>()}, second{ring, many.packed<moe::bf16>()},
      third{ring, few.packed<moe::bf16>()};
  CHECK(ring.sections() == 0);
  CHECK(ring.bytes_held() == 0);
  ring.start();
  CHECK(ring.sections() == 2);
  CHECK(ring.bytes_held() == 6 * record);
  for (int token = 0; token < 3; ++token) {
    lend_all(first, {0}, [&](const moe::ExpertRef& ref) {
      CHECK(std::memcmp(ref.bytes, fixture::record(few.packed<moe::bf16>(), 0).data(),
                        few.packed<moe::bf16>().bytes(0)) == 0);
    });
    lend_all(second, {2, 0}, [&](const moe::ExpertRef& ref) {
      CHECK(std::memcmp(ref.bytes, fixture::record(many.packed<moe::bf16>(), ref.expert).data(),
                        few.packed<moe::bf16>().bytes(0)) == 0);
    });
    lend_all(third, {0}, [](const moe::ExpertRef&) {});
  }
}
TEST_CASE("a budget below one layer is refused with the bytes that are needed") {
  const fixture::RandomExperts weights(small, 3, 1);
  const std::size_t layer = 3 * moe::round_up(weights.packed<moe::bf16>().bytes(0), moe::page_alignment);
  const moe::RingSections ring{{.bytes = layer - 1}};
  const std::string expected = "moe::Ring: budget in bytes: expected at least one layer, " + std::to_string(layer) +
                               ", found " + std::to_string(layer - 1);
  CHECK_THROWS_WITH_AS((moe::Ring{ring, weights.packed<moe::bf16>()}), expected.c_str(), moe::Error);
}
TEST_CASE("a ring is as large as one option says") {
  CHECK_THROWS_AS(moe::RingSections{moe::RingOptions{}}, moe::Error);
  CHECK_THROWS_AS((moe::RingSections{{.bytes = 1000, .sections = 1}}), moe::Error);
  CHECK_THROWS_AS(moe::RingSections{{.sections = -1}}, moe::Error);
}
TEST_CASE("a ring without layers does not start, and one that has started takes no more") {
  const fixture::RandomExperts weights(small, 2, 1);
  const moe::RingSections ring{{.sections = 2}};
  CHECK_THROWS_AS(ring.start(), moe::Error);
  const moe::Ring first{ring, weights.packed<moe::bf16>()};
  ring.start();
  CHECK_THROWS_WITH_AS((moe::Ring{ring, weights.packed<moe::bf16>()}),
                       "moe::Ring: a layer that joins: expected before the first use, found after it", moe::Error);
  lend_all(first, {0, 1}, [](const moe::ExpertRef&) {});
}
TEST_CASE("a ring goes on without a layer that has gone") {
  Model m(4, 2);
  for (int g = 0; g < 6; ++g) m.step(g % 4);
  m.storage.pop_back();
  m.world.copied.clear();
  for (int g = 0; g < 9; ++g) m.step(g % 3);
  CHECK(std::count(m.world.copied.begin(), m.world.copied.end(), 3) == 0);
}
TEST_CASE("a layer's experts are resident together, while its section is here") {
  Model m(3, 1);
  const auto resident = [&](int l) {
    std::uint32_t bits = 0;
    m.storage[static_cast<std::size_t>(l)].residency(&bits);
    return bits;
  };
  CHECK(resident(0) == 0);
  m.ring.start();
  CHECK(resident(0) == 0b11u);
  CHECK(resident(1) == 0);
  m.step(0);
  CHECK(resident(0) == 0);
  CHECK(resident(1) == 0b11u);
}

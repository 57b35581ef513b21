// Laws that every storage keeps, over a factory `make(source) -> storage`. docs/policies.md#storage.
#pragma once

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "storage_fixture.hpp"

namespace storage_laws {

using Source = fixture::Planned<moe::Packed<moe::bf16>>;
inline constexpr moe::ExpertShape shape{40, 23};
inline constexpr int experts = 7;

/// Visits (expert, bytes) of every expert lent for `wanted`, in waves for leasing storages, as the layer does.
template <class Storage, class Visit>
void lend_all(const Storage& storage, const std::vector<moe::ExpertId>& wanted, const Visit& visit) {
  if constexpr (moe::ResidentStorage<Storage>) {
    for (const moe::ExpertId e : wanted) visit(storage.table()[e]);
  } else {
    using Pin = typename Storage::pin;
    std::vector<moe::ExpertNeed> needs;
    for (const moe::ExpertId e : wanted) needs.push_back({e, 1, 1.0f, 0.0f});
    std::vector<moe::ExpertRef> refs(wanted.size());
    std::vector<std::aligned_storage_t<sizeof(Pin), alignof(Pin)>> pins(wanted.size());
    moe::Wave<Pin> wave{refs.data(), reinterpret_cast<Pin*>(pins.data())};
    moe::host_queue queue;
    std::span<moe::ExpertNeed> todo = needs;
    moe::detail::AbandonGuard guard{storage, todo, wave, queue};
    do {
      todo = storage.acquire(todo, wave, queue);
      CHECK((!wave.empty() || todo.empty()));
      for (const moe::ExpertRef& ref : wave.refs()) visit(ref);
      wave.release(queue);
    } while (!todo.empty());
    guard.served();
  }
}

/// Each need once, with the bytes of the source.
template <class Make>
void serves_each_need_once(const Make& make) {
  const fixture::RandomExperts weights(shape, experts, 1);
  fixture::Plan plan;
  const Source source{weights.packed<moe::bf16>(), &plan};
  const auto storage = make(source);
  for (const std::vector<moe::ExpertId>& wanted :
       {std::vector<moe::ExpertId>{}, {3}, {0, 1, 2, 3, 4, 5, 6}, {6, 1}, {5, 4, 3, 2, 1, 0}}) {
    std::vector<int> times(experts, 0);
    lend_all(storage, wanted, [&](const moe::ExpertRef& ref) {
      ++times[static_cast<std::size_t>(ref.expert)];
      const std::vector<std::byte> expected = fixture::record(source, ref.expert);
      CHECK(std::memcmp(ref.bytes, expected.data(), source.source.bytes(0)) == 0);
    });
    for (moe::ExpertId e = 0; e < experts; ++e) {
      const bool asked = std::find(wanted.begin(), wanted.end(), e) != wanted.end();
      CHECK(times[static_cast<std::size_t>(e)] == (asked ? 1 : 0));
    }
  }
}

/// The layer over this storage gives the bits of the layer over resident experts.
template <class Make>
void computes_the_same_bits(const Make& make) {
  const fixture::RandomExperts weights(shape, experts, 2);
  const fixture::Inputs in(29, shape.hidden, experts, 3);
  fixture::Plan plan;
  const Source source{weights.packed<moe::bf16>(), &plan};
  const moe::TopK router{.experts = experts, .k = 3};
  const std::vector<float> expected = fixture::outputs(
      moe::MoELayer{in.linear(), router, moe::Resident{source}, moe::Cpu{.threads = 1}}, in, in.tokens);
  for (const int threads : {1, 2, 5}) {
    const moe::MoELayer layer{in.linear(), router, make(source), moe::Cpu{.threads = threads}};
    for (const int chunk : {1, 4, 29}) CHECK(fixture::outputs(layer, in, chunk) == expected);
  }
}

/// Whatever `inject(plan, n)` makes fail: an IoError that names the fault, or the right result if no call began that
/// read; and right results afterwards. Returns how many failures showed.
template <class Make>
int survives(const Make& make, void (*inject)(fixture::Plan&, int)) {
  const fixture::RandomExperts weights(shape, experts, 4);
  const fixture::Inputs in(29, shape.hidden, experts, 5);  // every expert is wanted
  fixture::Plan plan;
  const Source source{weights.packed<moe::bf16>(), &plan};
  const moe::TopK router{.experts = experts, .k = 3};
  const std::vector<float> expected = fixture::outputs(
      moe::MoELayer{in.linear(), router, moe::Resident{source}, moe::Cpu{.threads = 1}}, in, in.tokens);
  int failures = 0;
  for (int n = 0; n < experts; ++n) {
    plan.reads = 0;
    inject(plan, n);
    const auto attempt = [&](const auto& layer) {
      try {
        const std::vector<float> y = fixture::outputs(layer, in, in.tokens);  // outside CHECK, which would catch
        CHECK(y == expected);
      } catch (const moe::IoError& error) {
        CHECK(std::string(error.what()).find("injected fault") != std::string::npos);
        ++failures;
      }
      plan.fail_from = plan.broken = -1;
      CHECK(fixture::outputs(layer, in, in.tokens) == expected);
    };
    try {
      attempt(moe::MoELayer{in.linear(), router, make(source), moe::Cpu{.threads = 2}});
    } catch (const moe::IoError&) {  // a storage that reads at construction
      ++failures;
    }
  }
  return failures;
}
template <class Make>
void survives_one_failing_read(const Make& make) {
  survives(make, [](fixture::Plan& plan, int n) {
    plan.fail_from = n;
    plan.fail_count = 1;
  });
}
template <class Make>
void reports_a_record_that_cannot_be_read(const Make& make) {
  CHECK(survives(make, [](fixture::Plan& plan, int n) { plan.broken = n; }) == experts);
}

/// A call that ends early, with pins and reads under way, leaves nothing taken: later calls get all they want.
template <class Make>
void holds_nothing_after_a_call_that_ended_early(const Make& make) {
  const fixture::RandomExperts weights(shape, experts, 8);
  fixture::Plan plan;
  const Source source{weights.packed<moe::bf16>(), &plan};
  const auto storage = make(source);
  for (int i = 0; i < 2 * experts; ++i) {
    int left = i % experts;
    const auto leave = [&](const moe::ExpertRef&) {
      if (left-- == 0) throw 1;
    };
    CHECK_THROWS_AS(lend_all(storage, {0, 1, 2, 3, 4, 5, 6}, leave), int);
    int lent = 0;
    lend_all(storage, {6, 5, 4, 3, 2, 1, 0}, [&](const moe::ExpertRef&) { ++lent; });
    CHECK(lent == experts);
  }
}

/// What residency names is lent without a read. Storages that tell no residency keep this law.
template <class Make>
void residency_agrees(const Make& make) {
  const fixture::RandomExperts weights(shape, experts, 9);
  fixture::Plan plan;
  const auto storage = make(Source{weights.packed<moe::bf16>(), &plan});
  if constexpr (requires(std::uint32_t * bits) { storage.residency(bits); }) {
    for (const std::vector<moe::ExpertId>& wanted :
         {std::vector<moe::ExpertId>{}, {3}, {0, 1}, {6, 5, 4, 3, 2, 1, 0}, {2, 2 + 3}}) {
      lend_all(storage, wanted, [](const moe::ExpertRef&) {});
      std::uint32_t bits = 0xffffffffu;
      storage.residency(&bits);
      CHECK((bits >> experts) == 0);
      for (moe::ExpertId e = 0; e < experts; ++e) {
        if ((bits >> e & 1u) == 0) continue;
        const int reads = plan.reads;  // counted here: reads that nobody waited for may be under way before
        lend_all(storage, {e}, [](const moe::ExpertRef&) {});
        CHECK(plan.reads == reads);
      }
    }
  }
}

/// Host threads on layers that share the storage's memory see right results.
template <class Make>
void serves_several_threads(const Make& make, int threads, int rounds) {
  const fixture::RandomExperts weights(shape, experts, 6);
  fixture::Plan plan;
  plan.delay_us = 20;
  const Source source{weights.packed<moe::bf16>(), &plan};
  const moe::TopK router{.experts = experts, .k = 2};
  const fixture::Inputs in(6, shape.hidden, experts, 7);
  const std::vector<float> expected = fixture::outputs(
      moe::MoELayer{in.linear(), router, moe::Resident{source}, moe::Cpu{.threads = 1}}, in, in.tokens);
  const moe::Cpu cpu{.threads = 2};
  const moe::MoELayer layer{in.linear(), router, make(source), cpu};
  std::atomic<int> wrong{0};
  std::vector<std::thread> hosts;
  for (int h = 0; h < threads; ++h)
    hosts.emplace_back([&] {
      for (int r = 0; r < rounds; ++r) wrong += fixture::outputs(layer, in, 1 + r % 6) != expected;
    });
  for (std::thread& host : hosts) host.join();
  CHECK(wrong == 0);
}

/// All of them.
template <class Make>
void all(const Make& make) {
  SUBCASE("each need is served once, with the source's bytes") { serves_each_need_once(make); }
  SUBCASE("a layer computes the same bits as over resident experts") { computes_the_same_bits(make); }
  SUBCASE("any failing read is an IoError or read again, and the storage stays usable") {
    survives_one_failing_read(make);
  }
  SUBCASE("a record that cannot be read is an IoError, until it can be") { reports_a_record_that_cannot_be_read(make); }
  SUBCASE("a call that ended early holds nothing") { holds_nothing_after_a_call_that_ended_early(make); }
  SUBCASE("residency is what can be lent without a read") { residency_agrees(make); }
  SUBCASE("several host threads get right results") { serves_several_threads(make, 4, 30); }
}

}  // namespace storage_laws

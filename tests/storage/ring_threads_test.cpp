// Ring over sources that answer later, and under several host threads.
#include <mutex>
#include <thread>

#include <doctest/doctest.h>

#include "laws/storage_laws.hpp"
#include "problem.hpp"
#include "ring_fixture.hpp"

namespace {

using ring_fixture::experts;
using ring_fixture::Lent;
using ring_fixture::Packed;
using ring_fixture::Weights;
using storage_laws::lend_all;

/// Keeps requests until somebody lets them be read.
struct Gate {
  std::mutex mutex;
  std::vector<std::pair<Packed, moe::ReadRequest>> waiting;
  int asked = 0, hurried = 0;

  std::vector<moe::Urgency> urgencies() {
    const std::lock_guard lock(mutex);
    std::vector<moe::Urgency> out;
    for (const auto& [source, request] : waiting) out.push_back(request.urgency);
    return out;
  }
  void open(std::size_t count) {
    std::vector<std::pair<Packed, moe::ReadRequest>> now;
    {
      const std::lock_guard lock(mutex);
      count = std::min(count, waiting.size());
      now.assign(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(count));
      waiting.erase(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(count));
    }
    for (const auto& [source, request] : now) source.read(request);
  }
  int count(int Gate::*which) {
    const std::lock_guard lock(mutex);
    return this->*which;
  }
};
struct GatedSource {
  using layout = Packed::layout;
  using formats = Packed::formats;
  Packed source;
  Gate* gate;
  moe::ExpertShape shape() const noexcept { return source.shape(); }
  int num_experts() const noexcept { return source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return source.bytes(format); }
  void read(const moe::ReadRequest& request) const {
    const std::lock_guard lock(gate->mutex);
    gate->waiting.emplace_back(source, request);
    ++gate->asked;
  }
  void hurry(const void*) const noexcept {
    const std::lock_guard lock(gate->mutex);
    ++gate->hurried;
  }
};

}  // namespace

TEST_CASE("a call waits for its section only, and says that its reads are waited for now") {
  const Weights weights(3);
  Gate gate;
  const moe::RingSections ring{{.sections = 2}};
  std::vector<moe::Ring<GatedSource>> layers;
  for (int l = 0; l < 3; ++l) layers.emplace_back(ring, GatedSource{weights.packed(l), &gate});
  ring.start();
  CHECK(gate.count(&Gate::asked) == 2 * experts);
  CHECK(gate.urgencies() == std::vector<moe::Urgency>(2 * experts, moe::Urgency::later));
  std::thread host([&] {
    lend_all(layers[0], {0, 1}, [&](const moe::ExpertRef& ref) { CHECK(weights.holds(0, ref)); });
  });
  while (gate.count(&Gate::hurried) < experts) std::this_thread::yield();
  gate.open(experts);  // of layer 0; layer 1 is still on its way
  host.join();
  CHECK(gate.count(&Gate::asked) == 3 * experts);  // layer 2 went into its place
  CHECK(ring.statistics().stalls == 1);
  gate.open(2 * experts);
}
TEST_CASE("a section that is passed while it is read is handed on when it is there") {
  const Weights weights(3);
  Gate gate;
  const moe::RingSections ring{{.sections = 1}};
  std::vector<moe::Ring<GatedSource>> layers;
  for (int l = 0; l < 3; ++l) layers.emplace_back(ring, GatedSource{weights.packed(l), &gate});
  lend_all(layers[0], {}, [](const moe::ExpertRef&) {});  // does not wait
  CHECK(gate.count(&Gate::asked) == experts);
  gate.open(experts);
  std::thread host([&] {
    lend_all(layers[1], {0, 1}, [&](const moe::ExpertRef& ref) { CHECK(weights.holds(1, ref)); });
  });
  while (gate.count(&Gate::asked) < 2 * experts) std::this_thread::yield();
  gate.open(experts);
  host.join();
  CHECK(ring.statistics().copies == 3);
  gate.open(experts);
}
TEST_CASE("the reads of a layer that is asked for out of order are waited for from the start") {
  const Weights weights(3);
  Gate gate;
  const moe::RingSections ring{{.sections = 1}};
  std::vector<moe::Ring<GatedSource>> layers;
  for (int l = 0; l < 3; ++l) layers.emplace_back(ring, GatedSource{weights.packed(l), &gate});
  ring.start();
  gate.open(experts);
  std::thread host([&] {
    lend_all(layers[2], {0, 1}, [&](const moe::ExpertRef& ref) { CHECK(weights.holds(2, ref)); });
  });
  while (gate.count(&Gate::asked) < 2 * experts) std::this_thread::yield();
  CHECK(gate.urgencies() == std::vector<moe::Urgency>(experts, moe::Urgency::now));
  gate.open(experts);
  host.join();
  gate.open(experts);
}
TEST_CASE("what becomes free goes to the layer that was waited for longest") {
  struct Instant {
    static void read(const void*, const moe::ReadRequest& request) { request.done(request.who, nullptr); }
    static void hurry(const void*, const void*) noexcept {}
  };
  moe::detail::RingState state{{.sections = 1}};
  moe::detail::RingLayer layer;
  layer.experts = 1;
  layer.stride = layer.record_bytes = moe::page_alignment;
  layer.source = {nullptr, &Instant::read, &Instant::hurry};
  for (int l = 0; l < 4; ++l) state.join(layer);
  const int held = state.claim(0);
  std::vector<int> order;
  std::vector<std::thread> hosts;
  for (const int l : {3, 1, 2}) {
    hosts.emplace_back([&, l] {
      const int section = state.claim(l);
      order.push_back(l);  // one section: one thread at a time
      state.release(section);
    });
    const auto waits = [&] {
      const std::lock_guard lock(state.mutex);
      return state.table.waiting(l) == 1;
    };
    while (!waits()) std::this_thread::yield();
  }
  state.release(held);
  for (std::thread& host : hosts) host.join();
  CHECK(order == std::vector<int>{3, 1, 2});
}
TEST_CASE("a layer does not go before its reads were answered") {
  const Weights weights(1);
  Gate gate;
  std::atomic<bool> going{false}, opened{false}, waited{false};
  std::thread host([&] {
    {
      const moe::RingSections ring{{.sections = 1}};
      const moe::Ring layer{ring, GatedSource{weights.packed(0), &gate}};
      ring.start();
      going = true;
    }
    waited = opened.load();
  });
  while (!going) std::this_thread::yield();
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  opened = true;
  gate.open(experts);
  host.join();
  CHECK(waited);
}
TEST_CASE("layers that go while their sections are being read wait for the reads") {
  for (int i = 0; i < 30; ++i) {
    const Weights weights(3);
    fixture::Plan plan;
    plan.delay_us = 50;
    const moe::RingSections ring{{.sections = 2}};
    std::vector<moe::Ring<moe::Background<fixture::Planned<Packed>>>> layers;
    for (int l = 0; l < 3; ++l)
      layers.emplace_back(ring, moe::Background{fixture::Planned<Packed>{weights.packed(l), &plan}});
    ring.start();
    if (i % 2 == 0) lend_all(layers[0], {0}, [](const moe::ExpertRef&) {});
    layers.clear();
    CHECK(plan.reads == (i % 2 == 0 ? 3 : 2) * experts);
  }
}

// ---- several threads

TEST_CASE("threads out of step get right experts and get on") {
  const int layers = 5;
  const Weights weights(layers);
  for (const int k : {1, 2, 3})
    for (const bool background : {false, true}) {
      fixture::Plan plan;
      plan.delay_us = background ? 10 : 0;
      using Slow = fixture::Planned<Packed>;
      const moe::RingSections ring{{.sections = k}};
      std::vector<moe::Ring<Slow>> at_once;
      std::vector<moe::Ring<moe::Background<Slow>>> later;
      for (int l = 0; l < layers; ++l) {
        const Slow source{weights.packed(l), &plan};
        if (background)
          later.emplace_back(ring, moe::Background{source});
        else
          at_once.emplace_back(ring, source);
      }
      std::atomic<int> wrong{0}, served{0};
      const auto use = [&](int l) {
        const auto check = [&](const moe::ExpertRef& ref) {
          wrong += weights.holds(l, ref) ? 0 : 1;
          ++served;
        };
        if (background)
          lend_all(later[static_cast<std::size_t>(l)], {0, 1}, check);
        else
          lend_all(at_once[static_cast<std::size_t>(l)], {0, 1}, check);
      };
      std::vector<std::thread> hosts;
      for (int h = 0; h < 4; ++h)
        hosts.emplace_back([&, h] {
          oracle::Random random(static_cast<unsigned>(60 + h));
          for (int g = 0; g < 60; ++g) use(h == 3 ? random.between(0, layers - 1) : (g + 2 * h) % layers);
        });
      for (std::thread& host : hosts) host.join();
      CHECK(wrong == 0);
      CHECK(served == 4 * 60 * experts);
    }
}
TEST_CASE("threads that fail and threads that do not both get on") {
  const int layers = 3;
  const Weights weights(layers);
  fixture::Plan plan;
  const moe::RingSections ring{{.sections = 2}};
  std::vector<moe::Ring<moe::Background<fixture::Planned<Packed>>>> storage;
  for (int l = 0; l < layers; ++l)
    storage.emplace_back(ring, moe::Background{fixture::Planned<Packed>{weights.packed(l), &plan}});
  plan.fail_from = 10;
  plan.fail_count = 40;
  std::atomic<int> wrong{0}, errors{0};
  std::vector<std::thread> hosts;
  for (int h = 0; h < 3; ++h)
    hosts.emplace_back([&, h] {
      for (int g = 0; g < 60; ++g) {
        const int l = (g + h) % layers;
        try {
          Lent lent(storage[static_cast<std::size_t>(l)], {0, 1});
          for (const moe::ExpertRef& ref : lent.refs()) wrong += weights.holds(l, ref) ? 0 : 1;
          lent.give_back();
        } catch (const moe::IoError&) {
          ++errors;
        }
      }
    });
  for (std::thread& host : hosts) host.join();
  CHECK(wrong == 0);
  CHECK(errors > 0);
  plan.fail_count = 0;
  for (int l = 0; l < layers; ++l)  // also those whose reads ahead failed
    lend_all(storage[static_cast<std::size_t>(l)], {1}, [&](const moe::ExpertRef& r) { CHECK(weights.holds(l, r)); });
}

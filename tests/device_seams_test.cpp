// What a device asks of the layer, with a device that the host cannot look into: the layer and its policies touch
// memory of the executor only in what they hand to it, and tables of policies follow.
#include <fcntl.h>
#include <unistd.h>

#include <moe/gate.hpp>
#include <moe/routers/capacity.hpp>
#include <moe/routers/remap.hpp>
#include <moe/routers/residency.hpp>
#include <moe/routers/token_table.hpp>
#include <moe/routers/top_any.hpp>
#include <moe/shared.hpp>

#include "doubles/guarded_device.hpp"
#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

using moe::TopK;

/// Whether the host may read there: the system says so without a fault.
bool readable(const void* at) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const bool read = ::write(ends[1], at, 1) == 1;
  ::close(ends[0]);
  ::close(ends[1]);
  return read;
}

template <class T>
moe::View<const T, guarded::memory> on_device(const std::vector<T>& host, int cols) {
  return {guarded::upload(host.data(), host.size()), static_cast<int>(host.size()) / cols, cols};
}

struct Pair {
  Pair() : random(515), p({.tokens = 6, .experts = 8, .k = 3}, random) {}

  /// y on the host and on the device; `spoil` is called when both layers are made.
  template <class Executor = guarded::Executor, class Router, class Form = moe::ExpertForm<moe::SwiGlu>, class Spoil>
  void give_the_same_bits(const Router& router, const Form& form, const Spoil& spoil, moe::Call<> host_call = {},
                          moe::Call<guarded::memory> call = {}) {
    const std::vector<float> bias_of_host = bias;
    const moe::Linear host_gate(p.gate_view(), bias_of_host.data());
    const moe::Linear device_gate(on_device(p.gate, p.setup.hidden), bias.data());
    const moe::MoELayer on_host(host_gate, router, p.storage(), moe::Cpu{.threads = 1}, form);
    const std::vector<float> expected = forward(on_host, p, host_call);

    const moe::MoELayer layer(device_gate, router, guarded::Resident<float>(p.source()), Executor{}, form);
    spoil();
    std::fill(bias.begin(), bias.end(), not_a_number);
    const std::vector<float> y(p.x.size(), not_a_number);
    const moe::View<const float, guarded::memory> out = on_device(y, p.setup.hidden);
    moe::Workspace<guarded::memory> ws(layer.workspace(p.setup.tokens));
    call.x = on_device(p.x, p.setup.hidden);
    call.y = {const_cast<float*>(out.data), out.rows, out.cols};
    layer.forward(call, ws);
    CHECK(bits(guarded::download(out.data, y.size())) == bits(expected));
    launches = ws.queue().launches;
  }

  oracle::Random random;
  Problem<float> p;
  std::vector<float> bias = random.reals(8);
  int launches = 0;
};
const moe::ExpertForm<moe::SwiGlu> swiglu{};
const auto nothing = [] {};

}  // namespace

TEST_CASE("the host cannot read the device's memory, kernels can") {
  const float number = 7;
  const float* device = guarded::upload(&number, 1);
  CHECK(readable(&number));
  CHECK_FALSE(readable(device));
  CHECK(guarded::download(device, 1)[0] == 7);
}
TEST_CASE("a layer on the device gives the host's bits in four launches") {
  Pair pair;
  pair.give_the_same_bits(TopK{.experts = 8, .k = 3}, swiglu, nothing);
  CHECK(pair.launches == 4);  // gate, route and group, experts, combine
}
TEST_CASE(
    "an executor that computes experts and their sum at once saves a launch, but not where a norm stands between") {
  Pair pair;
  pair.give_the_same_bits<guarded::FusingExecutor>(TopK{.experts = 8, .k = 3}, swiglu, nothing);
  CHECK(pair.launches == 3);  // gate, route and group, experts and their sum
  const moe::ExpertForm<moe::SwiGlu> with_norm{.expert_norm_eps = 1e-5f};
  Pair other;
  other.give_the_same_bits<guarded::FusingExecutor>(TopK{.experts = 8, .k = 3}, with_norm, nothing);
  CHECK(other.launches == 5);  // gate, route and group, experts, norms, combine
}
TEST_CASE("a column rule groups twice, each time in the launch that fills the table") {
  Pair pair;
  pair.give_the_same_bits(moe::Capacity<TopK>{.inner = {.experts = 8, .k = 3}, .fixed = 1}, swiglu, nothing);
  CHECK(pair.launches == 6);  // gate, route, admit, finish, experts, combine
}
TEST_CASE("tables of routers, of what they decorate, of gates and forms follow to the device") {
  Pair pair;
  std::vector<float> selection = pair.random.reals(8), scale = pair.random.reals(8), output = pair.random.reals(37);
  const TopK router{.experts = 8,
                    .k = 3,
                    .score = moe::Score::sigmoid,
                    .bias = {.values = {selection.data(), 8}},
                    .expert_scale = {scale.data(), 8}};
  const auto spoil = [&] {
    for (std::vector<float>* table : {&selection, &scale, &output})
      std::fill(table->begin(), table->end(), not_a_number);
  };
  SUBCASE("router") { pair.give_the_same_bits(router, swiglu, spoil); }
  SUBCASE("decorated") { pair.give_the_same_bits(moe::Capacity<TopK>{.inner = router, .fixed = 2}, swiglu, spoil); }
  SUBCASE("form") {
    const moe::ExpertForm<moe::SwiGlu, moe::NoEnvelope, moe::OutputBias> form{.output = {{output.data(), 37}}};
    pair.give_the_same_bits(router, form, spoil);
  }
}
TEST_CASE("every kind of table follows to the device") {
  Pair pair;
  std::vector<int> tokens{1, 2, 3, 4, 5, 6}, table = {0, 1, 2, 3, 4, 5, 6, 7, 0, 2, 1, 3, 5, 4};
  std::vector<moe::ExpertId> to{7, 6, 5, 4, 3, 2, 1, 0};
  std::vector<float> thresholds = pair.random.reals(8);
  const auto spoil = [&] {
    std::fill(table.begin(), table.end(), -7);
    std::fill(to.begin(), to.end(), -1);
    std::fill(thresholds.begin(), thresholds.end(), 1e30f);
  };
  moe::Call<> host_call;
  moe::Call<guarded::memory> call;
  host_call.context.tokens = tokens.data();
  call.context.tokens = guarded::upload(tokens.data(), tokens.size());
  SUBCASE("token table") {
    const moe::TokenTable<TopK> router{{.experts = 8, .k = 2}, {table.data(), 7, 2}};
    pair.give_the_same_bits(router, swiglu, spoil, host_call, call);
  }
  SUBCASE("renumbering") {
    const moe::RemapRouter<TopK> router{{.experts = 8, .k = 3}, {to.data(), 8}, 8};
    pair.give_the_same_bits(router, swiglu, spoil, host_call, call);
  }
  SUBCASE("thresholds") {
    pair.give_the_same_bits(moe::TopAny{8, {thresholds.data(), 8}, 4}, swiglu, spoil, host_call, call);
  }
}
TEST_CASE("calls are cut into chunks on the device as on the host, and prefetch copies needs") {
  Pair pair;
  const moe::MoELayer on_host(moe::Linear(pair.p.gate_view()), TopK{.experts = 8, .k = 3}, pair.p.storage(),
                              moe::Cpu{.threads = 1});
  const moe::MoELayer layer(moe::Linear(on_device(pair.p.gate, 37)), TopK{.experts = 8, .k = 3},
                            guarded::Resident<float>(pair.p.source()), guarded::Executor{});
  const std::vector<float> y(pair.p.x.size());
  const moe::View<const float, guarded::memory> out = on_device(y, 37);
  moe::Workspace<guarded::memory> ws(layer.workspace(4));
  layer.forward(on_device(pair.p.x, 37), {const_cast<float*>(out.data), out.rows, out.cols}, ws);
  CHECK(bits(guarded::download(out.data, y.size())) == bits(forward(on_host, pair.p)));
}
TEST_CASE("what is resident reaches a router in a kernel through the executor's mask") {
  Pair pair;
  const moe::PreferResident<TopK> router{{.experts = 8, .k = 3}, 100};
  guarded::Resident<float> storage(pair.p.source());
  storage.here = 0b11100000;
  const moe::MoELayer layer(moe::Linear(on_device(pair.p.gate, 37)), router, storage, guarded::Executor{});
  const std::vector<float> y(pair.p.x.size());
  const moe::View<const float, guarded::memory> out = on_device(y, 37);
  moe::Workspace<guarded::memory> ws(layer.workspace(6));
  moe::Call<guarded::memory> call{.x = on_device(pair.p.x, 37),
                                  .y = {const_cast<float*>(out.data), out.rows, out.cols}};
  struct Watch {
    std::vector<moe::Slot>* slots;
    void routed(const moe::Frame<guarded::memory>& f) const {
      *slots = guarded::download(f.table.slots.data, static_cast<std::size_t>(f.dims.tokens * f.dims.slots));
    }
  };
  std::vector<moe::Slot> slots;
  layer.forward(call, ws, Watch{&slots});
  REQUIRE(slots.size() == 18);
  for (std::size_t i = 0; i < slots.size(); ++i) CHECK((slots[i].expert >= 5 || i % 3 == 0));
}
TEST_CASE("a wave on the device is released behind what was queued, also on the way out of a failure") {
  Pair pair;
  const guarded::Resident<float> all(pair.p.source());
  const std::vector<moe::ExpertRef> refs = guarded::download(all.table().data(), 8);
  guarded::Log log;
  guarded::Lending<float> storage(all, refs, &log);
  std::vector<moe::Slot> slots{{2, 1}, {4, 0.5f}};
  const auto run = [&] {
    const moe::MoELayer layer(moe::NoGate{}, TopK{.experts = 8, .k = 2}, storage, guarded::Executor{});
    moe::Workspace<guarded::memory> ws(layer.workspace(1));
    const moe::View<const float, guarded::memory> y = on_device(std::vector<float>(37), 37);
    moe::Call<guarded::memory> call{.x = on_device(pair.p.x, 37).slice(0, 1),
                                    .y = {const_cast<float*>(y.data), y.rows, y.cols}};
    call.table.slots = {guarded::upload(slots.data(), 2), 1, 2};
    layer.forward(call, ws);
  };
  run();
  CHECK(log == guarded::Log{"acquire", "released after 2 launches", "unpinned", "acquire", "released after 3 launches",
                            "unpinned"});
  log.clear();
  storage.fail_with_pins = true;
  CHECK_THROWS_AS(run(), moe::IoError);
  CHECK(log == guarded::Log{"acquire", "released after 1 launches", "unpinned", "abandoned"});
}

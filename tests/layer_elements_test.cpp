// Activations and gate weights in float, bf16 or f16: the bits of the float layer on widened inputs, rounded once.
#include <moe/envelope.hpp>
#include <moe/executors/eigen.hpp>
#include <moe/shared.hpp>
#include <string>
#include <vector>

#include "cpu/isas.hpp"
#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

using moe::bf16;
using moe::f16;
using moe::TopK;

const moe::Cpu cpu{.threads = 2};
constexpr int tokens = 7, hidden = 45, experts = 6, slots = 3;

/// The same numbers, as a T holds them.
template <class T>
struct Held {
  Held(const std::vector<float>& exact, int columns) : cols(columns) {
    for (const float x : exact) {
      numbers.push_back(T(x));
      widened.push_back(float(numbers.back()));
    }
  }
  moe::ConstElementView<> view() const { return {numbers.data(), static_cast<int>(numbers.size()) / cols, cols}; }
  moe::View<const float> floats() const { return ::view(widened, cols); }
  int cols;
  std::vector<T> numbers;
  std::vector<float> widened;
};

template <class F>
void for_each_type(const F& f) {
  f(float{});
  f(bf16{});
  f(f16{});
}

template <class X, class W>
struct Case {
  Case()
      : random(606),
        p({.tokens = tokens, .hidden = hidden, .ffn = 40, .experts = experts, .k = slots}, random),
        x(p.x, hidden),
        gate(random.reals((experts + 2) * hidden), hidden) {}

  oracle::Random random;
  Problem<bf16> p;
  Held<X> x;
  Held<W> gate;  // for two identities too
  TopK router{.experts = experts, .k = slots, .identities = 2};
};

/// y of a call in Y, against the float layer's, rounded. `make(gate)` makes the layer for a view of the gate's weights.
template <class Y, class X, class W, class Make>
void is_the_float_layer_rounded(const Case<X, W>& c, const Make& make, int rows_at_once = tokens) {
  const auto typed = make(c.gate.view());
  const auto plain = make(moe::ConstElementView<>(c.gate.floats()));
  std::vector<float> expected(tokens * hidden, not_a_number);
  moe::Workspace plain_ws(plain.workspace(tokens));
  plain.forward(c.x.floats(), view(expected, hidden), plain_ws);

  std::vector<Y> y(tokens * hidden, Y(77.0f));
  moe::Workspace ws(typed.workspace(rows_at_once));
  typed.forward(c.x.view(), {y.data(), tokens, hidden}, ws);
  std::vector<float> found, rounded;
  for (std::size_t i = 0; i < y.size(); ++i) {
    found.push_back(float(y[i]));
    rounded.push_back(float(Y(expected[i])));
  }
  CHECK(bits(found) == bits(rounded));
}
/// For every type of x, y and the gate's weights.
template <class Make>
void for_all_types(const Make& make, int rows_at_once = tokens) {
  for_each_type([&](auto x) {
    for_each_type([&](auto w) {
      const Case<decltype(x), decltype(w)> c;
      for_each_type([&](auto y) {
        CAPTURE(moe::element_type_name(moe::element_type_of<decltype(x)>()));
        CAPTURE(moe::element_type_name(moe::element_type_of<decltype(w)>()));
        CAPTURE(moe::element_type_name(moe::element_type_of<decltype(y)>()));
        is_the_float_layer_rounded<decltype(y)>(
            c, [&](auto gate) { return make(c, gate); }, rows_at_once);
      });
    });
  });
}
/// For bf16 throughout.
template <class Make>
void for_bf16(const Make& make) {
  const Case<bf16, bf16> c;
  is_the_float_layer_rounded<bf16>(c, [&](auto gate) { return make(c, gate); });
}

}  // namespace

TEST_CASE("x, y and the gate's weights may be of any type: the float layer's bits, rounded once") {
  for_all_types(
      [](const auto& c, auto gate) { return moe::MoELayer(moe::Linear<>(gate), c.router, c.p.storage(), cpu); });
}
TEST_CASE("every instruction set gives these bits") {
  for (const moe::Isa isa : available_isas()) {
    const moe::Cpu executor{.threads = 1, .isa = isa};
    for_bf16([&](const auto& c, auto gate) {
      return moe::MoELayer(moe::Linear<>(gate), c.router, c.p.storage(), executor);
    });
  }
}
TEST_CASE("calls in other types are cut into chunks like others") {
  for (const int rows : {1, 2, 5})
    for_all_types(
        [](const auto& c, auto gate) { return moe::MoELayer(moe::Linear<>(gate), c.router, c.p.storage(), cpu); },
        rows);
}
TEST_CASE("experts that come one by one widen their rows each time") {
  static LeaseLog log;
  for_all_types([](const auto& c, auto gate) {
    oracle::Random random(1);
    static const Problem<float> p({.tokens = tokens, .hidden = hidden, .experts = experts, .k = slots}, random);
    return moe::MoELayer(moe::Linear<>(gate), c.router, OneByOne(p.storage(), &log), cpu);
  });
}
TEST_CASE("a skipped expert adds nothing to rows of other types") {
  static LeaseLog log;
  log.skip = 2;
  for_bf16([](const auto& c, auto gate) {
    oracle::Random random(1);
    static const Problem<float> p({.tokens = tokens, .hidden = hidden, .experts = experts, .k = slots}, random);
    return moe::MoELayer(moe::Linear<>(gate), c.router, OneByOne(p.storage(), &log), cpu);
  });
}
TEST_CASE("weights on the input, norms of experts and of the output, and scales work in float32 until the end") {
  const std::vector<float> gain(hidden, 1.5f);
  for_bf16([&](const auto& c, auto gate) {
    moe::ExpertForm<moe::SwiGlu, moe::NoEnvelope, moe::OutputNorm> form{.weight_on = moe::WeightOn::input,
                                                                        .output_scale = 2.5f,
                                                                        .expert_norm_eps = 1e-5f,
                                                                        .output = {{gain.data(), hidden}, 1e-6f}};
    return moe::MoELayer(moe::Linear<>(gate), c.router, c.p.storage(), cpu, form);
  });
}
TEST_CASE("shared experts add to the sums before they are rounded") {
  oracle::Random random(607);
  const Problem<float> every({.tokens = 1, .hidden = hidden, .experts = 2}, random);
  const Held<f16> shared_gate(random.reals(hidden), hidden);
  for_bf16([&](const auto& c, auto gate) {
    return moe::MoELayer(moe::Linear<>(gate), c.router, c.p.storage(), cpu, moe::ExpertForm<moe::SwiGlu>{},
                         moe::SharedExperts{every.storage(), moe::SigmoidShared<>{shared_gate.view()}});
  });
}
TEST_CASE("latent experts and constant experts read other types too") {
  oracle::Random random(608);
  const std::vector<float> enter = random.reals(hidden * 50), leave = random.reals(50 * hidden);
  const std::vector<float> constant_gate = random.reals(2 * hidden), value = random.reals(hidden);
  SUBCASE("latent") {
    const Case<bf16, bf16> c;
    const std::vector<float> outer_gate = random.reals((experts + 2) * 50);
    const Held<bf16> x(random.reals(tokens * 50), 50);
    const moe::ExpertForm<moe::SwiGlu, moe::Latent<>> form{
        .envelope = {.enter_weight = view(enter, 50), .leave_weight = view(leave, hidden)}};
    const moe::MoELayer layer(moe::Linear(view(outer_gate, 50)), c.router, c.p.storage(), cpu, form);
    moe::Workspace ws(layer.workspace(tokens));
    std::vector<float> expected(tokens * 50), found, rounded;
    std::vector<bf16> y(tokens * 50);
    layer.forward(x.floats(), view(expected, 50), ws);
    layer.forward(x.view(), {y.data(), tokens, 50}, ws);
    for (std::size_t i = 0; i < y.size(); ++i) {
      found.push_back(float(y[i]));
      rounded.push_back(float(bf16(expected[i])));
    }
    CHECK(bits(found) == bits(rounded));
  }
  SUBCASE("constant") {
    for_bf16([&](const auto& c, auto gate) {
      return moe::MoELayer(moe::Linear<>(gate), c.router, c.p.storage(), cpu, moe::ExpertForm<moe::SwiGlu>{},
                           moe::ConstantExperts<>{experts, view(constant_gate, hidden), view(value, hidden)});
    });
  }
}
TEST_CASE("gates with more than a product read other types") {
  const std::vector<float> gain(hidden, 0.75f);
  for_all_types([&](const auto& c, auto gate) {
    return moe::MoELayer(moe::NormalisedLinear<>(gate, gain.data(), 1e-6f), c.router, c.p.storage(), cpu);
  });
}
TEST_CASE("the router's input has a type of its own") {
  const Case<bf16, float> c;
  const Held<f16> router_input(c.p.x, hidden);
  const moe::MoELayer layer(moe::Linear<>(c.gate.view()), c.router, c.p.storage(), cpu);
  std::vector<float> mixed(tokens * hidden), plain(mixed);
  moe::Workspace ws(layer.workspace(tokens));
  layer.forward({.x = c.x.view(), .y = view(mixed, hidden), .x_router = router_input.view()}, ws);
  layer.forward({.x = c.x.floats(), .y = view(plain, hidden), .x_router = router_input.floats()}, ws);
  CHECK(bits(mixed) == bits(plain));
}
TEST_CASE("strided rows of another type are read and written in their columns only") {
  const Case<bf16, float> c;
  const moe::MoELayer layer(moe::Linear<>(c.gate.view()), c.router, c.p.storage(), cpu);
  std::vector<bf16> x(tokens * 60, bf16(not_a_number)), y(tokens * 50, bf16(77.0f)), dense(tokens * hidden);
  for (int t = 0; t < tokens; ++t) std::copy_n(c.x.numbers.begin() + t * hidden, hidden, x.begin() + t * 60);
  moe::Workspace ws(layer.workspace(tokens));
  layer.forward(c.x.view(), {dense.data(), tokens, hidden}, ws);
  layer.forward({x.data(), tokens, hidden, 60}, {y.data(), tokens, hidden, 50}, ws);
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < 50; ++i) {
      const float expected = i < hidden ? float(dense[static_cast<std::size_t>(t * hidden + i)]) : 77.0f;
      CHECK(float(y[static_cast<std::size_t>(t * 50 + i)]) == expected);
    }
}
TEST_CASE("an executor that takes float32 alone refuses other types before it computes") {
  const Case<bf16, float> c;
  const moe::MoELayer layer(moe::Linear<>(c.gate.view()), c.router, c.p.storage(), moe::EigenReference{});
  std::vector<float> y(tokens * hidden, 77.0f);
  std::vector<bf16> narrow(tokens * hidden);
  moe::Workspace ws(layer.workspace(tokens));
  CHECK(message_of([&] { layer.forward(c.x.view(), view(y, hidden), ws); }) ==
        "moe::MoELayer::forward: element type of x: expected float32, for this executor, found bfloat16");
  CHECK(message_of([&] {
          layer.forward(c.x.floats(), {narrow.data(), tokens, hidden}, ws);
        }) == "moe::MoELayer::forward: element type of y: expected float32, for this executor, found bfloat16");
  CHECK(y == std::vector<float>(y.size(), 77.0f));
  layer.forward(c.x.floats(), view(y, hidden), ws);
  CHECK(y != std::vector<float>(y.size(), 77.0f));
}
TEST_CASE("a policy that takes float32 alone says so") {
  const bf16 number{};
  const moe::ConstElementView<> view(&number, 1, 1);
  CHECK(message_of([&] { static_cast<void>(static_cast<moe::View<const float>>(view)); }) ==
        "moe::View: element type, for a policy that takes no other: expected float32, found bfloat16");
}
TEST_CASE("no second copy of the batch: a workspace is as large as before, but for latent experts") {
  const Case<float, float> c;
  const moe::MoELayer layer(moe::Linear<>(c.gate.view()), c.router, c.p.storage(), cpu);
  moe::Arena main, staging;
  cpu.carve(main, staging, {tokens, hidden, 40, experts + 2, experts, slots}, {experts, 2});
  CHECK(layer.workspace(tokens).bytes == main.used());
}

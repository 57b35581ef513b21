// The shipped activations against double precision with derived bounds, and at their limits.
#include <moe/activations.hpp>

#include "activation_list.hpp"
#include "problem.hpp"

using oracle::Value;

namespace {

// ---- the formulas once more, in double precision

constexpr double pi = 3.14159265358979323846;

/// A real number that the text under test holds as the nearest float.
Value constant(double v) { return {v, oracle::unit * std::fabs(v)}; }
Value lower(double limit, Value x) { return {std::min(limit, x.v), x.e}; }
Value clamped(Value x, double limit) { return {std::clamp(x.v, -limit, limit), x.e}; }
/// tanh has slope at most 1, erf 2 / sqrt(pi); both are within 2 ulp, which are 4 roundings.
Value tanh_of(Value x) { return oracle::rounded(std::tanh(x.v), x.e, 4); }
Value erf_of(Value x) { return oracle::rounded(std::erf(x.v), 2 / std::sqrt(pi) * x.e, 4); }

Value silu_of(Value x) { return oracle::over_logistic(x, x); }
Value relu_of(Value x) { return {std::max(x.v, 0.0), x.e}; }
Value gelu_of(Value x) { return Value{0.5} * x * (Value{1} + erf_of(x * constant(std::sqrt(0.5)))); }
/// The number by the formula with tanh; the bound of the quotient that is equal to it.
Value gelu_tanh_of(Value x) {
  const double inner = std::sqrt(2 / pi) * (x.v + 0.044715 * x.v * x.v * x.v);
  const Value slope = constant(std::sqrt(8 / pi)) + constant(std::sqrt(8 / pi) * 0.044715) * (x * x);
  return {0.5 * x.v * (1 + std::tanh(inner)), oracle::over_logistic(x, x * slope).e + 1e-15 * std::fabs(x.v)};
}
Value softcapped(Value x, float cap) {
  const Value c{static_cast<double>(cap)};
  return c * tanh_of(x / c);
}

Value truth(moe::SwiGlu, Value g, Value u) { return silu_of(g) * u; }
Value truth(moe::GeGlu, Value g, Value u) { return gelu_of(g) * u; }
Value truth(moe::GeGluTanh, Value g, Value u) { return gelu_tanh_of(g) * u; }
Value truth(moe::ReGlu, Value g, Value u) { return relu_of(g) * u; }
Value truth(moe::InputClampedSwiGlu a, Value g, Value u) {
  const double limit = static_cast<double>(a.limit);
  return silu_of(lower(limit, g)) * clamped(u, limit);
}
Value truth(moe::OutputClampedSwiGlu a, Value g, Value u) {
  const double limit = a.limit > 0 ? static_cast<double>(a.limit) : HUGE_VAL;
  return lower(limit, silu_of(g)) * clamped(u, limit);
}
Value truth(moe::GptOssSwiGlu a, Value g, Value u) {
  const double limit = static_cast<double>(a.limit);
  g = lower(limit, g);
  const Value half = oracle::over_logistic(g, Value{static_cast<double>(a.alpha)} * g);
  return (clamped(u, limit) + Value{static_cast<double>(a.up_offset)}) * half;
}
Value truth(moe::SoftcappedSwiGlu a, Value g, Value u) {
  return softcapped(g, a.gate_cap) * oracle::over_logistic({1}, g) * softcapped(u, a.up_cap);
}
Value truth(moe::Relu, Value, Value u) { return relu_of(u); }
Value truth(moe::SquaredRelu, Value, Value u) { return relu_of(u) * relu_of(u); }
Value truth(moe::Gelu, Value, Value u) { return gelu_of(u); }
Value truth(moe::GeluTanh, Value, Value u) { return gelu_tanh_of(u); }
Value truth(moe::Silu, Value, Value u) { return silu_of(u); }

/// How many of 4000 random pairs an activation has outside the bound, from tiny numbers to well beyond all limits.
template <class Act>
int wrong(const Act& act) {
  oracle::Random random(52);
  int count = 0;
  for (int i = 0; i < 4000; ++i) {
    const float range = std::ldexp(1.0f, random.between(-20, 6));
    const float gate = random.real(range), up = random.real(range);
    count += within(act(gate, up), truth(act, {static_cast<double>(gate)}, {static_cast<double>(up)})) ? 0 : 1;
  }
  return count;
}

}  // namespace

TEST_CASE("gated activations agree with double precision") {
  int kind = 0;
  for_gated([&](auto act) {
    CAPTURE(kind++);
    CHECK(decltype(act)::gated);
    CHECK(wrong(act) == 0);
  });
}
TEST_CASE("ungated activations agree with double precision") {
  int kind = 0;
  for_ungated([&](auto act) {
    CAPTURE(kind++);
    CHECK_FALSE(decltype(act)::gated);
    CHECK(wrong(act) == 0);
  });
}
TEST_CASE("ungated activations ignore the gate") {
  for_ungated([](auto act) { CHECK(act(-3, 2) == act(not_a_number, 2)); });
}

TEST_CASE("activations chosen at run time give the bits of what they stand for") {
  const auto same = [](auto act) {
    oracle::Random random(53);
    bool equal = true;
    for (int i = 0; i < 1000; ++i) {
      const float gate = random.real(16), up = random.real(16);
      equal = equal && moe::bit_cast<std::uint32_t>(act(gate, up)) == moe::bit_cast<std::uint32_t>(any(act)(gate, up));
    }
    CHECK(equal);
  };
  for_gated(same);
  for_ungated(same);
}
TEST_CASE("an activation chosen at run time begins as SwiGlu, and as Relu where there is no gate") {
  CHECK(moe::AnyGated{}(3, 2) == moe::SwiGlu{}(3, 2));
  CHECK(moe::AnyUngated{}(3, -2) == 0);
}

TEST_CASE("DeepSeek-V4's limit is applied before silu, Step-3.5's after") {
  CHECK(moe::InputClampedSwiGlu{.limit = 2}(5, 1) == moe::silu(2.0f));
  CHECK(moe::OutputClampedSwiGlu{.limit = 2}(5, 1) == 2);
}
TEST_CASE("limits bound the gate from above only, and up on both sides") {
  CHECK(moe::InputClampedSwiGlu{.limit = 2}(-5, 1) == moe::silu(-5.0f));
  CHECK(moe::InputClampedSwiGlu{.limit = 2}(1, -5) == moe::silu(1.0f) * -2);
  CHECK(moe::OutputClampedSwiGlu{.limit = 2}(1, -5) == moe::silu(1.0f) * -2);
  CHECK(moe::GptOssSwiGlu{.limit = 2}(1, -5) == moe::GptOssSwiGlu{}(1, -2));
  CHECK(moe::GptOssSwiGlu{.limit = 2}(9, 1) == moe::GptOssSwiGlu{}(2, 1));
}
TEST_CASE("a limit of zero or less is none in Step-3.5") {
  for (const float limit : {0.0f, -1.0f}) CHECK(moe::OutputClampedSwiGlu{limit}(30, 50) == moe::SwiGlu{}(30, 50));
}
TEST_CASE("the softcapped activation's sigmoid sees the raw gate") {
  for (const float gate : {20.0f, -20.0f}) {  // tanh of 40 is 1
    const float capped = gate > 0 ? 0.5f : -0.5f;
    CHECK(moe::SoftcappedSwiGlu{.gate_cap = 0.5f}(gate, 100) == capped * moe::sigmoid(gate) * (25 * moe::tanh(4.0f)));
  }
}
TEST_CASE("published numbers are the defaults") {
  CHECK(moe::InputClampedSwiGlu{}.limit == 10);
  CHECK(moe::GptOssSwiGlu{}.alpha == 1.702f);
  CHECK(moe::GptOssSwiGlu{}.limit == 7);
  CHECK(moe::GptOssSwiGlu{}.up_offset == 1);
  CHECK(moe::SoftcappedSwiGlu{}.gate_cap == 4);
  CHECK(moe::SoftcappedSwiGlu{}.up_cap == 25);
}
TEST_CASE("Relu of a negative number is zero") { CHECK(moe::Relu{}(5, -2) == 0); }
TEST_CASE("limits leave NaN as it is") {
  CHECK(std::isnan(moe::InputClampedSwiGlu{}(1, not_a_number)));
  CHECK(std::isnan(moe::GptOssSwiGlu{}(not_a_number, 1)));
  CHECK(std::isnan(moe::OutputClampedSwiGlu{.limit = 1}(not_a_number, 1)));
}

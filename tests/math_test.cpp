// exp, tanh, erf, softplus, the logistic and the gaussian units against double precision, and finite_logit.
#include <cmath>
#include <moe/math.hpp>

#include "problem.hpp"

namespace {

/// Distance in units in the last place of the float next to the truth.
double ulps(float computed, double truth) {
  const auto nearest = static_cast<float>(std::fabs(truth));
  const double ulp = static_cast<double>(std::nextafter(nearest, infinity)) - static_cast<double>(nearest);
  return std::fabs(static_cast<double>(computed) - truth) / ulp;
}

/// Calls f for every 997th float of [low, high], both of the same sign.
template <class F>
void for_floats(float low, float high, const F& f) {
  const auto first = moe::bit_cast<std::uint32_t>(low), last = moe::bit_cast<std::uint32_t>(high);
  for (std::uint32_t i = std::min(first, last); i < std::max(first, last); i += 997) f(moe::bit_cast<float>(i));
}

using Function = float (*)(float);
using Truth = double (*)(double);

/// Largest distance in ulp over the floats of [low, high].
double worst(Function computed, Truth truth, float low, float high) {
  double most = 0;
  for_floats(low, high, [&](float x) { most = std::max(most, ulps(computed(x), truth(static_cast<double>(x)))); });
  return most;
}
double worst_exp(float low, float high) { return worst(moe::exp, std::exp, low, high); }

/// Largest error over the floats of magnitude [low, high] and both signs, in multiples of the argument.
double worst_share(Function computed, Truth truth, float low, float high) {
  double most = 0;
  const auto look = [&](float x) {
    const double error = std::fabs(static_cast<double>(computed(x)) - truth(static_cast<double>(x)));
    most = std::max(most, error / std::fabs(static_cast<double>(x)));
  };
  for_floats(low, high, look);
  for_floats(-low, -high, look);
  return most;
}

double true_softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
double true_gelu(double x) { return 0.5 * x * std::erfc(-x * 0.70710678118654752440); }
double true_gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

}  // namespace

TEST_CASE("exp of positive numbers is within 2 ulp") { CHECK(worst_exp(0.0f, 88.72f) <= 2); }
TEST_CASE("exp of negative numbers is within 2 ulp, subnormal results included") {
  CHECK(worst_exp(-0.0f, -104.0f) <= 2);
}
TEST_CASE("exp of zero is one") { CHECK(moe::exp(0.0f) == 1); }
TEST_CASE("exp overflows to infinity") {
  CHECK(moe::exp(89.0f) == infinity);
  CHECK(moe::exp(infinity) == infinity);
}
TEST_CASE("exp underflows to zero") {
  CHECK(moe::exp(-104.0f) == 0);
  CHECK(moe::exp(-infinity) == 0);
}
TEST_CASE("exp of NaN is NaN") { CHECK(std::isnan(moe::exp(not_a_number))); }
TEST_CASE("exp never decreases from one float to the next by more than its error") {
  for (float x = -20; x < 20; x += 0x1.01p-7f)
    CHECK(moe::exp(std::nextafter(x, infinity)) >= moe::exp(x) * (1 - 0x1p-22f));
}

TEST_CASE("sigmoid agrees with double precision") {
  for (float x = -80; x < 80; x += 0x1.03p-5f)
    CHECK(within(moe::sigmoid(x), oracle::over_logistic({1}, {static_cast<double>(x)})));
}
TEST_CASE("sigmoid of infinities is zero and one") {
  CHECK(moe::sigmoid(-infinity) == 0);
  CHECK(moe::sigmoid(infinity) == 1);
}
TEST_CASE("silu agrees with double precision") {
  for (float x = -100; x < 100; x += 0x1.03p-5f) {
    const oracle::Value value{static_cast<double>(x)};
    CHECK(within(moe::silu(x), oracle::over_logistic(value, value)));
  }
}
TEST_CASE("silu of the most negative float is zero") { CHECK(moe::silu(-moe::largest_float) == 0); }

TEST_CASE("tanh is within 2 ulp") {
  CHECK(worst(moe::tanh, std::tanh, 0.0f, moe::largest_float) <= 2);
  CHECK(worst(moe::tanh, std::tanh, -0.0f, -moe::largest_float) <= 2);
}
TEST_CASE("tanh of infinities is one") {
  CHECK(moe::tanh(infinity) == 1);
  CHECK(moe::tanh(-infinity) == -1);
}
TEST_CASE("erf is within 2 ulp") {
  CHECK(worst(moe::erf, std::erf, 0.0f, moe::largest_float) <= 2);
  CHECK(worst(moe::erf, std::erf, -0.0f, -moe::largest_float) <= 2);
}
TEST_CASE("erf of infinities is one") {
  CHECK(moe::erf(infinity) == 1);
  CHECK(moe::erf(-infinity) == -1);
}
TEST_CASE("log1p_unit is within 2 ulp from zero to one") { CHECK(worst(moe::log1p_unit, std::log1p, 0.0f, 1.0f) <= 2); }
TEST_CASE("softplus is within 3 ulp where it is normal") {
  CHECK(worst(moe::softplus, true_softplus, 0.0f, moe::largest_float) <= 3);
  CHECK(worst(moe::softplus, true_softplus, -0.0f, -87.3f) <= 3);
}
TEST_CASE("softplus of infinities is infinity and zero") {
  CHECK(moe::softplus(infinity) == infinity);
  CHECK(moe::softplus(-infinity) == 0);
}
TEST_CASE("gelu and its tanh form are off by at most 2^-23 of their argument") {
  CHECK(worst_share(moe::gelu, true_gelu, 1e-30f, 1e30f) <= 0x1p-23);
  CHECK(worst_share(moe::gelu_tanh, true_gelu_tanh, 1e-30f, 1e30f) <= 0x1p-23);
}
TEST_CASE("gelu and its tanh form leave large numbers as they are and end at zero") {
  for (const Function gelu : {Function{moe::gelu}, Function{moe::gelu_tanh}}) {
    CHECK(gelu(moe::largest_float) == moe::largest_float);
    CHECK(gelu(-moe::largest_float) == 0);
    CHECK(gelu(infinity) == infinity);
  }
}
TEST_CASE("functions of NaN are NaN") {
  for (const Function f : {Function{moe::tanh}, Function{moe::erf}, Function{moe::softplus}, Function{moe::sigmoid},
                           Function{moe::silu}, Function{moe::gelu}, Function{moe::gelu_tanh}})
    CHECK(std::isnan(f(not_a_number)));
}

TEST_CASE("power_of_two is exact") {
  for (int n = -126; n <= 127; ++n) CHECK(moe::power_of_two(n) == std::ldexp(1.0f, n));
}
TEST_CASE("power_of_two of -127 is zero") { CHECK(moe::power_of_two(-127) == 0); }

TEST_CASE("finite_logit leaves finite numbers as they are") { CHECK(moe::finite_logit(-3.5f) == -3.5f); }
TEST_CASE("finite_logit makes infinities the largest numbers") {
  CHECK(moe::finite_logit(infinity) == moe::largest_float);
  CHECK(moe::finite_logit(-infinity) == -moe::largest_float);
}
TEST_CASE("finite_logit ranks NaN below every number") { CHECK(moe::finite_logit(not_a_number) == -infinity); }

// exp, sigmoid and silu against double precision, and finite_logit.
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

/// Largest distance over every 997th float of [low, high], both of the same sign.
double worst_exp(float low, float high) {
  const auto first = moe::bit_cast<std::uint32_t>(low), last = moe::bit_cast<std::uint32_t>(high);
  double worst = 0;
  for (std::uint32_t i = std::min(first, last); i < std::max(first, last); i += 997) {
    const float x = moe::bit_cast<float>(i);
    worst = std::max(worst, ulps(moe::exp(x), std::exp(static_cast<double>(x))));
  }
  return worst;
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

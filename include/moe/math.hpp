// The few functions that routers and activations share, one text for host and device.
//
// Every product that feeds a sum is an explicit fma: a compiler that may contract a * b + c (GCC does by default)
// then has nothing left to choose, and the bits are the same for every instruction set and every -m flag.
#pragma once

#include <cmath>
#include <cstdint>

#include <moe/tensor.hpp>

namespace moe {

inline constexpr float largest_float = 0x1.fffffep+127f;

MOE_HD inline float fma(float a, float b, float c) noexcept { return std::fma(a, b, c); }

/// Coefficients of `exp`, shared with the vector kernels so that they give the same bits.
struct ExpConstants {
  static constexpr float log2e = 0x1.715476p+0f;
  static constexpr float ln2_high = 0x1.62e4p-1f;  // exact when multiplied by any exponent
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float round_to_int = 0x1.8p+23f;  // adding it leaves the nearest integer in the low bits
  static constexpr float lowest = -104.0f;           // exp rounds to zero below
  static constexpr float highest = 89.0f;            // exp is infinite above
  static constexpr float c7 = 1.9875691500e-4f, c6 = 1.3981999507e-3f, c5 = 8.3334519073e-3f;
  static constexpr float c4 = 4.1665795894e-2f, c3 = 1.6666665459e-1f, c2 = 5.0000001201e-1f;
};

/// 2^n for n in [-127, 127]; -127 gives zero.
MOE_HD inline float power_of_two(std::int32_t n) noexcept { return bit_cast<float>((n + 127) << 23); }

/// e^x within 2 ulp; 0 below -104, infinity above 89, NaN stays NaN.
/// Range reduction by ln 2 in two parts, then a minimax polynomial of degree 7 (Cephes, expf).
MOE_HD inline float exp(float x) noexcept {
  using k = ExpConstants;
  x = x > k::highest ? k::highest : x;
  x = x < k::lowest ? k::lowest : x;
  const float shifted = fma(x, k::log2e, k::round_to_int);
  const float n = shifted - k::round_to_int;
  float r = fma(n, -k::ln2_high, x);
  r = fma(n, -k::ln2_low, r);
  const float tail = fma(fma(fma(fma(fma(k::c7, r, k::c6), r, k::c5), r, k::c4), r, k::c3), r, k::c2);
  const float p = fma(tail, r * r, r) + 1.0f;
  // Bits of a NaN would index outside [-151, 129]; the product below stays NaN whatever the scale is.
  const std::int32_t exponent = x == x ? static_cast<std::int32_t>(n) : 0;
  const std::int32_t half = exponent >> 1;
  return p * power_of_two(half) * power_of_two(exponent - half);
}

/// 1 / (1 + e^-x).
MOE_HD inline float sigmoid(float x) noexcept { return 1.0f / (1.0f + exp(-x)); }

/// x * sigmoid(x).
MOE_HD inline float silu(float x) noexcept { return x / (1.0f + exp(-x)); }

/// A logit with NaN ranked below every number (as minus infinity) and infinities made finite.
MOE_HD inline float finite_logit(float x) noexcept {
  if (!(x == x)) return -HUGE_VALF;
  return x > largest_float ? largest_float : (x < -largest_float ? -largest_float : x);
}

}  // namespace moe

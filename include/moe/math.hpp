// The few functions that routers and activations share, one text for host and device.
//
// Every product that feeds a sum is an explicit fma: a compiler that may contract a * b + c (GCC does by default)
// then has nothing left to choose, and the bits are the same for every instruction set and every -m flag. Only results
// of `exp` are added as they are: its last product is by a power of two, so the sum is the same either way.
//
// The errors are the largest ones of a sweep against double precision (tests/math_test.cpp).
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

// ---- random numbers: splitmix64 (Steele et al. 2014), the same on every machine

inline constexpr std::uint64_t random_step = 0x9e3779b97f4a7c15ull;
MOE_HD constexpr std::uint64_t mix_bits(std::uint64_t z) noexcept {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
/// The n-th number of the sequence that `seed` begins, without those before.
MOE_HD constexpr std::uint64_t random_at(std::uint64_t seed, std::uint64_t n) noexcept {
  return mix_bits(seed + random_step * (n + 1u));
}
MOE_HD constexpr std::uint64_t next_random(std::uint64_t& state) noexcept { return mix_bits(state += random_step); }

// ---- functions

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

/// Coefficients of `tanh`, shared with the vector kernels.
struct TanhConstants {
  static constexpr float small = 0.625f;  // up to here a polynomial, which keeps the relative error small around 0
  static constexpr float c9 = -0x1.75e1c2p-8f, c7 = 0x1.522698p-6f, c5 = -0x1.b83c5ap-5f;
  static constexpr float c3 = 0x1.110726p-3f, c1 = -0x1.555532p-2f;
};

/// tanh(x) within 2 ulp; NaN stays NaN.
/// A minimax polynomial in x^2 near zero, 1 - 2 / (e^2x + 1) elsewhere.
MOE_HD inline float tanh(float x) noexcept {
  using k = TanhConstants;
  const float magnitude = x < 0 ? -x : x;
  if (magnitude > k::small) {
    const float t = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
    return x < 0 ? -t : t;
  }
  const float s = x * x;
  const float p = fma(fma(fma(fma(k::c9, s, k::c7), s, k::c5), s, k::c3), s, k::c1);
  return fma(s * p, x, x);
}

/// Coefficients of `erf`, shared with the vector kernels.
struct ErfConstants {
  static constexpr float small = 0.875f;  // up to here a polynomial in x^2
  static constexpr float one = 4.0f;      // from here on the nearest float is 1
  static constexpr float c11 = -0x1.453aa4p-11f, c9 = 0x1.49c9fcp-8f, c7 = -0x1.b6f38ap-6f;
  static constexpr float c5 = 0x1.ce211ep-4f, c3 = -0x1.81270cp-2f, c1 = 0x1.06eba6p-3f;
  // log(1 - erf(t)) / t
  static constexpr float d5 = 0x1.c27a38p-13f, d4 = -0x1.a64974p-9f, d3 = 0x1.7764a8p-6f;
  static constexpr float d2 = -0x1.af4be2p-4f, d1 = -0x1.457954p-1f, d0 = -0x1.20e6dap+0f;
};

/// erf(x) within 2 ulp; NaN stays NaN.
/// A minimax polynomial in x^2 near zero, 1 - e^(t p(t)) with t = |x| elsewhere.
MOE_HD inline float erf(float x) noexcept {
  using k = ErfConstants;
  float t = x < 0 ? -x : x;
  if (t > k::small) {
    t = k::one < t ? k::one : t;
    const float p = fma(fma(fma(fma(fma(k::d5, t, k::d4), t, k::d3), t, k::d2), t, k::d1), t, k::d0);
    const float r = 1.0f - exp(t * p);
    return x < 0 ? -r : r;
  }
  const float s = x * x;
  const float p = fma(fma(fma(fma(fma(k::c11, s, k::c9), s, k::c7), s, k::c5), s, k::c3), s, k::c1);
  return fma(p, x, x);
}

/// log(1 + y) for y in [0, 1] within 2 ulp.
/// log(1 + y) = 2 artanh(q / 2) with q = 2y / (2 + y), by a minimax polynomial in q^2.
MOE_HD inline float log1p_unit(float y) noexcept {
  const float q = (y + y) / (2.0f + y);
  const float s = q * q;
  const float p = fma(fma(fma(0x1.1ed7c0p-11f, s, 0x1.1ebd0ep-9f), s, 0x1.99d208p-7f), s, 0x1.555502p-4f);
  return fma(s * p, q, q);
}

/// log(1 + e^x) within 3 ulp where the result is normal: e^x far below zero, x far above; NaN stays NaN.
MOE_HD inline float softplus(float x) noexcept { return (x < 0 ? 0.0f : x) + log1p_unit(exp(x < 0 ? x : -x)); }

/// sqrt(1/2); -2 sqrt(2/pi) and 0.044715 times it. Shared with the vector kernels.
struct GeluConstants {
  static constexpr float root_half = 0x1.6a09e6p-1f;
  static constexpr float linear = -1.5957691216057308f, cubic = -0.07135481627260025f;
};

/// 0.5 x (1 + erf(x / sqrt(2))) (Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"), off by at most 2^-23 |x|:
/// far below zero the sum cancels, as it does in the reference implementations.
MOE_HD inline float gelu(float x) noexcept { return 0.5f * x * (1.0f + erf(x * GeluConstants::root_half)); }

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the approximation of `gelu` in the same paper, off by at most
/// 2^-23 |x|. Computed as x / (1 + e^-2z), which is equal.
MOE_HD inline float gelu_tanh(float x) noexcept {
  return x / (1.0f + exp(x * fma(x * x, GeluConstants::cubic, GeluConstants::linear)));
}

/// A logit with NaN ranked below every number (as minus infinity) and infinities made finite.
MOE_HD inline float finite_logit(float x) noexcept {
  if (!(x == x)) return -HUGE_VALF;
  return x > largest_float ? largest_float : (x < -largest_float ? -largest_float : x);
}

/// <a, b> over a's length, in eight chains that are added in a fixed order. Rows of float, or of any element type.
template <class A, class B>
MOE_HD float dot(const A& a, const B& b) noexcept {
  float chains[8] = {};
  for (int i = 0; i < a.size(); ++i) chains[i % 8] = fma(a[i], b[i], chains[i % 8]);
  return ((chains[0] + chains[4]) + (chains[1] + chains[5])) + ((chains[2] + chains[6]) + (chains[3] + chains[7]));
}
/// sqrt(mean of squares + epsilon).
template <class A>
MOE_HD float root_mean_square(const A& row, float epsilon) noexcept {
  return std::sqrt(dot(row, row) / static_cast<float>(row.size()) + epsilon);
}

}  // namespace moe

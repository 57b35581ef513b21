// Weight formats f32, bf16, f16, q8_0, mxfp4, q4_0: names, blocks, scalar encode and decode (kernels' truth).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

#include <moe/tensor.hpp>

namespace moe {

/// 32 weights along the input dimension with one binary16 scale: w = scale * code. 34 bytes, 8.5 bits a weight.
/// The same blocks as GGUF's Q8_0 (scale = max |w| / 127, codes rounded to nearest, ties away from zero).
struct q8_0 {
  f16 scale;
  std::array<std::int8_t, 32> codes;
};

// ---- mxfp4

/// A scale that is a power of two, 2^(bits - 127); bits 255 are NaN (OCP Microscaling Formats 1.0, section 5.4.1).
struct e8m0 {
  std::uint8_t bits = 0;

  /// Exact; 2^-127 is a subnormal float.
  MOE_HD explicit constexpr operator float() const {
    const std::uint32_t half_or_quiet = bits == 0 || bits == 255 ? 0x400000u : 0u;
    return bit_cast<float>((std::uint32_t{bits} << 23) | half_or_quiet);
  }
};

/// The number of an E2M1 code, the low four bits of `code`: sign, two bits of exponent, one of mantissa
/// (0, 0.5, 1, 1.5, 2, 3, 4, 6; section 5.3.3).
MOE_HD constexpr float e2m1_value(unsigned code) {
  const std::uint32_t exponent = (code >> 1) & 3u, mantissa = code & 1u;
  const float magnitude = exponent == 0 ? 0.5f * static_cast<float>(mantissa)
                                        : bit_cast<float>(((exponent + 126u) << 23) | (mantissa << 22));
  return (code & 8u) != 0 ? -magnitude : magnitude;
}

/// The E2M1 code nearest to a number: ties to even codes, beyond 6 the code of 6, with the number's sign.
MOE_HD constexpr unsigned e2m1_code(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const float m = bit_cast<float>(bits & 0x7fffffffu);
  // One comparison for each midpoint; a tie goes up where the upper code is even.
  const unsigned above = (m > 0.25f ? 1u : 0u) + (m >= 0.75f ? 1u : 0u) + (m > 1.25f ? 1u : 0u) +
                         (m >= 1.75f ? 1u : 0u) + (m > 2.5f ? 1u : 0u) + (m >= 3.5f ? 1u : 0u) + (m > 5.0f ? 1u : 0u);
  return (bits >> 31 << 3) | above;
}

/// Two 4-bit codes in a byte, the first one in the low bits.
struct nibble_pair {
  static constexpr int weights = 2;
  std::uint8_t bits = 0;

  MOE_HD constexpr unsigned code(int i) const { return (i == 0 ? unsigned{bits} : unsigned{bits} >> 4) & 15u; }
  MOE_HD constexpr void set(int i, unsigned code) {
    const unsigned other = i == 0 ? bits & 0xf0u : bits & 0x0fu;
    bits = static_cast<std::uint8_t>(other | (i == 0 ? code : code << 4));
  }
};

/// Codes of E2M1 numbers.
struct e2m1_pair : nibble_pair {
  MOE_HD constexpr float value(int i) const { return e2m1_value(code(i)); }
};

/// 32 weights along the input dimension with one E8M0 scale: w = scale * code. 17 bytes, 4.25 bits a weight.
/// MXFP4 of OCP Microscaling Formats 1.0. Codes lie as in the blocks of GPT-OSS: weight 2i is the low half of byte i.
struct mxfp4 {
  e8m0 scale;
  std::array<e2m1_pair, 16> codes;

  constexpr unsigned code(int i) const { return codes[static_cast<std::size_t>(i / 2)].code(i % 2); }
};

// ---- q4_0

/// Codes of the integers -8 to 7, each 8 more than its integer.
struct q4_pair : nibble_pair {
  MOE_HD constexpr float value(int i) const { return static_cast<float>(static_cast<int>(code(i)) - 8); }
};

/// 32 weights along the input dimension with one binary16 scale: w = scale * (code - 8). 18 bytes, 4.5 bits a weight.
/// The same blocks as GGUF's Q4_0: weight i is the low half of byte i, weight i + 16 its high half.
struct q4_0 {
  f16 scale;
  std::array<q4_pair, 16> codes;

  constexpr unsigned code(int i) const { return codes[static_cast<std::size_t>(i % 16)].code(i / 16); }
};

// ---- what a format is

/// Weights in one element of type `Code`.
template <class Code>
inline constexpr int weights_per_code = [] {
  if constexpr (requires { Code::weights; })
    return Code::weights;
  else
    return 1;
}();

/// Where a weight lies among the codes that one input has in a panel of 32 columns: in which code, and where in it.
struct CodePlace {
  int code = 0, part = 0;
};
struct ColumnsInOrder {
  static constexpr CodePlace place(int column) { return {column, 0}; }
};
/// Columns c and c + 16 beside each other, so that a shift and a mask widen them.
struct ColumnsInPairs {
  static constexpr CodePlace place(int column) { return {column % 16 * 2 + column / 16, 0}; }
};
/// Columns c and c + 16 in code c, the former in the low bits.
struct ColumnsInHalves {
  static constexpr CodePlace place(int column) { return {column % 16, column / 16}; }
};

/// What a weight format must say. `block` inputs are encoded together; a block of one has no scale. `place` is the
/// order in which the kernels' `panel` overloads take the codes.
template <class Format>
struct format_traits;

template <>
struct format_traits<f32> : ColumnsInOrder {
  static constexpr std::string_view name = "f32";
  static constexpr int block = 1;
  using code = float;
  static void encode(const float* values, int, f32& out) { out = *values; }
  static void decode(const f32& in, float* values) { *values = in; }
};

template <>
struct format_traits<bf16> : ColumnsInPairs {
  static constexpr std::string_view name = "bf16";
  static constexpr int block = 1;
  using code = bf16;
  static void encode(const float* values, int, bf16& out) { out = bf16(*values); }
  static void decode(const bf16& in, float* values) { *values = float(in); }
};

template <>
struct format_traits<f16> : ColumnsInOrder {
  static constexpr std::string_view name = "f16";
  static constexpr int block = 1;
  using code = f16;
  static void encode(const float* values, int, f16& out) { out = f16(*values); }
  static void decode(const f16& in, float* values) { *values = float(in); }
};

template <>
struct format_traits<q8_0> : ColumnsInOrder {
  static constexpr std::string_view name = "q8_0";
  static constexpr int block = 32;
  using code = std::int8_t;
  using scale = f16;
  /// `count` < 32 at the end of a row: the missing weights are zero.
  static void encode(const float* values, int count, q8_0& out) {
    float largest = 0;
    for (int i = 0; i < count; ++i) largest = std::fmax(largest, std::fabs(values[i]));
    const float step = largest / 127.0f;
    const float inverse = step >= 0x1p-126f ? 1.0f / step : 0.0f;  // finite; smaller scales are zero in binary16
    out.scale = f16(step);
    out.codes = {};
    for (int i = 0; i < count; ++i) {
      out.codes[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(std::lround(values[i] * inverse));
    }
  }
  static void decode(const q8_0& in, float* values) {
    for (std::size_t i = 0; i < in.codes.size(); ++i) values[i] = float(in.scale) * static_cast<float>(in.codes[i]);
  }
};

template <>
struct format_traits<mxfp4> : ColumnsInHalves {
  static constexpr std::string_view name = "mxfp4";
  static constexpr int block = 32;
  using code = e2m1_pair;
  using scale = e8m0;
  /// `count` < 32 at the end of a row: the missing weights are zero. The scale is 2^(floor(log2 max |w|) - 2) (OCP
  /// Microscaling Formats 1.0, section 6.3). Weights that an mxfp4 block decodes to come back exactly, though perhaps
  /// with another scale: where the largest code was small, a smaller scale has all the numbers of the larger one.
  /// A NaN makes the whole block NaN; infinities, too, come back.
  static void encode(const float* values, int count, mxfp4& out) {
    float largest = 0;
    bool nan = false;
    for (int i = 0; i < count; ++i) {
      largest = std::fmax(largest, std::fabs(values[i]));  // passes NaN over
      nan = nan || values[i] != values[i];
    }
    const int exponent = scale_exponent(largest);
    out.scale.bits = nan ? std::uint8_t{255} : static_cast<std::uint8_t>(exponent + 127);
    out.codes = {};
    for (int i = 0; i < count; ++i)
      out.codes[static_cast<std::size_t>(i / 2)].set(i % 2, e2m1_code(std::ldexp(values[i], -exponent)));
  }
  static void decode(const mxfp4& in, float* values) {
    for (int i = 0; i < block; ++i)
      values[i] = float(in.scale) * in.codes[static_cast<std::size_t>(i / 2)].value(i % 2);
  }

 private:
  static int scale_exponent(float largest) {
    if (!(largest > 0)) return -127;
    if (std::isinf(largest)) return 126;  // the smallest at which a code, 6, overflows
    const int exponent = std::ilogb(largest) - 2;
    return exponent < -127 ? -127 : exponent;
  }
};

template <>
struct format_traits<q4_0> : ColumnsInHalves {
  static constexpr std::string_view name = "q4_0";
  static constexpr int block = 32;
  using code = q4_pair;
  using scale = f16;
  /// `count` < 32 at the end of a row: the missing weights are zero. As GGUF's quantiser makes them: the first weight
  /// of the largest magnitude is -8 scales, the others are rounded to the nearest code, ties up, by the scale before
  /// its rounding to binary16; beyond 7 scales they are 7. A NaN or an infinity makes the whole block NaN; magnitudes
  /// beyond 8 * 65504 overflow the scale.
  static void encode(const float* values, int count, q4_0& out) {
    float extreme = 0;
    bool finite = true;
    for (int i = 0; i < count; ++i) {
      if (std::fabs(values[i]) > std::fabs(extreme)) extreme = values[i];
      finite = finite && std::isfinite(values[i]);
    }
    const float step = extreme / -8.0f;
    const float inverse = std::fabs(step) >= 0x1p-126f ? 1.0f / step : 0.0f;  // finite; smaller scales become zero
    out.scale = f16(finite ? step : std::numeric_limits<float>::quiet_NaN());
    out.codes.fill({{zero | zero << 4}});
    if (!finite) return;
    for (int i = 0; i < count; ++i)
      out.codes[static_cast<std::size_t>(i % 16)].set(i / 16, nearest(values[i], inverse));
  }
  static void decode(const q4_0& in, float* values) {
    for (int i = 0; i < block; ++i)
      values[i] = float(in.scale) * in.codes[static_cast<std::size_t>(i % 16)].value(i / 16);
  }

 private:
  static constexpr std::uint8_t zero = 8;

  /// Explicitly fma: where it matters whether a compiler contracts, codes would differ. The inverse of the scale is not
  /// exact; rounding the sum to float makes a tie a tie again.
  static unsigned nearest(float value, float inverse) {
    const auto code = static_cast<unsigned>(std::fma(value, inverse, 8.5f));
    return code < 15 ? code : 15;
  }
};

template <class F>
concept WeightFormat = requires {
  format_traits<F>::name;
  typename format_traits<F>::code;
  format_traits<F>::place(0);
};

template <class F>
inline constexpr bool is_scaled = format_traits<F>::block > 1;

/// An expert whose down projection is stored in another format than gate and up.
template <WeightFormat Up, WeightFormat Down>
struct expert_format {};

template <class F>
struct projection_formats {
  using up = F;
  using down = F;
};
template <class Up, class Down>
struct projection_formats<expert_format<Up, Down>> {
  using up = Up;
  using down = Down;
};

/// Only a name, "q8_0+bf16": its projections have the traits.
template <class Up, class Down>
struct format_traits<expert_format<Up, Down>> {
  static constexpr auto text = [] {
    constexpr std::string_view up = format_traits<Up>::name, down = format_traits<Down>::name;
    std::array<char, up.size() + 1 + down.size()> out{};
    std::size_t n = 0;
    for (const char c : up) out[n++] = c;
    out[n++] = '+';
    for (const char c : down) out[n++] = c;
    return out;
  }();
  static constexpr std::string_view name{text.data(), text.size()};
};

/// The formats a storage can lend; `ExpertRef::format` is an index into this list.
template <class... F>
struct formats {};
template <class... F>
constexpr int count_of(formats<F...>) noexcept {
  return sizeof...(F);
}

template <class List>
struct first_format_;
template <class F, class... Rest>
struct first_format_<formats<F, Rest...>> {
  using type = F;
};
template <class List>
using first_format = typename first_format_<List>::type;

/// Calls `f(std::type_identity<F>{})` for the `index`-th format of the list; a wrong index calls nothing.
MOE_CALLS_ARGUMENT
template <class... F, class Function>
MOE_HD constexpr void with_format(formats<F...>, int index, Function&& f) {
  int i = 0;
  static_cast<void>(((i++ == index ? (f(std::type_identity<F>{}), true) : false) || ...));
}

}  // namespace moe

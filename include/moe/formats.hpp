// Weight formats f32, bf16, f16, q8_0: names, blocks, scalar encode and decode (the truth for all kernels).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
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

/// What a weight format must say. `block` inputs are encoded together; a block of one has no scale.
template <class Format>
struct format_traits;

template <>
struct format_traits<f32> {
  static constexpr std::string_view name = "f32";
  static constexpr int block = 1;
  using code = float;
  static void encode(const float* values, int, f32& out) { out = *values; }
  static void decode(const f32& in, float* values) { *values = in; }
};

template <>
struct format_traits<bf16> {
  static constexpr std::string_view name = "bf16";
  static constexpr int block = 1;
  using code = bf16;
  static void encode(const float* values, int, bf16& out) { out = bf16(*values); }
  static void decode(const bf16& in, float* values) { *values = float(in); }
};

template <>
struct format_traits<f16> {
  static constexpr std::string_view name = "f16";
  static constexpr int block = 1;
  using code = f16;
  static void encode(const float* values, int, f16& out) { out = f16(*values); }
  static void decode(const f16& in, float* values) { *values = float(in); }
};

template <>
struct format_traits<q8_0> {
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

template <class F>
concept WeightFormat = requires {
  format_traits<F>::name;
  typename format_traits<F>::code;
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

template <class List>
struct first_format_;
template <class F, class... Rest>
struct first_format_<formats<F, Rest...>> {
  using type = F;
};
template <class List>
using first_format = typename first_format_<List>::type;

/// Calls `f(std::type_identity<F>{})` for the `index`-th format of the list; a wrong index calls nothing.
template <class... F, class Function>
constexpr void with_format(formats<F...>, int index, Function&& f) {
  int i = 0;
  static_cast<void>(((i++ == index ? (f(std::type_identity<F>{}), true) : false) || ...));
}

}  // namespace moe

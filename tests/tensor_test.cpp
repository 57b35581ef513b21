// Rows, views, buffers, arenas, matrices, and the 16-bit floats over all their patterns.
#include <cstdint>
#include <moe/tensor.hpp>
#include <type_traits>
#include <vector>

#include "problem.hpp"

using moe::bf16;
using moe::f16;

namespace {

struct other_memory {
  using queue = int;
  using staging = moe::host_memory;
};

template <class T>
T from_bits(std::uint16_t pattern) {
  T value;
  value.bits = pattern;
  return value;
}

/// What a 16-bit pattern means, from the definition of the format: `fraction` bits below `exponent` bits.
double meaning(std::uint16_t pattern, int fraction, int bias) {
  const int exponent = (pattern & 0x7fff) >> fraction, mantissa = pattern & ((1 << fraction) - 1);
  const int highest = 0x7fff >> fraction;
  const double sign = pattern >> 15 != 0 ? -1 : 1;
  if (exponent == highest) return mantissa != 0 ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - fraction);
  return sign * std::ldexp((1 << fraction) + mantissa, exponent - bias - fraction);
}

/// Numbers of patterns for which `wrong(pattern)` holds.
template <class Wrong>
int count_patterns(const Wrong& wrong) {
  int count = 0;
  for (int p = 0; p < 1 << 16; ++p) count += wrong(static_cast<std::uint16_t>(p)) ? 1 : 0;
  return count;
}
template <class T>
bool widens_wrongly(std::uint16_t p, int fraction, int bias) {
  const double expected = meaning(p, fraction, bias), found = static_cast<double>(float(from_bits<T>(p)));
  if (std::isnan(expected)) return !std::isnan(found);
  return found != expected || std::signbit(found) != std::signbit(expected);
}
template <class T>
bool returns_wrongly(std::uint16_t p) {
  const float value = float(from_bits<T>(p));
  return std::isnan(value) ? !std::isnan(float(T(value))) : T(value).bits != p;
}
/// Floats around every representable number: itself, its midpoint to the next, and their neighbours.
template <class T>
bool rounds_wrongly(std::uint16_t p, double (*rule)(double)) {
  const auto value = static_cast<double>(float(from_bits<T>(p)));
  const auto next = static_cast<double>(float(from_bits<T>(static_cast<std::uint16_t>(p + 1))));
  if (!std::isfinite(value) || !std::isfinite(next)) return false;
  const auto middle = static_cast<float>((value + next) / 2);
  for (const float x : {static_cast<float>(value), middle}) {
    for (const float near : {std::nextafter(x, -infinity), x, std::nextafter(x, infinity)}) {
      const double expected = rule(static_cast<double>(near)), found = static_cast<double>(float(T(near)));
      if (found != expected || std::signbit(found) != std::signbit(expected)) return true;
    }
  }
  return false;
}

constexpr std::size_t measured() {
  moe::Arena arena;
  arena.take<float>(5);
  arena.matrix<double, moe::host_memory>(3, 7);
  return arena.used();
}

}  // namespace

// ---- 16-bit floats

TEST_CASE("every bf16 pattern widens to the number that the format defines") {
  CHECK(count_patterns([](std::uint16_t p) { return widens_wrongly<bf16>(p, 7, 127); }) == 0);
}
TEST_CASE("every f16 pattern widens to the number that the format defines") {
  CHECK(count_patterns([](std::uint16_t p) { return widens_wrongly<f16>(p, 10, 15); }) == 0);
}
TEST_CASE("every bf16 number survives the way to float and back") { CHECK(count_patterns(returns_wrongly<bf16>) == 0); }
TEST_CASE("every f16 number survives the way to float and back") { CHECK(count_patterns(returns_wrongly<f16>) == 0); }
TEST_CASE("floats round to the nearest bf16, ties to even, subnormals included") {
  CHECK(count_patterns([](std::uint16_t p) { return rounds_wrongly<bf16>(p, oracle::to_bf16); }) == 0);
}
TEST_CASE("floats round to the nearest f16, ties to even, subnormals included") {
  CHECK(count_patterns([](std::uint16_t p) { return rounds_wrongly<f16>(p, oracle::to_f16); }) == 0);
}
TEST_CASE("random floats round as the oracle rounds them") {
  oracle::Random random(31);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    const float x = moe::bit_cast<float>(static_cast<std::uint32_t>(random.engine()));
    if (!std::isfinite(x)) continue;
    const auto wide = static_cast<double>(x);
    wrong += static_cast<double>(float(bf16(x))) != oracle::to_bf16(wide) ? 1 : 0;
    wrong += static_cast<double>(float(f16(x))) != oracle::to_f16(wide) ? 1 : 0;
  }
  CHECK(wrong == 0);
}
TEST_CASE("the largest float below the midpoint to infinity is the largest f16") {
  CHECK(f16(std::nextafter(65520.0f, 0.0f)).bits == 0x7bff);
}
TEST_CASE("the midpoint above the largest f16 is infinite") { CHECK(f16(65520.0f).bits == 0x7c00); }
TEST_CASE("the largest float is an infinite bf16") { CHECK(bf16(std::numeric_limits<float>::max()).bits == 0x7f80); }
TEST_CASE("a NaN whose payload would round away stays NaN") {
  const float nan = moe::bit_cast<float>(0x7f800001u);
  CHECK(std::isnan(float(bf16(nan))));
  CHECK(std::isnan(float(f16(nan))));
}
TEST_CASE("conversions work at compile time") {
  static_assert(bf16(1.5f).bits == 0x3fc0 && f16(1.5f).bits == 0x3e00 && float(f16(-2.0f)) == -2);
}

// ---- views

TEST_CASE("views of different memories do not convert into each other") {
  CHECK_FALSE(std::is_convertible_v<moe::View<float>, moe::View<float, other_memory>>);
}
TEST_CASE("a view converts to a view of const") {
  CHECK(std::is_convertible_v<moe::View<float>, moe::View<const float>>);
}
TEST_CASE("a view of const does not convert to a mutable view") {
  CHECK_FALSE(std::is_convertible_v<moe::View<const float>, moe::View<float>>);
}
TEST_CASE("a row of a strided view begins at its stride") {
  std::vector<float> data(12);
  CHECK(moe::View<float>(data.data(), 3, 2, 4).row(2).data() == data.data() + 8);
}
TEST_CASE("a slice keeps the stride") {
  std::vector<float> data(12);
  CHECK(moe::View<float>(data.data(), 3, 2, 4).slice(1, 2).row(1).data() == data.data() + 8);
}

// ---- buffers and arenas

TEST_CASE("a buffer begins on a page") {
  const moe::Buffer buffer(100);
  CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % moe::page_alignment == 0);
}
TEST_CASE("a buffer of nothing holds no memory") { CHECK(moe::Buffer(0).data() == nullptr); }
TEST_CASE("a moved buffer leaves nothing behind") {
  moe::Buffer a(10);
  const moe::Buffer b(std::move(a));
  CHECK(b.bytes() == 10);
  CHECK(a.data() == nullptr);  // NOLINT(bugprone-use-after-move)
}
TEST_CASE("an arena that measures asks for what an arena that carves uses") {
  const moe::Buffer buffer(measured());
  moe::Arena arena(buffer.data(), buffer.bytes());
  arena.take<float>(5);
  arena.matrix<double, moe::host_memory>(3, 7);
  CHECK(arena.used() == measured());
}
TEST_CASE("an arena measures at compile time") {
  static_assert(measured() == 64 + 192);
  CHECK(measured() == 64 + 192);
}
TEST_CASE("an arena hands out aligned pieces that do not overlap") {
  const moe::Buffer buffer(4096);
  moe::Arena arena(buffer.data(), buffer.bytes());
  const auto* first = reinterpret_cast<std::byte*>(arena.take<char>(65));
  const auto* second = reinterpret_cast<std::byte*>(arena.take<float>(1));
  CHECK(second - first == 128);
}
TEST_CASE("round_up gives the next multiple") {
  CHECK(moe::round_up(0, 32) == 0);
  CHECK(moe::round_up(32, 32) == 32);
  CHECK(moe::round_up(33, 32) == 64);
}

// ---- matrices of checkpoints

TEST_CASE_TEMPLATE("a matrix reads any element type", T, float, bf16, f16) {
  const T data[] = {T(1.0f), T(2.0f), T(3.0f), T(4.0f), T(5.0f), T(6.0f)};
  CHECK(moe::Matrix(data, 2, 3).at(1, 2) == 6);
}
TEST_CASE("a transposed matrix reads columns as rows") {
  const float data[] = {1, 2, 3, 4, 5, 6};
  const moe::Matrix m = moe::Matrix(data, 2, 3).transposed();
  CHECK(m.rows == 3);
  CHECK(m.at(2, 1) == 6);
}
TEST_CASE("a matrix may take every second row") {
  const float data[] = {1, 2, 3, 4, 5, 6, 7, 8};
  CHECK(moe::Matrix(data + 2, moe::ElementType::float32, 2, 2, 4, 1).at(1, 0) == 7);
}
TEST_CASE("a matrix may begin at an odd address") {
  alignas(4) unsigned char bytes[9] = {};
  const float value = 3;
  std::memcpy(bytes + 1, &value, sizeof value);
  CHECK(moe::Matrix(static_cast<const void*>(bytes + 1), moe::ElementType::float32, 1, 1, 1, 1).at(0, 0) == 3);
}

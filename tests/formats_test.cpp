// Encode and decode of the weight formats, and lists of formats.
#include <algorithm>
#include <moe/formats.hpp>
#include <vector>

#include "problem.hpp"

using moe::format_traits;
using moe::mxfp4;
using moe::q4_0;
using moe::q8_0;

namespace {

/// Numbers after a trip through one block of a format by the library's text.
template <class F>
std::vector<float> through(const std::vector<float>& values) {
  F block{};
  format_traits<F>::encode(values.data(), static_cast<int>(values.size()), block);
  std::vector<float> out(32);
  format_traits<F>::decode(block, out.data());
  return out;
}
std::vector<float> through_q8_0(const std::vector<float>& values) { return through<q8_0>(values); }

/// Whether a block of numbers comes back as the oracle stores them.
template <class F>
bool as_stored(oracle::Format format, const std::vector<float>& values) {
  const std::vector<double> expected = oracle::stored(format, values, static_cast<int>(values.size()));
  const std::vector<float> found = through<F>(values);
  return std::equal(expected.begin(), expected.end(), found.begin(),
                    [](double a, float b) { return a == static_cast<double>(b); });
}

/// Blocks of random numbers of any size that do not come back as the oracle stores them.
template <class F>
int wrong_blocks(oracle::Format format, int lowest_exponent, int highest_exponent) {
  oracle::Random random(41);
  int wrong = 0;
  for (int i = 0; i < 2000; ++i) {
    const float range = std::ldexp(1.0f, random.between(lowest_exponent, highest_exponent));
    wrong += as_stored<F>(format, random.reals(random.between(1, 32), range)) ? 0 : 1;
  }
  return wrong;
}

/// The numbers of E2M1 in the order of their codes (OCP Microscaling Formats 1.0, table 5).
constexpr float e2m1_numbers[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/// A block with that scale, its codes of magnitudes up to `most` only.
mxfp4 random_block(oracle::Random& random, int scale, int most) {
  mxfp4 block{};
  block.scale.bits = static_cast<std::uint8_t>(scale);
  for (int i = 0; i < 32; ++i) {
    const auto magnitude = static_cast<unsigned>(random.between(0, most));
    block.codes[static_cast<std::size_t>(i / 2)].set(i % 2, magnitude | (random.coin() ? 8u : 0u));
  }
  block.codes[7].set(1, static_cast<unsigned>(most));
  return block;
}

std::vector<unsigned> q4_0_codes(const std::vector<float>& values) {
  q4_0 block{};
  format_traits<q4_0>::encode(values.data(), static_cast<int>(values.size()), block);
  std::vector<unsigned> codes;
  for (int i = 0; i < static_cast<int>(values.size()); ++i) codes.push_back(block.code(i));
  return codes;
}

}  // namespace

TEST_CASE("q8_0 blocks take 34 bytes") { CHECK(sizeof(q8_0) == 34); }
TEST_CASE("q8_0 gives the numbers of the oracle's encoder") {
  CHECK(wrong_blocks<q8_0>(oracle::Format::q8_0, -20, 20) == 0);
}
TEST_CASE("q8_0 is off by at most half a step and the rounding of the scale") {
  oracle::Random random(42);
  for (int i = 0; i < 500; ++i) {
    const std::vector<float> values = random.reals(32);
    float most = 0;
    for (const float v : values) most = std::max(most, std::fabs(v));
    const std::vector<float> found = through_q8_0(values);
    // half a step, three float roundings, and 127 times half an ulp of an 11-bit scale
    const float bound = most / 127 * (0.5f + 127 * 0x1p-11f) * (1 + 0x1p-20f) + 127 * 0x1p-25f;
    for (std::size_t k = 0; k < 32; ++k) CHECK(std::fabs(found[k] - values[k]) <= bound);
  }
}
TEST_CASE("q8_0 of zeros is zeros") {
  CHECK(through_q8_0(std::vector<float>(32, 0.0f)) == std::vector<float>(32, 0.0f));
}
TEST_CASE("q8_0 keeps the largest magnitude, of either sign, at 127 steps") {
  q8_0 block{};
  const float values[] = {-127, 127, 1};
  format_traits<q8_0>::encode(values, 3, block);
  CHECK(block.codes[0] == -127);
  CHECK(block.codes[1] == 127);
  CHECK(block.codes[2] == 1);
}
TEST_CASE("q8_0 rounds ties away from zero") {
  q8_0 block{};
  const float values[] = {127, 2.5f, -2.5f};
  format_traits<q8_0>::encode(values, 3, block);
  CHECK(block.codes[1] == 3);
  CHECK(block.codes[2] == -3);
}
TEST_CASE("q8_0 fills the rest of a short block with zero") {
  q8_0 block{};
  block.codes.fill(9);
  const float values[] = {1, 2};
  format_traits<q8_0>::encode(values, 2, block);
  for (std::size_t i = 2; i < 32; ++i) CHECK(block.codes[i] == 0);
}
TEST_CASE("q8_0 of numbers below the smallest scale has codes of zero") {
  q8_0 block{};
  const float values[] = {1e-38f, -1e-38f, 1e-44f};
  format_traits<q8_0>::encode(values, 3, block);
  CHECK(float(block.scale) == 0);
  for (const std::int8_t code : block.codes) CHECK(code == 0);
}

TEST_CASE("an E8M0 scale is a power of two") {
  for (int bits = 0; bits < 255; ++bits)
    CHECK(float(moe::e8m0{static_cast<std::uint8_t>(bits)}) == std::ldexp(1.0f, bits - 127));
}
TEST_CASE("an E8M0 scale of 255 is NaN") { CHECK(std::isnan(float(moe::e8m0{255}))); }

TEST_CASE("E2M1 codes are the numbers of the specification") {
  for (unsigned code = 0; code < 16; ++code)
    CHECK(moe::bit_cast<std::uint32_t>(moe::e2m1_value(code)) == moe::bit_cast<std::uint32_t>(e2m1_numbers[code]));
}
TEST_CASE("numbers of E2M1 have their own code") {
  for (unsigned code = 0; code < 16; ++code) CHECK(moe::e2m1_code(e2m1_numbers[code]) == code);
}
TEST_CASE("numbers between two of E2M1 go to the nearest, ties to the even code") {
  for (unsigned code = 0; code < 7; ++code) {
    const float middle = (e2m1_numbers[code] + e2m1_numbers[code + 1]) / 2;
    for (const unsigned sign : {0u, 8u}) {
      const float side = sign != 0 ? -1.0f : 1.0f;
      CHECK(moe::e2m1_code(side * std::nextafter(middle, 0.0f)) == (code | sign));
      CHECK(moe::e2m1_code(side * std::nextafter(middle, 9.0f)) == ((code + 1) | sign));
      CHECK(moe::e2m1_code(side * middle) == ((code % 2 == 0 ? code : code + 1) | sign));
    }
  }
}
TEST_CASE("numbers beyond the largest of E2M1 become it") {
  for (const float x : {6.5f, 7.99f, infinity}) {
    CHECK(moe::e2m1_code(x) == 7);
    CHECK(moe::e2m1_code(-x) == 15);
  }
}
TEST_CASE("each half of a pair is set alone") {
  moe::e2m1_pair pair{};
  pair.set(0, 5);
  pair.set(1, 12);
  CHECK(pair.bits == 0xc5);
  pair.set(0, 2);
  CHECK(pair.bits == 0xc2);
  CHECK(pair.value(0) == 1);
  CHECK(pair.value(1) == -2);
}

TEST_CASE("mxfp4 blocks take 17 bytes") { CHECK(sizeof(mxfp4) == 17); }
TEST_CASE("mxfp4 gives the numbers of the oracle's encoder, subnormal ones too") {
  CHECK(wrong_blocks<mxfp4>(oracle::Format::mxfp4, -20, 20) == 0);
  CHECK(wrong_blocks<mxfp4>(oracle::Format::mxfp4, -140, -120) == 0);
  CHECK(wrong_blocks<mxfp4>(oracle::Format::mxfp4, 120, 127) == 0);
}
TEST_CASE("mxfp4 codes lie low half first") {
  mxfp4 block{};
  const float values[] = {1, 6, -2};
  format_traits<mxfp4>::encode(values, 3, block);
  CHECK(block.scale.bits == 127);
  CHECK(block.codes[0].bits == 0x72);
  CHECK(block.codes[1].bits == 0x0c);
}
TEST_CASE("an mxfp4 block comes back to the bit, whatever its scale and its largest code") {
  oracle::Random random(43);
  for (int scale = 0; scale < 255; ++scale)
    for (int most = 0; most < 8; ++most) {
      std::vector<float> values(32);
      format_traits<mxfp4>::decode(random_block(random, scale, most), values.data());
      CHECK((bits(through<mxfp4>(values)) == bits(values)));
    }
}
TEST_CASE("an mxfp4 block with the scale NaN comes back as NaN") {
  oracle::Random random(44);
  std::vector<float> values(32);
  format_traits<mxfp4>::decode(random_block(random, 255, 7), values.data());
  for (const float x : through<mxfp4>(values)) CHECK(std::isnan(x));
}
TEST_CASE("a NaN makes its whole mxfp4 block NaN") {
  for (const float x : through<mxfp4>({1, not_a_number, 2})) CHECK(std::isnan(x));
}
TEST_CASE("an infinity stays one in mxfp4") {
  const std::vector<float> found = through<mxfp4>({-infinity, infinity, 0});
  CHECK(found[0] == -infinity);
  CHECK(found[1] == infinity);
  CHECK(found[2] == 0);
}
TEST_CASE("mxfp4 fills the rest of a short block with zero") {
  mxfp4 block{};
  block.codes.fill({{0x99}});
  const float values[] = {1, 2, 3};
  format_traits<mxfp4>::encode(values, 3, block);
  CHECK(block.codes[1].code(1) == 0);
  for (std::size_t i = 2; i < 16; ++i) CHECK(block.codes[i].bits == 0);
}
TEST_CASE("mxfp4 of zeros is all bits zero") {
  mxfp4 block{{9}, {}};
  const float values[] = {0, 0};
  format_traits<mxfp4>::encode(values, 2, block);
  CHECK(block.scale.bits == 0);
  for (const moe::e2m1_pair pair : block.codes) CHECK(pair.bits == 0);
}

TEST_CASE("q4_0 blocks take 18 bytes") { CHECK(sizeof(q4_0) == 18); }
TEST_CASE("q4_0 gives the numbers of the oracle's encoder, those of subnormal scales too") {
  CHECK(wrong_blocks<q4_0>(oracle::Format::q4_0, -20, 18) == 0);
  CHECK(wrong_blocks<q4_0>(oracle::Format::q4_0, -140, -20) == 0);
}
TEST_CASE("q4_0 chooses the nearest of its sixteen numbers") {
  oracle::Random random(45);
  for (int i = 0; i < 500; ++i) {
    const std::vector<float> values = random.reals(32);
    const std::vector<float> found = through<q4_0>(values);
    const auto magnitude = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
    const double step = static_cast<double>(*std::max_element(values.begin(), values.end(), magnitude)) / -8;
    for (std::size_t k = 0; k < 32; ++k) {
      double least = HUGE_VAL;
      for (int level = -8; level < 8; ++level)
        least = std::min(least, std::fabs(level * step - static_cast<double>(values[k])));
      // a scale of 11 bits is off by half an ulp, eight of it by eight; float decides ties within 2^-19 steps
      const double rounding = std::fabs(step) * (8 * 0x1p-11 + 0x1p-19) + 8 * 0x1p-25;
      CHECK(std::fabs(static_cast<double>(found[k]) - static_cast<double>(values[k])) <= least + rounding);
    }
  }
}
TEST_CASE("q4_0 weight i is the low half of byte i, weight i + 16 its high half") {
  std::vector<float> values;
  for (int i = 0; i < 16; ++i) values.push_back(static_cast<float>(i - 8));
  for (int i = 0; i < 16; ++i) values.push_back(static_cast<float>(7 - i));
  q4_0 block{};
  format_traits<q4_0>::encode(values.data(), 32, block);
  CHECK(float(block.scale) == 1);
  for (unsigned i = 0; i < 16; ++i) CHECK(block.codes[i].bits == (i | (15 - i) << 4));
}
TEST_CASE("q4_0 keeps the largest magnitude, of either sign, at -8 scales, and its negative at 7") {
  CHECK((q4_0_codes({-2, 2, 1}) == std::vector<unsigned>{0, 15, 12}));
  CHECK((q4_0_codes({2, -2, 1}) == std::vector<unsigned>{0, 15, 4}));
  CHECK(through<q4_0>({-2, 2, 1})[0] == -2);
  CHECK(through<q4_0>({-2, 2, 1})[1] == 1.75f);
  CHECK(through<q4_0>({2, -2, 1})[0] == 2);
  CHECK(through<q4_0>({2, -2, 1})[1] == -1.75f);
}
TEST_CASE("q4_0 rounds ties to the greater code") {
  CHECK((q4_0_codes({-8, 0.5f, -0.5f, 6.5f, 7.5f}) == std::vector<unsigned>{0, 9, 8, 15, 15}));
  CHECK((q4_0_codes({8, 0.5f, -0.5f, -6.5f}) == std::vector<unsigned>{0, 8, 9, 15}));
}
TEST_CASE("q4_0 decides ties as the oracle's encoder does, though the inverse of the scale is not exact") {
  oracle::Random random(47);
  int wrong = 0;
  for (int i = 0; i < 2000; ++i) {
    const int half_step = random.between(1, 2000);
    std::vector<float> values(32);
    for (float& x : values) x = static_cast<float>(half_step * random.between(-15, 15));
    values[0] = static_cast<float>(half_step * (random.coin() ? 16 : -16));
    wrong += as_stored<q4_0>(oracle::Format::q4_0, values) ? 0 : 1;
  }
  CHECK(wrong == 0);
}
TEST_CASE("a q4_0 block with a code of 0 comes back to the bit, whatever its scale") {
  oracle::Random random(46);
  int wrong = 0;
  for (unsigned scale = 0; scale < 65536; ++scale) {
    if ((scale & 0x7c00u) == 0x7c00u) continue;  // infinities and NaN
    q4_0 block{};
    block.scale.bits = static_cast<std::uint16_t>(scale);
    for (moe::q4_pair& pair : block.codes) pair.bits = static_cast<std::uint8_t>(random.below(256));
    block.codes[scale % 16].set(1, 0);
    std::vector<float> values(32);
    format_traits<q4_0>::decode(block, values.data());
    wrong += through<q4_0>(values) == values ? 0 : 1;
  }
  CHECK(wrong == 0);
}
TEST_CASE("q4_0 fills the rest of a short block with zero") {
  q4_0 block{};
  block.codes.fill({{0x35}});
  const float values[] = {1, 2, 3};
  format_traits<q4_0>::encode(values, 3, block);
  for (int i = 3; i < 32; ++i) CHECK(block.codes[static_cast<std::size_t>(i % 16)].value(i / 16) == 0);
}
TEST_CASE("q4_0 of zeros is zeros") { CHECK(through<q4_0>(std::vector<float>(32)) == std::vector<float>(32)); }
TEST_CASE("q4_0 of numbers below the smallest scale is zeros") {
  CHECK((through<q4_0>({1e-38f, -1e-38f, 1e-44f}) == std::vector<float>(32)));
  CHECK((q4_0_codes({1e-38f, -1e-38f, 1e-44f}) == std::vector<unsigned>(3, 8)));
  CHECK((q4_0_codes({1e-44f, -1e-44f}) == std::vector<unsigned>(2, 8)));
}
TEST_CASE("a NaN or an infinity makes its whole q4_0 block NaN") {
  for (const float wrong : {not_a_number, infinity, -infinity}) {
    for (const float x : through<q4_0>({1, wrong, 2})) CHECK(std::isnan(x));
    CHECK((q4_0_codes({1, wrong, 2}) == std::vector<unsigned>(3, 8)));
  }
}
TEST_CASE("q4_0 of numbers beyond the largest scale is infinite") {
  CHECK(through<q4_0>({8 * 65504.0f})[0] == 8 * 65504.0f);
  CHECK(through<q4_0>({8 * 65520.0f})[0] == infinity);
}

TEST_CASE_TEMPLATE("formats of one number keep what they can represent", F, float, moe::bf16, moe::f16) {
  for (const float value : {0.0f, 1.0f, -1.5f, 0.0078125f}) {
    F code{};
    float back = 0;
    format_traits<F>::encode(&value, 1, code);
    format_traits<F>::decode(code, &back);
    CHECK(back == value);
  }
}

TEST_CASE("with_format calls the format of that index") {
  std::string_view name;
  moe::with_format(moe::formats<float, q8_0, moe::f16>{}, 1,
                   [&](auto tag) { name = format_traits<typename decltype(tag)::type>::name; });
  CHECK(name == "q8_0");
}
TEST_CASE("with_format calls nothing for an index outside the list") {
  int calls = 0;
  for (const int index : {-1, 2, 1000}) moe::with_format(moe::formats<float, q8_0>{}, index, [&](auto) { ++calls; });
  CHECK(calls == 0);
}
TEST_CASE("an expert format names the formats of both projections") {
  using P = moe::projection_formats<moe::expert_format<q8_0, moe::f16>>;
  CHECK(std::is_same_v<P::up, q8_0>);
  CHECK(std::is_same_v<P::down, moe::f16>);
}

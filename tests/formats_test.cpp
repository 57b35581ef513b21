// Encode and decode of the weight formats, and lists of formats.
#include <moe/formats.hpp>
#include <vector>

#include "problem.hpp"

using moe::format_traits;
using moe::q8_0;

namespace {

/// Numbers after a trip through q8_0 by the library's text.
std::vector<float> through_q8_0(const std::vector<float>& values) {
  q8_0 block{};
  format_traits<q8_0>::encode(values.data(), static_cast<int>(values.size()), block);
  std::vector<float> out(32);
  format_traits<q8_0>::decode(block, out.data());
  return out;
}

}  // namespace

TEST_CASE("q8_0 blocks take 34 bytes") { CHECK(sizeof(q8_0) == 34); }
TEST_CASE("q8_0 gives the numbers of the oracle's encoder") {
  oracle::Random random(41);
  for (int i = 0; i < 2000; ++i) {
    const std::vector<float> values = random.reals(random.between(1, 32), std::ldexp(1.0f, random.between(-20, 20)));
    const std::vector<double> expected = oracle::stored(oracle::Format::q8_0, values, static_cast<int>(values.size()));
    const std::vector<float> found = through_q8_0(values);
    bool same = true;
    for (std::size_t k = 0; k < values.size(); ++k) same = same && static_cast<double>(found[k]) == expected[k];
    CHECK(same);
  }
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

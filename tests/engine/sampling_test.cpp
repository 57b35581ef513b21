// The sampler: ties, broken logits, frequencies, and seeds that repeat on every machine.
#include "sampling.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinite = std::numeric_limits<float>::infinity();

moe::Row<const float> row(const std::vector<float>& values) { return {values.data(), static_cast<int>(values.size())}; }

std::vector<int> draws(double temperature, std::uint64_t seed, const std::vector<float>& logits, int count) {
  engine::Sampler sampler(temperature, seed);
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back(sampler(row(logits)));
  return ids;
}

}  // namespace

TEST_CASE("random numbers are those of splitmix64") {
  engine::SplitMix64 zero(0);
  CHECK(zero.next() == 0xe220a8397b1dcdafull);
  CHECK(zero.next() == 0x6e789e6aa1b965f4ull);
  CHECK(zero.next() == 0x06c45d188009454full);
  engine::SplitMix64 random(1234567);
  CHECK(random.next() == 6457827717110365317ull);
  for (int i = 0; i < 1000; ++i) {
    const double u = random.uniform();
    CHECK((u >= 0 && u < 1));
  }
}

TEST_CASE("temperature 0 takes the largest, the lower id among equals") {
  CHECK(draws(0, 1, {1, 5, 5, 2}, 3) == std::vector<int>{1, 1, 1});
  CHECK(draws(0, 1, {not_a_number, -infinite, -3, not_a_number}, 1) == std::vector<int>{2});
  CHECK(draws(0, 1, {0, infinite}, 1) == std::vector<int>{1});
}

TEST_CASE("broken logits are an error, not a token") {
  CHECK_THROWS_AS(draws(0, 1, {not_a_number, not_a_number}, 1), moe::Error);
  CHECK_THROWS_AS(draws(1, 1, {not_a_number, not_a_number}, 1), moe::Error);
  for (const int id : draws(1, 3, {not_a_number, 0, not_a_number, 0.5f}, 100)) CHECK((id == 1 || id == 3));
  for (const int id : draws(1, 3, {infinite, 0, infinite}, 100)) CHECK(id != 1);
  for (const int id : draws(1, 3, {-infinite, -infinite}, 10)) CHECK((id == 0 || id == 1));
}

TEST_CASE("a seed repeats its draws, another one does not") {
  const std::vector<float> logits(50, 0.0f);
  CHECK(draws(1, 7, logits, 100) == draws(1, 7, logits, 100));
  CHECK(draws(1, 7, logits, 100) != draws(1, 8, logits, 100));
}

TEST_CASE("draws follow softmax(logits / temperature)") {
  const std::vector<float> logits{0.0f, 1.0f, -1.0f, 2.0f};
  for (const double temperature : {0.5, 1.0, 3.0}) {
    CAPTURE(temperature);
    constexpr int count = 40000;
    std::array<double, 4> seen{}, expected{};
    for (const int id : draws(temperature, 11, logits, count)) seen[static_cast<std::size_t>(id)] += 1.0 / count;
    double sum = 0;
    for (std::size_t i = 0; i < 4; ++i) sum += expected[i] = std::exp(static_cast<double>(logits[i]) / temperature);
    for (std::size_t i = 0; i < 4; ++i) {
      const double p = expected[i] / sum;
      CHECK(std::abs(seen[i] - p) < 5 * std::sqrt(p * (1 - p) / count));  // five standard deviations
    }
  }
}

TEST_CASE("a very low temperature is greedy, a wrong one is refused") {
  for (const int id : draws(1e-6, 5, {1.0f, 1.1f, 0.9f}, 50)) CHECK(id == 1);
  for (const double wrong : {-0.1, std::nan(""), 1e9}) CHECK_THROWS_AS(engine::Sampler(wrong, 0), moe::Error);
}

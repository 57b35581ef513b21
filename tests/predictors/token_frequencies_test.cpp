// TokenFrequencies: what it learns, how much memory it takes, what it says about tokens that it never saw.
#include <moe/predictors/token_frequencies.hpp>

#include <cmath>

#include "../layer_support.hpp"

using moe::Row;
using moe::Slot;
using moe::TokenFrequencies;

namespace {

void observe(TokenFrequencies& table, int layer, int token, std::vector<int> experts) {
  std::vector<Slot> picks;
  for (const int e : experts) picks.push_back({e, 0.5f});
  table.observe(layer, token, {picks.data(), static_cast<int>(picks.size())});
}
std::vector<float> logits_of(const TokenFrequencies& table, int layer, std::vector<int> tokens) {
  std::vector<float> out(tokens.size() * static_cast<std::size_t>(table.shape().experts), not_a_number);
  table.logits(layer, {tokens.data(), static_cast<int>(tokens.size())}, view(out, table.shape().experts));
  return out;
}

}  // namespace

TEST_CASE("logits are the logarithms of smoothed shares, by hand") {
  TokenFrequencies table({.vocabulary = 10, .layers = 2, .experts = 3}, 4);
  observe(table, 1, 7, {0, 2});
  observe(table, 1, 7, {0, 1});
  observe(table, 1, 3, {2});
  // Overall in layer 1: 2, 1, 2 of 5, each and half a choice: shares 2.5, 1.5, 2.5 of 6.5. Token 7 saw 2, 1, 1.
  const std::vector<float> logits = logits_of(table, 1, {7, 9});
  const double overall[] = {2.5 / 6.5, 1.5 / 6.5, 2.5 / 6.5}, seen[] = {2, 1, 1};
  for (std::size_t e = 0; e < 3; ++e) {
    CHECK(std::fabs(static_cast<double>(logits[e]) - std::log((seen[e] + 4 * overall[e]) / 8)) < 1e-6);
    CHECK(std::fabs(static_cast<double>(logits[3 + e]) - std::log(overall[e])) < 1e-6);
  }
}

TEST_CASE("layers do not learn from each other, and before any choice all experts are equal") {
  TokenFrequencies table({.vocabulary = 4, .layers = 2, .experts = 4});
  observe(table, 0, 1, {3});
  const std::vector<float> other = logits_of(table, 1, {1});
  for (const float l : other) CHECK(l == other[0]);
  CHECK(std::exp(other[0]) == doctest::Approx(0.25));
}

TEST_CASE("token ids outside the vocabulary and ids that are no expert are no trouble") {
  TokenFrequencies table({.vocabulary = 4, .layers = 1, .experts = 2});
  observe(table, 0, 0, {1, -1, 2, 1000});
  CHECK(table.totals() == std::vector<std::uint64_t>{0, 1});
  CHECK(bits(logits_of(table, 0, {-1})) == bits(logits_of(table, 0, {3})));
  CHECK(bits(logits_of(table, 0, {4})) == bits(logits_of(table, 0, {3})));
}

TEST_CASE("when all rows are taken new ids are predicted by the overall shares, and memory stays bounded") {
  TokenFrequencies table({.vocabulary = 1000, .layers = 3, .experts = 8, .rows = 5});
  for (int token = 0; token < 1000; ++token) observe(table, 0, token, {token % 8});
  CHECK(table.tokens() == std::vector<std::int32_t>{0, 1, 2, 3, 4});
  CHECK(table.bytes_held() <= 1000 * 4 + 8 * 4 + 2 * (5 * 3 * 8 * 2) + 3 * 8 * 8);
  CHECK(logits_of(table, 0, {4})[4] > logits_of(table, 0, {999})[4]);
  CHECK(bits(logits_of(table, 0, {999})) == bits(logits_of(table, 0, {500})));
}

TEST_CASE("a full count halves its row and goes on") {
  TokenFrequencies table({.vocabulary = 1, .layers = 1, .experts = 2});
  observe(table, 0, 0, {1, 1, 1, 1});
  for (int i = 0; i < 65536; ++i) observe(table, 0, 0, {0});
  CHECK(table.counts() == std::vector<std::uint16_t>{32768, 2});
  CHECK(table.totals() == std::vector<std::uint64_t>{65536, 4});
}

TEST_CASE("the observer learns what a layer chose, also in chunks, and the prediction is then its choice") {
  oracle::Random random(4);
  const Problem<float> p({.tokens = 6, .experts = 5, .k = 2}, random);
  const auto layer = make_layer(p);
  const std::vector<int> tokens = {3, 1, 4, 1, 5, 9};
  TokenFrequencies table({.vocabulary = 10, .layers = 2, .experts = 5});
  forward(layer, p, {}, 4, moe::FrequencyObserver{&table, 1, tokens.data()});

  const std::vector<float> logits = gate_logits(p);
  std::vector<std::uint64_t> expected(10, 0);
  for (int t = 0; t < 6; ++t)
    for (const oracle::Pick& pick : oracle::route({}, row_of(logits, 5, t), 2))
      ++expected[5 + static_cast<std::size_t>(pick.expert)];
  CHECK(table.totals() == expected);
  const std::vector<float> guess = logits_of(table, 1, {9});
  for (const oracle::Pick& pick : oracle::route({}, row_of(logits, 5, 5), 2)) {
    int ahead = 0;
    for (const float other : guess) ahead += other > guess[static_cast<std::size_t>(pick.expert)] ? 1 : 0;
    CHECK(ahead < 2);
  }
}

TEST_CASE("sizes and ids that there are not are refused") {
  TokenFrequencies table({.vocabulary = 4, .layers = 2, .experts = 3, .rows = 1});
  CHECK(message_of([] { TokenFrequencies({.vocabulary = 4, .layers = 0, .experts = 3}); }) ==
        "moe::TokenFrequencies: layers: expected at least 1, found 0");
  CHECK(message_of([&] { observe(table, 2, 0, {0}); }) ==
        "moe::TokenFrequencies::observe: layer: expected 0 to 1, found 2");
  CHECK(message_of([&] { observe(table, 0, 4, {0}); }) ==
        "moe::TokenFrequencies::observe: token id: expected 0 to 3, found 4");
  CHECK(message_of([&] {
          table.restore({1, 2}, {}, {});
        }) == "moe::TokenFrequencies::restore: rows in use: expected at most 1, found 2");
  CHECK(message_of([&] { table.restore({1}, std::vector<std::uint16_t>(6), std::vector<std::uint64_t>(5)); }) ==
        "moe::TokenFrequencies::restore: totals: expected 6, found 5");
}

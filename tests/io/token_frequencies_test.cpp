// A TokenFrequencies in a file: what was written is read, what does not fit is refused.
#include <doctest/doctest.h>

#include <moe/io/token_frequencies.hpp>

#include "io/support.hpp"

using moe::TokenFrequencies;
using moe::TokenFrequenciesShape;
using namespace io_test;

namespace {

constexpr TokenFrequenciesShape shape{.vocabulary = 50, .layers = 2, .experts = 3, .rows = 4};

TokenFrequencies learned() {
  TokenFrequencies table(shape);
  for (int i = 0; i < 40; ++i) {
    const moe::Slot pick{i % 3, 1};
    table.observe(i % 2, i * 7 % 50, {&pick, 1});
  }
  return table;
}

}  // namespace

TEST_CASE("a table comes back as it was") {
  const TemporaryFolder folder;
  const TokenFrequencies table = learned();
  moe::io::write_token_frequencies(folder / "table.safetensors", table);
  const TokenFrequencies back = moe::io::read_token_frequencies(folder / "table.safetensors", shape);
  CHECK(back.tokens() == table.tokens());
  CHECK(back.counts() == table.counts());
  CHECK(back.totals() == table.totals());
}

TEST_CASE("a table goes on learning after it was read") {
  const TemporaryFolder folder;
  TokenFrequencies table = learned();
  moe::io::write_token_frequencies(folder / "table.safetensors", table);
  TokenFrequencies back = moe::io::read_token_frequencies(folder / "table.safetensors", shape);
  const moe::Slot pick{2, 1};
  for (TokenFrequencies* t : {&table, &back}) t->observe(1, table.tokens()[2], {&pick, 1});
  CHECK(back.counts() == table.counts());
}

TEST_CASE("a table of a model with other sizes is refused, and the file named") {
  const TemporaryFolder folder;
  const auto file = folder / "table.safetensors";
  moe::io::write_token_frequencies(file, learned());
  const auto read = [&](TokenFrequenciesShape other) {
    return message_of([&] { moe::io::read_token_frequencies(file, other); });
  };
  const std::string message = read({.vocabulary = 50, .layers = 2, .experts = 4, .rows = 4});
  CHECK(contains(message, file.string()));
  CHECK(contains(message, "expected [4, 2, 4], found [4, 2, 3]"));
  CHECK_THROWS_AS(moe::io::read_token_frequencies(file, {.vocabulary = 20, .layers = 2, .experts = 3}), moe::Error);
  CHECK_THROWS_AS(moe::io::read_token_frequencies(file, {.vocabulary = 50, .layers = 2, .experts = 3, .rows = 3}),
                  moe::Error);
}

TEST_CASE("an id that stands twice is refused") {
  const TemporaryFolder folder;
  const std::vector<std::int32_t> tokens = {4, 4};
  const std::vector<std::uint16_t> counts(2 * 6);
  const std::vector<std::uint64_t> totals(6);
  const std::vector<moe::io::TensorData> tensors = {
      {"tokens", moe::io::Dtype::I32, {2}, std::as_bytes(std::span(tokens))},
      {"counts", moe::io::Dtype::U16, {2, 2, 3}, std::as_bytes(std::span(counts))},
      {"totals", moe::io::Dtype::U64, {2, 3}, std::as_bytes(std::span(totals))}};
  moe::io::write_safetensors(folder / "twice.safetensors", tensors);
  CHECK_THROWS_WITH(moe::io::read_token_frequencies(folder / "twice.safetensors", shape),
                    "moe::TokenFrequencies::restore: token ids: expected each once, found 4 twice");
}

// FirstLayerGate: its guesses are a linear map's, and one that was trained names what layer 0 picks for the next token.
#include <moe/predictors/first_gate.hpp>
#include <moe/predictors/routing_paths.hpp>
#include <moe/train/linear_gate.hpp>

#include "../layer_support.hpp"

using moe::FirstLayerGate;

TEST_CASE("guesses are the weights times the rows plus the bias, as the gate of a layer computes them") {
  oracle::Random random(1);
  const std::vector<float> weight = random.reals(5 * 37), bias = random.reals(5), last = random.reals(3 * 37);
  FirstLayerGate gate(5, 37, weight, bias);
  const moe::View<const float> guess = gate.guess(moe::Cpu{.threads = 1}, view(last, 37));
  std::vector<float> linear(15);
  moe::Frame<> f;
  gate.linear().logits(moe::Cpu{.threads = 1}, f, moe::GateCall<>{view(last, 37), view(linear, 5)});
  for (int s = 0; s < 3; ++s)
    for (int e = 0; e < 5; ++e) {
      double expected = static_cast<double>(bias[static_cast<std::size_t>(e)]), size = std::fabs(expected);
      for (int i = 0; i < 37; ++i) {
        const double term = static_cast<double>(weight[static_cast<std::size_t>(e * 37 + i)]) *
                            static_cast<double>(last[static_cast<std::size_t>(s * 37 + i)]);
        expected += term;
        size += std::fabs(term);
      }
      CHECK(std::fabs(static_cast<double>(guess.row(s)[e]) - expected) <= 40 * 0x1p-24 * size);
      CHECK(std::fabs(static_cast<double>(linear[static_cast<std::size_t>(s * 5 + e)]) - expected) <=
            40 * 0x1p-24 * size);
    }
}

TEST_CASE("after training on a layer's choices the guesses are its choices") {
  // The next token's input is the last output turned by a fixed matrix: what a linear gate can learn.
  oracle::Random random(2);
  const Problem<float> p({.tokens = 256, .hidden = 12, .ffn = 4, .experts = 6, .k = 2}, random);
  Table picks(256, 2);
  const std::vector<float> logits = gate_logits(p);
  for (int t = 0; t < 256; ++t) {
    const auto chosen = oracle::route({}, row_of(logits, 6, t), 2);
    for (int k = 0; k < 2; ++k) picks.at(t, k) = {chosen[static_cast<std::size_t>(k)].expert, 0.5f};
  }
  std::vector<float> last;  // the input with its columns turned and half of the sign flipped
  for (int t = 0; t < 256; ++t)
    for (int i = 0; i < 12; ++i) last.push_back(p.token(t)[(i + 5) % 12] * (i % 2 == 0 ? 1.0f : -1.0f));

  moe::LinearGateTrainer trainer(6, 12, {.rate = 0.05});
  for (int step = 0; step < 400; ++step) trainer.step(view(last, 12), picks.get());
  FirstLayerGate gate(6, 12, trainer.weight(), trainer.bias());
  const moe::RoutingPaths guessed = moe::top_paths(gate.guess(moe::Cpu{.threads = 1}, view(last, 12)), 6, 2);
  int found = 0;
  for (int t = 0; t < 256; ++t)
    for (int k = 0; k < 2; ++k) found += guessed.test(t, 0, picks.at(t, k).expert) ? 1 : 0;
  CHECK(found >= 480);  // of 512; at random a third
}

TEST_CASE("sizes that do not fit and numbers that are none are refused") {
  CHECK(message_of([] { FirstLayerGate(2, 3, std::vector<float>(5), std::vector<float>(2)); }) ==
        "moe::FirstLayerGate: weights: expected 6, found 5");
  CHECK(message_of([] { FirstLayerGate(1, 1, {0}, {INFINITY}); }) ==
        "moe::FirstLayerGate: numbers: expected finite ones, found inf");
  FirstLayerGate gate(2, 3, std::vector<float>(6), std::vector<float>(2));
  const std::vector<float> last(8);
  CHECK(message_of([&] { gate.guess(moe::Cpu{.threads = 1}, view(last, 4)); }) ==
        "moe::FirstLayerGate::guess: columns of the outputs: expected 3, found 4");
}

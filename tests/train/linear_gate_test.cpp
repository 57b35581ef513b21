// LinearGateTrainer: loss and first step by hand, what it can learn, the same gate on every run.
#include <moe/train/linear_gate.hpp>

#include "../problem.hpp"

using moe::LinearGateTrainer;

namespace {

/// Four rows of three inputs; two experts of four each, the last row one only.
struct Example {
  Example() : picks(4, 2) {
    const int chosen[4][2] = {{0, 1}, {1, 2}, {3, 0}, {2, -1}};
    for (int t = 0; t < 4; ++t)
      for (int k = 0; k < 2; ++k) picks.at(t, k) = {chosen[t][k], 0.5f};
  }
  std::vector<float> inputs = {1, 0, 0, /**/ 0, 1, 0, /**/ 0, 0, 1, /**/ 1, 1, 1};
  Table picks;
};

}  // namespace

TEST_CASE("the loss of the zero gate is E log 2 per row") {
  Example example;
  LinearGateTrainer trainer(4, 3);
  CHECK(trainer.step(view(std::as_const(example.inputs), 3), example.picks.get()) ==
        doctest::Approx(4 * std::log(2.0)));
}

TEST_CASE("Adam's first step moves every weight by the rate against the sign of its gradient") {
  Example example;
  LinearGateTrainer trainer(4, 3, {.rate = 0.125});
  trainer.step(view(std::as_const(example.inputs), 3), example.picks.get());
  // The gradient of weight (e, i) is the mean over rows of (1/2 - chosen) x_i.
  for (int e = 0; e < 4; ++e)
    for (int i = 0; i <= 3; ++i) {
      double gradient = 0;
      for (int t = 0; t < 4; ++t) {
        const bool chosen = example.picks.at(t, 0).expert == e || example.picks.at(t, 1).expert == e;
        gradient += (chosen ? -0.5 : 0.5) *
                    (i < 3 ? static_cast<double>(example.inputs[static_cast<std::size_t>(3 * t + i)]) : 1);
      }
      const float moved =
          i < 3 ? trainer.weight()[static_cast<std::size_t>(3 * e + i)] : trainer.bias()[static_cast<std::size_t>(e)];
      const double expected = gradient > 0 ? -0.125 : (gradient < 0 ? 0.125 : 0);
      CHECK(std::fabs(static_cast<double>(moved) - expected) < 1e-6);
    }
}

TEST_CASE("the loss falls to what a linear gate can reach, and the bits are the same on every run") {
  Example example;
  const auto trained = [&] {
    LinearGateTrainer trainer(4, 3, {.rate = 0.05});
    double loss = 0;
    for (int i = 0; i < 500; ++i) loss = trainer.step(view(std::as_const(example.inputs), 3), example.picks.get());
    return std::make_pair(loss, trainer.weight());
  };
  const auto first = trained();
  CHECK(first.first < 0.05);  // of 2.77: the four rows are separable
  CHECK(bits(first.second) == bits(trained().second));
}

TEST_CASE("logits far from zero cost no overflow") {
  LinearGateTrainer trainer(2, 1, {.rate = 1000});
  const std::vector<float> inputs = {1e6f};
  Table picks(1, 1);
  for (int i = 0; i < 4; ++i) {
    picks.at(0, 0) = {i % 2, 1};
    CHECK(std::isfinite(trainer.step(view(inputs, 1), picks.get())));
  }
}

TEST_CASE("inputs that are no numbers are refused and nothing is learned") {
  Example example;
  LinearGateTrainer trainer(4, 3);
  trainer.step(view(std::as_const(example.inputs), 3), example.picks.get());
  const std::vector<float> before = trainer.weight();
  example.inputs[7] = not_a_number;
  CHECK(message_of([&] { trainer.step(view(std::as_const(example.inputs), 3), example.picks.get()); }) ==
        "moe::LinearGateTrainer::step: inputs: expected finite numbers, found nan");
  CHECK(bits(trainer.weight()) == bits(before));
  CHECK(message_of([&] { trainer.step({}, example.picks.get()); }) ==
        "moe::LinearGateTrainer::step: rows of the inputs: expected at least 1, found 0");
}

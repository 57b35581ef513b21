// PathPredictor against its formula over whole sequences, summed in double.
#include <moe/predictors/path_predictor.hpp>

#include <cmath>
#include <tuple>

#include "../layer_support.hpp"

using moe::PathPredictor;
using moe::PathPredictorState;
using moe::PathPredictorWeights;
using moe::Row;

namespace {

PathPredictorWeights random_weights(oracle::Random& random) {
  PathPredictorWeights w{.vocabulary = 11, .width = 3, .window = 4, .hidden = 6, .layers = 3, .experts = 5};
  w.decays = {0.0f, 0.5f, 0.875f};
  w.embedding = random.reals(11 * 3);
  w.enter = random.reals(6 * 7 * 3);
  w.enter_bias = random.reals(6);
  w.leave = random.reals(15 * 6);
  w.leave_bias = random.reals(15);
  return w;
}

/// The logits for the last of these tokens.
std::vector<double> formula(const PathPredictorWeights& w, const std::vector<int>& tokens) {
  const auto x = [&](std::size_t t, int i) {
    return static_cast<double>(w.embedding[static_cast<std::size_t>(tokens[t] * w.width + i)]);
  };
  std::vector<double> inputs;
  for (std::size_t back = 0; back < static_cast<std::size_t>(w.window); ++back)
    for (int i = 0; i < w.width; ++i) inputs.push_back(back < tokens.size() ? x(tokens.size() - 1 - back, i) : 0);
  for (const float decay : w.decays)
    for (int i = 0; i < w.width; ++i) {
      double sum = 0;
      for (std::size_t t = 0; t < tokens.size(); ++t)
        sum += std::pow(static_cast<double>(decay), static_cast<double>(tokens.size() - 1 - t)) * x(t, i);
      inputs.push_back((1 - static_cast<double>(decay)) * sum);
    }
  const auto product = [](const std::vector<float>& m, const std::vector<float>& bias, const std::vector<double>& in) {
    std::vector<double> out;
    for (std::size_t r = 0; r < bias.size(); ++r) {
      double sum = static_cast<double>(bias[r]);
      for (std::size_t c = 0; c < in.size(); ++c) sum += static_cast<double>(m[r * in.size() + c]) * in[c];
      out.push_back(sum);
    }
    return out;
  };
  std::vector<double> hidden = product(w.enter, w.enter_bias, inputs);
  for (double& h : hidden) h /= 1 + std::exp(-h);
  return product(w.leave, w.leave_bias, hidden);
}

std::vector<float> advance(const PathPredictor& p, PathPredictorState& state, const std::vector<int>& tokens) {
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(p.outputs()), not_a_number);
  p.advance(moe::Cpu{.threads = 1}, state, {tokens.data(), static_cast<int>(tokens.size())}, view(logits, p.outputs()));
  return logits;
}

const std::vector<int> text = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 10, 0, 0, 7, 8};

}  // namespace

TEST_CASE("the logits of each token are those of the formula over all tokens so far") {
  oracle::Random random(1);
  const PathPredictorWeights w = random_weights(random);
  const PathPredictor predictor(w);
  PathPredictorState state = predictor.begin();
  const std::vector<float> logits = advance(predictor, state, text);
  for (std::size_t t = 0; t < text.size(); ++t) {
    const auto expected = formula(w, {text.begin(), text.begin() + static_cast<std::ptrdiff_t>(t) + 1});
    for (std::size_t i = 0; i < 15; ++i)
      CHECK(std::fabs(static_cast<double>(logits[t * 15 + i]) - expected[i]) < 2e-6 * (1 + std::fabs(expected[i])));
  }
}

TEST_CASE("a prompt at once and token by token gives the same bits") {
  oracle::Random random(2);
  const PathPredictor predictor(random_weights(random));
  PathPredictorState at_once = predictor.begin(), by_token = predictor.begin();
  std::vector<int> tokens;
  for (int repeat = 0; repeat < 5; ++repeat) tokens.insert(tokens.end(), text.begin(), text.end());
  const std::vector<float> logits = advance(predictor, at_once, tokens);
  for (std::size_t t = 0; t < tokens.size(); ++t)
    CHECK(bits(advance(predictor, by_token, {tokens[t]})) == bits(row_of(logits, 15, static_cast<int>(t))));
}

TEST_CASE("tokens that are only remembered count for those that follow") {
  oracle::Random random(3);
  const PathPredictor predictor(random_weights(random));
  PathPredictorState all = predictor.begin(), late = predictor.begin();
  const std::vector<float> logits = advance(predictor, all, text);
  predictor.advance(moe::Cpu{.threads = 1}, late, {text.data(), 14}, {});
  CHECK(bits(advance(predictor, late, {text[14]})) == bits(row_of(logits, 15, 14)));
}

TEST_CASE("a refused token leaves the state as it was") {
  oracle::Random random(4);
  const PathPredictor predictor(random_weights(random));
  PathPredictorState state = predictor.begin();
  advance(predictor, state, text);
  const PathPredictorState before = state;
  CHECK(message_of([&] {
          advance(predictor, state, {1, 11});
        }) == "moe::PathPredictor::advance: token id: expected 0 to 10, found 11");
  CHECK(state.inputs == before.inputs);
}

TEST_CASE("the logits of a layer are its columns, and a layer takes them as a guess") {
  oracle::Random random(5);
  const Problem<float> p({.tokens = 4, .experts = 5, .k = 2}, random);
  const std::vector<float> all = random.reals(4 * 15);
  const moe::View<const float> logits = moe::logits_of_layer(view(all, 15), 5, 2);
  std::vector<float> copy;
  for (int t = 0; t < 4; ++t)
    for (int e = 0; e < 5; ++e) copy.push_back(all[static_cast<std::size_t>(t * 15 + 10 + e)]);
  const auto layer = make_layer(p);
  CHECK(bits(forward(layer, p, {.logits = logits})) == bits(forward(layer, p, {.logits = view(copy, 5)})));
}

TEST_CASE("each predicted expert is named once, with the largest probability of the tokens that pick it") {
  // Two tokens, two layers, three experts.
  const std::vector<float> logits = {1, 2, 0, /**/ 3, 0, 1, /* next */ 4, 1, 0, /**/ 2, 0, 5};
  std::vector<std::tuple<int, int, float>> found;
  moe::for_each_predicted(view(logits, 6), 3, 1, [&](int l, int e, float p) { found.emplace_back(l, e, p); });
  const std::vector<std::tuple<int, int, float>> expected = {
      {0, 0, moe::sigmoid(4)}, {0, 1, moe::sigmoid(2)}, {1, 0, moe::sigmoid(3)}, {1, 2, moe::sigmoid(5)}};
  CHECK(found == expected);
}

TEST_CASE("weights that do not fit each other are refused with what was expected") {
  oracle::Random random(6);
  const PathPredictorWeights good = random_weights(random);
  const auto message = [&](auto&& change) {
    PathPredictorWeights w = good;
    change(w);
    return message_of([&] { PathPredictor{w}; });
  };
  CHECK(message([](PathPredictorWeights&) {}).empty());
  CHECK(message([](PathPredictorWeights& w) { w.window = 0; }) ==
        "moe::PathPredictor: window: expected at least 1, found 0");
  CHECK(message([](PathPredictorWeights& w) { w.decays.pop_back(); }) ==
        "moe::PathPredictor: enter: expected 108, found 126");
  CHECK(message([](PathPredictorWeights& w) { w.decays[0] = 1; }) ==
        "moe::PathPredictor: decay: expected in [0, 1), found 1.000000");
  CHECK(message([](PathPredictorWeights& w) { w.leave[3] = infinity; }) ==
        "moe::PathPredictor: leave: expected finite numbers, found inf");
  CHECK(message([](PathPredictorWeights& w) { w.width = 1 << 30; }) ==
        "moe::PathPredictor: window and decays: expected at most 1, found more");
  const PathPredictor predictor(good);
  PathPredictorState other;
  CHECK(message_of([&] { advance(predictor, other, text); }) ==
        "moe::PathPredictor::advance: inputs of the state: expected 21, found 0");
}

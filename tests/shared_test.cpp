// Shared experts and every way to mix them with the routed ones, against the oracle.
#include <moe/layer.hpp>
#include <moe/shared.hpp>
#include <vector>

#include "layer_support.hpp"

using moe::MoELayer;
using moe::TopK;
using oracle::Pick;
using oracle::Value;

namespace {

constexpr int tokens = 6, hidden = 37;

/// Five routed experts, of which two are picked, and shared ones of another width.
struct Block {
  explicit Block(int shared_experts = 1)
      : random(401),
        routed({.tokens = tokens, .hidden = hidden}, random),
        shared({.tokens = tokens, .hidden = hidden, .ffn = 50, .experts = shared_experts}, random) {}

  template <class Mixing>
  std::vector<float> forward(const Mixing& mixing, int rows = tokens, TopK router = {.experts = 5, .k = 2}) const {
    const MoELayer layer(moe::Linear(routed.gate_view()), router, routed.storage(), moe::Cpu{.threads = 2},
                         moe::ExpertForm<moe::SwiGlu>{}, moe::SharedExperts{shared.storage(), mixing});
    return ::forward(layer, routed, {}, rows);
  }
  /// factor * routed + sum of weight[s] * shared expert s. Sums in float round once more for each shared term.
  std::vector<Value> expected(int t, Value factor, const std::vector<Value>& weights) const {
    std::vector<Pick> picks = oracle::route({}, row_of(gate_logits(routed), 5, t), 2);
    for (Pick& p : picks) p.weight = p.weight * factor;
    std::vector<Pick> all;
    for (std::size_t s = 0; s < weights.size(); ++s) all.push_back({static_cast<int>(s), weights[s]});
    std::vector<Value> y = run_token(routed.layer, routed.token(t), picks);
    const std::vector<Value> added = run_token(shared.layer, routed.token(t), all);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double mass = std::fabs(y[i].v) + y[i].e;
      y[i] = oracle::rounded(y[i].v + added[i].v, y[i].e + added[i].e, 2);
      y[i].e += oracle::gamma(static_cast<int>(weights.size()) + 1) * mass;
    }
    return y;
  }
  Value product(const std::vector<float>& weights, int row, int t, float bias = 0) const {
    return oracle::dot(weights.data() + row * hidden, oracle::exact(routed.token(t), hidden)) +
           Value{static_cast<double>(bias)};
  }

  oracle::Random random;
  Problem<float> routed, shared;
};

Value sigmoid(Value x) { return oracle::over_logistic({1}, x); }
Value minus(Value a, Value b) { return a + Value{-b.v, b.e}; }

template <class Expected>
void agrees(const std::vector<float>& y, const Expected& expected) {
  for (int t = 0; t < tokens; ++t) CHECK(first_outside(view(y, hidden).row(t), expected(t)) == -1);
}

}  // namespace

TEST_CASE("shared experts are added to the routed ones, whatever the chunks") {
  const Block block(2);
  for (const int rows : {6, 4, 1})
    agrees(block.forward(moe::AddShared{}, rows), [&](int t) { return block.expected(t, {1}, {{1}, {1}}); });
}
TEST_CASE("routed and shared experts may be averaged") {
  const Block block;
  agrees(block.forward(moe::AverageShared{}), [&](int t) { return block.expected(t, {0.5}, {{0.5}}); });
}
TEST_CASE("a sigmoid gate weighs the shared expert") {
  Block block;
  const std::vector<float> gate = block.random.reals(hidden);
  agrees(block.forward(moe::SigmoidShared<>{view(gate, hidden)}),
         [&](int t) { return block.expected(t, {1}, {sigmoid(block.product(gate, 0, t))}); });
}
TEST_CASE("each shared expert may have a sigmoid gate of its own") {
  Block block(2);
  const std::vector<float> gate = block.random.reals(2 * hidden);
  agrees(block.forward(moe::SigmoidShared<>{view(gate, hidden)}), [&](int t) {
    return block.expected(t, {1}, {sigmoid(block.product(gate, 0, t)), sigmoid(block.product(gate, 1, t))});
  });
}
TEST_CASE("a learned pair of coefficients mixes routed and dense experts, as in PR-MoE") {
  Block block;
  const std::vector<float> w = block.random.reals(2 * hidden), bias{0.5f, -0.25f};
  agrees(block.forward(moe::LearnedMix<>{view(w, hidden), bias.data()}), [&](int t) {
    const Value c0 = block.product(w, 0, t, bias[0]), c1 = block.product(w, 1, t, bias[1]);
    return block.expected(t, sigmoid(minus(c0, c1)), {sigmoid(minus(c1, c0))});
  });
}
TEST_CASE("coefficients of zero give the mean of both branches, and infinite ones give one branch") {
  const Block block;
  const std::vector<float> zero(2 * hidden), routed_only{1e30f, -1e30f};
  agrees(block.forward(moe::LearnedMix<>{view(zero, hidden), nullptr}),
         [&](int t) { return block.expected(t, {0.5}, {{0.5}}); });
  agrees(block.forward(moe::LearnedMix<>{view(zero, hidden), routed_only.data()}),
         [&](int t) { return block.expected(t, {1}, {{0}}); });
}
TEST_CASE("weights of shared experts may come from the router, normalised with the picked ones") {
  Block block(2);
  const TopK router{
      .experts = 5, .k = 2, .score = moe::Score::sigmoid, .normalise = moe::Normalisation::by_sum(), .shared = 2};
  const std::vector<float> gate = block.random.reals(7 * hidden);
  const MoELayer layer(moe::Linear(view(gate, hidden)), router, block.routed.storage(), moe::Cpu{.threads = 1},
                       moe::ExpertForm<moe::SwiGlu>{},
                       moe::SharedExperts{block.shared.storage(), moe::RouterWeightedShared<TopK>{router}});
  const std::vector<float> y = forward(layer, block.routed);
  for (int t = 0; t < tokens; ++t) {
    std::vector<Value> scores;
    for (int e = 0; e < 7; ++e) scores.push_back(sigmoid(block.product(gate, e, t)));
    int first = 0, second = -1;
    for (int e = 1; e < 5; ++e)
      if (scores[static_cast<std::size_t>(e)].v > scores[static_cast<std::size_t>(first)].v) first = e;
    for (int e = 0; e < 5; ++e)
      if (e != first &&
          (second < 0 || scores[static_cast<std::size_t>(e)].v > scores[static_cast<std::size_t>(second)].v))
        second = e;
    const auto s = [&](int e) { return scores[static_cast<std::size_t>(e)]; };
    const Value total = s(first) + s(second) + s(5) + s(6);
    std::vector<Value> sum =
        run_token(block.routed.layer, block.routed.token(t), {{first, s(first) / total}, {second, s(second) / total}});
    const std::vector<Value> added =
        run_token(block.shared.layer, block.routed.token(t), {{0, s(5) / total}, {1, s(6) / total}});
    for (std::size_t i = 0; i < sum.size(); ++i) {
      const double mass = std::fabs(sum[i].v) + sum[i].e;
      sum[i] = oracle::rounded(sum[i].v + added[i].v, sum[i].e + added[i].e + oracle::gamma(4) * mass, 2);
    }
    CHECK(first_outside(view(y, hidden).row(t), sum) == -1);
  }
}
TEST_CASE("router-weighted shared experts refuse a call that brings a table") {
  const Block block(2);
  const TopK router{.experts = 5, .k = 2, .score = moe::Score::sigmoid, .shared = 2};
  const std::vector<float> gate(7 * hidden);
  const MoELayer layer(moe::Linear(view(gate, hidden)), router, block.routed.storage(), moe::Cpu{.threads = 1},
                       moe::ExpertForm<moe::SwiGlu>{},
                       moe::SharedExperts{block.shared.storage(), moe::RouterWeightedShared<TopK>{router}});
  Table table(tokens, 2);
  const moe::RoutingTable<> given = table.get();
  CHECK(message_of([&] { forward(layer, block.routed, {.table = given}); }) ==
        "moe::RouterWeightedShared: the call: expected logits, by the gate or in the call, found a table");
}
TEST_CASE("constant experts mix the input with a learned vector") {
  Block block;
  const std::vector<float> gate = block.random.reals(2 * hidden), value = block.random.reals(hidden);
  const MoELayer layer(moe::NoGate{}, TopK{.experts = 5, .k = 2, .nulls = 1}, block.routed.storage(),
                       moe::Cpu{.threads = 1}, moe::ExpertForm<moe::SwiGlu>{},
                       moe::ConstantExperts<>{5, view(gate, hidden), view(value, hidden)});
  Table table(tokens, 2);
  for (int t = 0; t < tokens; ++t) {
    table.at(t, 0) = {t % 5, 0.75f};
    table.at(t, 1) = {5, 0.25f};
  }
  const moe::RoutingTable<> given = table.get();
  const std::vector<float> y = forward(layer, block.routed, {.table = given});
  for (int t = 0; t < tokens; ++t) {
    std::vector<Value> sum = run_token(block.routed.layer, block.routed.token(t), {{t % 5, {0.75}}});
    const Value a0 = sigmoid(minus(block.product(gate, 0, t), block.product(gate, 1, t)));
    for (std::size_t i = 0; i < sum.size(); ++i) {
      const Value x{static_cast<double>(block.routed.token(t)[i])}, v{static_cast<double>(value[i])};
      sum[i] = sum[i] + Value{0.25} * (a0 * x + minus({1}, a0) * v);
    }
    CHECK(first_outside(view(y, hidden).row(t), sum) == -1);
  }
}
TEST_CASE("shared experts of another kind of activation than their weights are refused") {
  Block block;
  const Problem<float> ungated({.hidden = hidden, .experts = 1, .gated = false}, block.random);
  CHECK(message_of([&] {
          MoELayer(moe::Linear(block.routed.gate_view()), TopK{.experts = 5, .k = 2}, block.routed.storage(),
                   moe::Cpu{.threads = 1}, moe::ExpertForm<moe::SwiGlu>{}, moe::SharedExperts{ungated.storage()});
        }) == "moe::MoELayer: gated shared experts (1 yes, 0 no): expected 1, found 0");
}

#include <doctest/doctest.h>

#include <moe/offline/aggregate.hpp>
#include <moe/routers/remap.hpp>
#include <moe/storage/concat.hpp>

#include "layer_support.hpp"

namespace {

const Setup setup{.tokens = 19, .hidden = 37, .ffn = 21, .experts = 5, .k = 1};

/// Two problems' layers as one of 2E experts.
template <class Router>
auto both_layers(const Problem<moe::bf16>& a, const Problem<moe::bf16>& b, const std::vector<float>& gate,
                 const Router& router) {
  return moe::MoELayer(moe::Linear(view(gate, setup.hidden)), router,
                       moe::Resident{moe::ConcatSource{a.source(), b.source()}}, moe::Cpu{});
}
moe::TopK top(int experts, int k) { return {.experts = experts, .k = k, .score = moe::Score::softmax}; }

}  // namespace

TEST_CASE("logits of the merged gate are those of the first, then those of the second") {
  oracle::Random random(1);
  CAPTURE(random.seed);
  const Problem<moe::bf16> a(setup, random), b(setup, random);
  const std::vector<float> gate = moe::concatenate_rows(a.gate_view(), b.gate_view());
  const auto logits = [&](moe::View<const float> weights) {
    std::vector<float> out(static_cast<std::size_t>(setup.tokens * weights.rows));
    moe::Frame<> f;
    moe::Cpu{.threads = 1}.linear(f, a.x_view(), weights, nullptr, view(out, weights.rows));
    return out;
  };
  const std::vector<float> first = logits(a.gate_view()), second = logits(b.gate_view()),
                           both = logits(view(gate, setup.hidden));
  for (int t = 0; t < setup.tokens; ++t) {
    std::vector<float> expected = row_of(first, setup.experts, t);
    const std::vector<float> rest = row_of(second, setup.experts, t);
    expected.insert(expected.end(), rest.begin(), rest.end());
    CHECK(bits(row_of(both, 2 * setup.experts, t)) == bits(expected));
  }
}

TEST_CASE("a layer twice, top-1 by softmax, gives half of its output") {
  oracle::Random random(2);
  CAPTURE(random.seed);
  const Problem<moe::bf16> a(setup, random);
  const std::vector<float> gate = moe::concatenate_rows(a.gate_view(), a.gate_view());
  const std::vector<float> y = forward(both_layers(a, a, gate, top(2 * setup.experts, 1)), a);
  std::vector<float> logits;
  const std::vector<float> half = gate_logits(a);
  for (int t = 0; t < setup.tokens; ++t)
    for (int copy = 0; copy < 2; ++copy) {
      const std::vector<float> r = row_of(half, setup.experts, t);
      logits.insert(logits.end(), r.begin(), r.end());
    }
  for (int t = 0; t < setup.tokens; ++t) {
    // The copies' exact weight is half of the original's; the bound of ten terms is the oracle's.
    std::vector<oracle::Pick> picks = oracle::route({oracle::Score::softmax}, row_of(logits, 2 * setup.experts, t), 1);
    const auto alone = oracle::route({oracle::Score::softmax}, row_of(half, setup.experts, t), 1);
    CHECK(picks[0].expert == alone[0].expert);
    picks[0].weight.v = alone[0].weight.v / 2;
    CHECK(first_outside(view(y, setup.hidden).row(t), run_token(a.layer, a.token(t), picks)) == -1);
  }
}

TEST_CASE("a layer twice, rescaled to the chosen half, is the layer, bit for bit") {
  oracle::Random random(3);
  CAPTURE(random.seed);
  const Problem<moe::bf16> a(setup, random);
  const std::vector<float> gate = moe::concatenate_rows(a.gate_view(), a.gate_view());
  for (const int k : {1, 2, 4}) {
    const moe::PartRouter<moe::TopK> router{top(2 * setup.experts, k), setup.experts};
    const moe::MoELayer one(moe::Linear(a.gate_view()), top(setup.experts, k), a.storage(), moe::Cpu{});
    CHECK(bits(forward(both_layers(a, a, gate, router), a)) == bits(forward(one, a)));
  }
}

TEST_CASE("of two layers, rescaled, each row gets the output of the one that its first choice is in") {
  oracle::Random random(4);
  CAPTURE(random.seed);
  const Problem<moe::bf16> a(setup, random), b(setup, random);
  const std::vector<float> gate = moe::concatenate_rows(a.gate_view(), b.gate_view());
  const moe::PartRouter<moe::TopK> router{top(2 * setup.experts, 2), setup.experts};
  const std::vector<float> y = forward(both_layers(a, b, gate, router), a);
  const std::vector<float> of_a =
      forward(moe::MoELayer(moe::Linear(a.gate_view()), top(setup.experts, 2), a.storage(), moe::Cpu{}), a);
  const std::vector<float> of_b =
      forward(moe::MoELayer(moe::Linear(b.gate_view()), top(setup.experts, 2), b.storage(), moe::Cpu{}), a);
  int from_b = 0;
  for (int t = 0; t < setup.tokens; ++t) {
    double best[2] = {-HUGE_VAL, -HUGE_VAL};
    for (int e = 0; e < 2 * setup.experts; ++e) {
      double logit = 0;
      for (int i = 0; i < setup.hidden; ++i)
        logit += static_cast<double>(view(gate, setup.hidden).row(e)[i]) * static_cast<double>(a.token(t)[i]);
      best[e / setup.experts] = std::max(best[e / setup.experts], logit);
    }
    const bool second = best[1] > best[0];
    from_b += second ? 1 : 0;
    CHECK(bits(row_of(y, setup.hidden, t)) == bits(row_of(second ? of_b : of_a, setup.hidden, t)));
  }
  CHECK(from_b > 0);
  CHECK(from_b < setup.tokens);
}

TEST_CASE("experts of two resident layers, through a view, give the bits of experts that were read together") {
  oracle::Random random(5);
  CAPTURE(random.seed);
  const Problem<moe::bf16> a(setup, random), b(setup, random);
  const std::vector<float> gate = moe::concatenate_rows(a.gate_view(), b.gate_view());
  const auto first = a.storage(), second = b.storage();
  const moe::MoELayer layer(moe::Linear(view(gate, setup.hidden)), top(2 * setup.experts, 3),
                            moe::ConcatStorage{first, second}, moe::Cpu{});
  CHECK(bits(forward(layer, a)) == bits(forward(both_layers(a, b, gate, top(2 * setup.experts, 3)), a)));
}

TEST_CASE("dense weights are averaged with one rounding, and equal ones stay as they are") {
  oracle::Random random(6);
  CAPTURE(random.seed);
  const std::vector<float> a = random.reals(1000, 8), b = random.reals(1000, 8);
  const std::vector<float> mean = moe::average(a, b);
  for (std::size_t i = 0; i < a.size(); ++i)
    CHECK(static_cast<double>(mean[i]) == oracle::to_f32((static_cast<double>(a[i]) + static_cast<double>(b[i])) / 2));
  CHECK(bits(moe::average(a, a)) == bits(a));
  const std::vector<float> huge = {3e38f, -3e38f};
  CHECK(moe::average(huge, huge) == huge);
}

TEST_CASE("rows are gathered in the order of the list") {
  const std::vector<float> gate = {0, 1, 10, 11, 20, 21, 30, 31};
  const std::vector<moe::ExpertId> kept = {1, 3};
  CHECK(moe::gather_rows(view(gate, 2), kept) == std::vector<float>{10, 11, 30, 31});
}

TEST_CASE("gates and weights of different sizes are refused") {
  const std::vector<float> four(4), six(6);
  CHECK(message_of([&] { moe::concatenate_rows(view(four, 2), view(six, 3)); }) ==
        "moe::concatenate_rows: columns of the second gate: expected 2, found 3");
  CHECK(message_of([&] { moe::average(four, six); }) ==
        "moe::average: weights of the second checkpoint: expected 4, found 6");
}

#include <doctest/doctest.h>

#include <bit>
#include <moe/offline/naee.hpp>

#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

const Setup setup{.tokens = 17, .hidden = 12, .ffn = 9, .experts = 5, .k = 2};

/// ||Z - MoE_subset(X)||_F by the oracle, with z that of all experts.
double distance(const Problem<float>& p, const std::vector<float>& logits, const std::vector<float>& z, unsigned set) {
  std::vector<bool> allowed;
  for (int e = 0; e < setup.experts; ++e) allowed.push_back((set >> e & 1u) != 0);
  double sum = 0;
  for (int t = 0; t < setup.tokens; ++t) {
    const auto picks = oracle::route({}, row_of(logits, setup.experts, t), setup.k, allowed);
    const std::vector<oracle::Value> y = run_token(p.layer, p.token(t), picks);
    for (int i = 0; i < setup.hidden; ++i)
      sum += std::pow(y[static_cast<std::size_t>(i)].v - static_cast<double>(view(z, setup.hidden).row(t)[i]), 2);
  }
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("the best subset has the smallest loss of all, the first among equals") {
  oracle::Random random(1);
  CAPTURE(random.seed);
  for (int i = 0; i < 100; ++i) {
    const int experts = random.between(1, 8), keep = random.between(1, experts);
    std::vector<int> worth;
    for (int e = 0; e < experts; ++e) worth.push_back(random.below(4));
    const auto loss = [&](const std::vector<moe::ExpertId>& kept) {
      int value = 100;
      for (const moe::ExpertId e : kept) value -= worth[static_cast<std::size_t>(e)];
      return static_cast<double>(value);
    };
    int tried = 0;
    const moe::BestSubset found = moe::best_subset(experts, keep, [&](const std::vector<moe::ExpertId>& kept) {
      ++tried;
      return loss(kept);
    });
    std::vector<moe::ExpertId> expected;
    int subsets = 0;
    for (unsigned set = 0; set < 1u << experts; ++set) {
      if (std::popcount(set) != keep) continue;
      ++subsets;
      std::vector<moe::ExpertId> kept;
      for (int e = 0; e < experts; ++e)
        if ((set >> e & 1u) != 0) kept.push_back(e);
      if (expected.empty() || loss(kept) < loss(expected) || (loss(kept) == loss(expected) && kept < expected))
        expected = kept;
    }
    CHECK(tried == subsets);
    CHECK(found.kept == expected);
    CHECK(found.loss == loss(expected));
  }
}

TEST_CASE("the subset that NAEE keeps is the oracle's, for every size") {
  oracle::Random random(2);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  const std::vector<float> logits = gate_logits(p);
  const auto layer = make_layer(p);
  const std::vector<float> z = forward(layer, p);
  for (int keep = 1; keep <= setup.experts; ++keep) {
    CAPTURE(keep);
    moe::Call<> call;
    call.x = p.x_view();
    const moe::BestSubset found = moe::naee_exhaustive(layer, call, view(z, setup.hidden), keep);
    double best = HUGE_VAL;
    unsigned expected = 0;
    for (unsigned set = 0; set < 1u << setup.experts; ++set)
      if (std::popcount(set) == keep)
        if (const double d = distance(p, logits, z, set); d < best) {
          best = d;
          expected = set;
        }
    unsigned kept = 0;
    for (const moe::ExpertId e : found.kept) kept |= 1u << e;
    CHECK(kept == expected);
    if (keep < setup.experts) CHECK(found.loss == doctest::Approx(best).epsilon(1e-5));
    if (keep == setup.experts) CHECK(found.loss == 0);
  }
}

TEST_CASE("an expert that adds nothing goes first") {
  oracle::Random random(3);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  // The gate never wants expert 3.
  std::vector<float> bias(static_cast<std::size_t>(setup.experts));
  bias[3] = -1e6f;
  const moe::MoELayer layer(moe::Linear(p.gate_view(), bias.data()), moe::TopK{.experts = setup.experts, .k = 2},
                            p.storage(), moe::Cpu{});
  const std::vector<float> z = forward(layer, p);
  moe::Call<> call;
  call.x = p.x_view();
  const moe::BestSubset found = moe::naee_exhaustive(layer, call, view(z, setup.hidden), 4);
  CHECK(found.kept == std::vector<moe::ExpertId>{0, 1, 2, 4});
  CHECK(found.loss == 0);
}

TEST_CASE("identities stay allowed while experts are tried") {
  oracle::Random random(4);
  CAPTURE(random.seed);
  const Problem<float> p(setup, random);
  const moe::TopK router{.experts = setup.experts, .k = 2, .score = moe::Score::softmax, .identities = 1};
  std::vector<float> gate = p.gate;
  gate.resize(gate.size() + static_cast<std::size_t>(setup.hidden));  // logits of 0
  const moe::MoELayer layer(moe::Linear(view(std::as_const(gate), setup.hidden)), router, p.storage(), moe::Cpu{});
  const std::vector<float> z = forward(layer, p);
  moe::Call<> call;
  call.x = p.x_view();
  CHECK(moe::naee_exhaustive(layer, call, view(z, setup.hidden), setup.experts).loss == 0);
}

TEST_CASE("too many subsets, and outputs of another shape, are refused") {
  const auto never = [](const std::vector<moe::ExpertId>&) { return 0.0; };
  CHECK(message_of([&] { moe::best_subset(64, 32, never); }) ==
        "moe::best_subset: subsets to try: expected at most 1000000, found more");
  CHECK(message_of([&] { moe::best_subset(4, 0, never); }) ==
        "moe::best_subset: number to keep: expected 1 to 4, found 0");
  CHECK(message_of([&] { moe::best_subset(4, 5, never); }) ==
        "moe::best_subset: number to keep: expected 1 to 4, found 5");
  oracle::Random random(5);
  const Problem<float> p(setup, random);
  moe::Call<> call;
  call.x = p.x_view();
  CHECK(message_of([&] { moe::naee_exhaustive(make_layer(p), call, p.x_view().slice(0, 3), 2); }) ==
        "moe::naee_exhaustive: rows of the outputs: expected 17, found 3");
}

#include <doctest/doctest.h>

#include <moe/offline/criteria.hpp>
#include <moe/offline/merge.hpp>
#include <moe/routers/remap.hpp>

#include "layer_support.hpp"

namespace {

const Setup gated{.tokens = 13, .hidden = 19, .ffn = 14, .experts = 5, .k = 2};

std::vector<int> shuffled(oracle::Random& random, int n) {
  std::vector<int> p(static_cast<std::size_t>(n));
  std::iota(p.begin(), p.end(), 0);
  std::shuffle(p.begin(), p.end(), random.engine);
  return p;
}

/// The same expert with its hidden units in another order.
struct Permuted {
  Permuted(const moe::ExpertShape& s, const moe::ExpertMatrices& m, const std::vector<int>& p) {
    for (const int unit : p)
      for (int k = 0; k < s.hidden; ++k) {
        if (s.gated) gate.push_back(m.gate.at(unit, k));
        up.push_back(m.up.at(unit, k));
      }
    for (int k = 0; k < s.hidden; ++k)
      for (const int unit : p) down.push_back(m.down.at(k, unit));
    if (s.biased)
      for (const int unit : p) {
        if (s.gated) gate_bias.push_back(m.gate_bias[unit]);
        up_bias.push_back(m.up_bias[unit]);
      }
    if (s.gated) matrices.gate = moe::Matrix(gate.data(), s.ffn, s.hidden);
    matrices.up = moe::Matrix(up.data(), s.ffn, s.hidden);
    matrices.down = moe::Matrix(down.data(), s.hidden, s.ffn);
    if (s.gated) matrices.gate_bias = gate_bias.data();
    matrices.up_bias = up_bias.data();
    matrices.down_bias = m.down_bias;
  }
  std::vector<float> gate, up, down, gate_bias, up_bias;
  moe::ExpertMatrices matrices;
};

bool same(const moe::Matrix& a, const moe::Matrix& b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (int r = 0; r < a.rows; ++r)
    for (int c = 0; c < a.cols; ++c)
      if (a.at(r, c) != b.at(r, c)) return false;
  return true;
}

}  // namespace

TEST_CASE("the assignment is the best of all permutations") {
  oracle::Random random(1);
  CAPTURE(random.seed);
  for (int i = 0; i < 200; ++i) {
    const int n = random.between(1, 6);
    std::vector<double> value;
    for (int j = 0; j < n * n; ++j)
      value.push_back(i % 2 == 0 ? static_cast<double>(random.real(4)) : static_cast<double>(random.between(-2, 2)));
    const auto total = [&](const std::vector<int>& p) {
      double sum = 0;
      for (int r = 0; r < n; ++r) sum += value[static_cast<std::size_t>(r * n + p[static_cast<std::size_t>(r)])];
      return sum;
    };
    std::vector<int> p(static_cast<std::size_t>(n));
    std::iota(p.begin(), p.end(), 0);
    double best = total(p);
    while (std::next_permutation(p.begin(), p.end())) best = std::max(best, total(p));
    const std::vector<int> found = moe::best_assignment(value, n);
    CHECK(std::is_permutation(found.begin(), found.end(), p.begin(), p.end()));
    CHECK(total(found) == doctest::Approx(best).epsilon(1e-12));
  }
  CHECK(moe::best_assignment({}, 0).empty());
}

TEST_CASE("hidden units of a permuted copy are found again") {
  oracle::Random random(2);
  CAPTURE(random.seed);
  for (const bool is_gated : {true, false}) {
    Setup setup = gated;
    setup.gated = is_gated;
    const Problem<float> p(setup, random);
    for (int i = 0; i < 10; ++i) {
      const std::vector<int> order = shuffled(random, setup.ffn);
      const Permuted copy(p.shape(), p.matrices()[0], order);
      const std::vector<int> found = moe::align_hidden_units(p.shape(), p.matrices()[0], copy.matrices);
      for (int u = 0; u < setup.ffn; ++u)
        CHECK(order[static_cast<std::size_t>(found[static_cast<std::size_t>(u)])] == u);
    }
  }
}

TEST_CASE("hidden units are told apart by whichever of their weights differ") {
  oracle::Random random(8);
  CAPTURE(random.seed);
  const moe::ExpertShape s{19, 14};
  const std::vector<float> one = random.reals(s.hidden), all = random.reals(s.hidden * s.ffn);
  const auto equal_rows = moe::Matrix(one.data(), moe::ElementType::float32, s.ffn, s.hidden, 0, 1);
  const auto own_rows = moe::Matrix(all.data(), s.ffn, s.hidden);
  for (int differs = 0; differs < 3; ++differs) {
    CAPTURE(differs);
    moe::ExpertMatrices m;
    m.gate = differs == 0 ? own_rows : equal_rows;
    m.up = differs == 1 ? own_rows : equal_rows;
    m.down = (differs == 2 ? own_rows : equal_rows).transposed();
    const std::vector<int> order = shuffled(random, s.ffn);
    const std::vector<int> found = moe::align_hidden_units(s, m, Permuted(s, m, order).matrices);
    for (int u = 0; u < s.ffn; ++u) CHECK(order[static_cast<std::size_t>(found[static_cast<std::size_t>(u)])] == u);
  }
}

TEST_CASE("an expert merged with a permuted copy of itself is itself") {
  oracle::Random random(3);
  CAPTURE(random.seed);
  for (const bool is_gated : {true, false})
    for (const bool is_biased : {true, false}) {
      Setup setup = gated;
      setup.gated = is_gated;
      setup.biased = is_biased;
      const Problem<float> p(setup, random);
      const moe::ExpertMatrices& original = p.matrices()[0];
      const Permuted copy(p.shape(), original, shuffled(random, setup.ffn));
      const std::vector<moe::ExpertMatrices> two = {original, copy.matrices};
      const std::vector<moe::ExpertId> to = {0, 0};
      const std::vector<double> weights = {3, 1};  // shares of 3/4 and 1/4: the sums are exact
      const moe::MergedExperts merged = moe::merge(p.shape(), two, to, 1, weights);
      REQUIRE(merged.matrices.size() == 1);
      if (is_gated) CHECK(same(merged.matrices[0].gate, original.gate));
      CHECK(same(merged.matrices[0].up, original.up));
      CHECK(same(merged.matrices[0].down, original.down));
      if (is_biased) {
        CHECK(std::equal(original.up_bias, original.up_bias + setup.ffn, merged.matrices[0].up_bias));
        CHECK(std::equal(original.down_bias, original.down_bias + setup.hidden, merged.matrices[0].down_bias));
        if (is_gated)
          CHECK(std::equal(original.gate_bias, original.gate_bias + setup.ffn, merged.matrices[0].gate_bias));
      }
      const moe::MergedExperts in_order = moe::merge(p.shape(), two, to, 1, weights, moe::HiddenUnits::in_order);
      CHECK_FALSE(same(in_order.matrices[0].up, original.up));
    }
}

TEST_CASE("a layer whose experts each come twice, once permuted, is the merged layer with weights summed") {
  oracle::Random random(4);
  CAPTURE(random.seed);
  const Problem<float> p(gated, random);
  std::vector<Permuted> copies;
  std::vector<moe::ExpertMatrices> all;
  std::vector<moe::ExpertId> to;
  for (int e = 0; e < gated.experts; ++e) {
    copies.emplace_back(p.shape(), p.matrices()[static_cast<std::size_t>(e)], shuffled(random, gated.ffn));
    all.push_back(p.matrices()[static_cast<std::size_t>(e)]);
    all.push_back(copies.back().matrices);
    to.insert(to.end(), 2, e);
  }
  const std::vector<double> weights(all.size(), 1.0);
  const moe::MergedExperts merged = moe::merge(p.shape(), all, to, gated.experts, weights);

  const std::vector<float> gate = random.reals(2 * gated.experts * gated.hidden);
  const moe::TopK inner{.experts = 2 * gated.experts, .k = 4, .score = moe::Score::softmax};
  const moe::RemapRouter<moe::TopK> router{inner, {to.data(), static_cast<int>(to.size())}, gated.experts};
  const moe::MoELayer layer(moe::Linear(view(gate, gated.hidden)), router,
                            moe::Resident{moe::Packed<float>{p.shape(), merged.matrices}}, moe::Cpu{});
  const std::vector<float> y = forward(layer, p);
  std::vector<float> logits(static_cast<std::size_t>(gated.tokens * 2 * gated.experts));
  moe::Frame<> f;
  moe::Cpu{.threads = 1}.linear(f, p.x_view(), view(gate, gated.hidden), nullptr, view(logits, 2 * gated.experts));
  for (int t = 0; t < gated.tokens; ++t) {
    // The oracle runs both copies apart; its bound for four terms covers sums of two weights.
    auto picks = oracle::route({oracle::Score::softmax}, row_of(logits, 2 * gated.experts, t), 4);
    for (oracle::Pick& pick : picks) {
      pick.expert /= 2;
      pick.weight.e += oracle::unit * 2;  // a rounding of the sum of two weights below 1
    }
    CHECK(first_outside(view(y, gated.hidden).row(t), run_token(p.layer, p.token(t), picks)) == -1);
  }
}

TEST_CASE("matrices are averaged by the weights of their group, and experts may be left out") {
  oracle::Random random(5);
  CAPTURE(random.seed);
  const Problem<moe::bf16> p(gated, random);
  const std::vector<moe::ExpertId> to = {1, 0, 1, -1, 1};
  const std::vector<double> weights = {2, 5, 0, 9, 1};
  const moe::MergedExperts merged = moe::merge(p.shape(), p.matrices(), to, 2, weights, moe::HiddenUnits::in_order);
  REQUIRE(merged.matrices.size() == 2);
  CHECK(same(merged.matrices[0].up, p.matrices()[1].up));
  const auto expected = [&](const moe::Matrix& a, const moe::Matrix& b, int r, int c) {
    return (2 * static_cast<double>(a.at(r, c)) + static_cast<double>(b.at(r, c))) / 3;
  };
  const moe::ExpertMatrices &a = p.matrices()[0], &b = p.matrices()[4], &m = merged.matrices[1];
  for (int r = 0; r < gated.ffn; ++r)
    for (int c = 0; c < gated.hidden; ++c) {
      CHECK(std::fabs(static_cast<double>(m.gate.at(r, c)) - expected(a.gate, b.gate, r, c)) <= 2 * oracle::unit);
      CHECK(std::fabs(static_cast<double>(m.up.at(r, c)) - expected(a.up, b.up, r, c)) <= 2 * oracle::unit);
      CHECK(std::fabs(static_cast<double>(m.down.at(c, r)) - expected(a.down, b.down, c, r)) <= 2 * oracle::unit);
    }
}

TEST_CASE("a group whose weights are all zero is averaged in equal shares") {
  oracle::Random random(6);
  CAPTURE(random.seed);
  const Problem<float> p(gated, random);
  const std::vector<moe::ExpertId> to = {0, 0, 0, 0, 0};
  const std::vector<double> zero(5), one(5, 1.0);
  const moe::MergedExperts a = moe::merge(p.shape(), p.matrices(), to, 1, zero);
  const moe::MergedExperts b = moe::merge(p.shape(), p.matrices(), to, 1, one);
  CHECK(a.memory == b.memory);
}

TEST_CASE("experts join the centre whose features point the same way") {
  const std::vector<float> features = {1, 0, 0, 1, 10, 1, -1, 5, 0, 0, 0.1f, 3};
  const std::vector<moe::ExpertId> centres = {0, 1};
  CHECK(moe::group_by_nearest(view(features, 2), centres) == std::vector<moe::ExpertId>{0, 1, 0, 1, 0, 1});
  const std::vector<moe::ExpertId> equal = {2, 0};  // expert 0 is a centre, though it is more like expert 2's group
  CHECK(moe::group_by_nearest(view(features, 2), equal)[0] == 1);
}

TEST_CASE("groups without members, wrong entries and negative weights are refused") {
  oracle::Random random(7);
  const Problem<float> p(gated, random);
  const auto message = [&](const std::vector<moe::ExpertId>& to, int groups, const std::vector<double>& weights) {
    return message_of([&] { moe::merge(p.shape(), p.matrices(), to, groups, weights); });
  };
  const std::vector<double> one(5, 1.0);
  CHECK(message({0, 0, 0, 0}, 1, one) == "moe::merge: entries of `to`: expected 5, found 4");
  CHECK(message({0, 0, 0, 0, 0}, 1, {1.0}) == "moe::merge: weights: expected 5, found 1");
  CHECK(message({0, 0, 0, 0, 1}, 1, one) == "moe::merge: an entry of `to`: expected -1 to 0, found 1");
  CHECK(message({0, 0, 0, 0, 2}, 3, one) == "moe::merge: experts of group 1: expected at least 1, found 0");
  CHECK(message({0, 0, 0, 0, 0}, 1, {1, 1, -1, 1, 1}) ==
        "moe::merge: a weight: expected finite, 0 or more, found -1.000000");
}

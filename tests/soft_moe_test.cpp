// SoftMoE against the dense formula of the paper in double precision, with bounds.
#include <moe/soft_moe.hpp>

#include "layer_support.hpp"
#include "test_policies.hpp"

using moe::SoftMoE;
using oracle::Value;

namespace {

using Values = std::vector<Value>;

Value square_root(Value v) { return oracle::rounded(std::sqrt(v.v), v.v > 0 ? v.e / std::sqrt(v.v) : 0); }

/// A sum of products of computed numbers, in any order.
Value dot(const Values& a, const Values& b) {
  Value sum{};
  double mass = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum.v += a[i].v * b[i].v;
    const double spread = std::fabs(a[i].v) * b[i].e + std::fabs(b[i].v) * a[i].e + a[i].e * b[i].e;
    sum.e += spread;
    mass += std::fabs(a[i].v * b[i].v) + spread;
  }
  const int n = static_cast<int>(a.size()) + 2;
  return {sum.v, sum.e + oracle::gamma(n) * mass + n * oracle::spacing};
}
Values normalised(const float* x, int n) {
  Values out = oracle::exact(x, n);
  const Value divisor = square_root(dot(out, out)) + Value{static_cast<double>(1e-6f)};
  const Value inverse = Value{1} / divisor;
  for (Value& v : out) v = v * inverse;
  return out;
}
Values softmax(Values row) {
  double best = -HUGE_VAL, mass = 0;
  for (const Value& v : row) best = std::max(best, v.v);
  Value sum{};
  for (Value& v : row) {  // the shift is a computed number too, but the same one above and below
    v = oracle::exp(oracle::rounded(v.v - best, v.e));
    sum.v += v.v;
    sum.e += v.e;
    mass += v.v + v.e;
  }
  sum.e += oracle::gamma(static_cast<int>(row.size())) * mass;
  for (Value& v : row) v = v / sum;
  return row;
}
std::vector<Values> transposed(const std::vector<Values>& m) {
  std::vector<Values> out(m[0].size());
  for (const Values& row : m)
    for (std::size_t i = 0; i < row.size(); ++i) out[i].push_back(row[i]);
  return out;
}
std::vector<Values> product(const std::vector<Values>& a, const std::vector<Values>& b) {  // a b
  std::vector<Values> out;
  const std::vector<Values> columns = transposed(b);
  for (const Values& row : a) {
    out.emplace_back();
    for (const Values& column : columns) out.back().push_back(dot(row, column));
  }
  return out;
}

struct Soft {
  Setup setup;
  int per_expert;
  float scale;
  oracle::Random random{800};
  Problem<float> p{setup, random};
  std::vector<float> phi = random.reals(setup.experts * per_expert * setup.hidden);

  auto make(int threads = 1) const {
    return SoftMoE(
        moe::MoELayer(moe::NoGate{}, moe::TopK{.experts = setup.experts}, p.storage(), moe::Cpu{.threads = threads}),
        view(phi, setup.hidden), scale);
  }
  std::vector<float> run(int threads = 1) const {
    const auto soft = make(threads);
    auto ws = soft.workspace(setup.tokens);
    std::vector<float> y(p.x.size(), not_a_number);
    soft.forward(p.x_view(), view(y, setup.hidden), ws);
    return y;
  }
  std::vector<Values> expected() const {
    std::vector<Values> x, logits;
    for (int t = 0; t < setup.tokens; ++t) {
      x.push_back(oracle::exact(p.token(t), setup.hidden));
      const Values here = normalised(p.token(t), setup.hidden);
      logits.emplace_back();
      for (int s = 0; s < setup.experts * per_expert; ++s) {
        Values slot = normalised(phi.data() + s * setup.hidden, setup.hidden);
        for (Value& v : slot) v = v * Value{static_cast<double>(scale)};
        logits.back().push_back(dot(here, slot));
      }
    }
    std::vector<Values> dispatch = transposed(logits), combine = logits;
    for (Values& row : dispatch) row = softmax(row);
    for (Values& row : combine) row = softmax(row);
    std::vector<Values> out = product(dispatch, x);
    for (std::size_t s = 0; s < out.size(); ++s)
      out[s] = run_expert(p.layer, p.layer.experts[s / static_cast<std::size_t>(per_expert)], out[s], {1});
    return product(combine, out);
  }
  int wrong_rows(const std::vector<float>& y) const {
    const std::vector<Values> rows = expected();
    int wrong = 0;
    for (int t = 0; t < setup.tokens; ++t)
      wrong += first_outside(view(y, setup.hidden).row(t), rows[static_cast<std::size_t>(t)]) != -1 ? 1 : 0;
    return wrong;
  }
};

Soft problem(int tokens = 9, int per_expert = 2, float scale = 5) {
  return {{.tokens = tokens, .hidden = 36, .ffn = 20, .experts = 4, .k = 1}, per_expert, scale};
}

}  // namespace

TEST_CASE("SoftMoE agrees with the dense formula within rounding") {
  for (const int tokens : {1, 2, 9, 33})
    for (const int per_expert : {1, 3}) {
      CAPTURE(tokens);
      CAPTURE(per_expert);
      const Soft s = problem(tokens, per_expert);
      CHECK(s.wrong_rows(s.run()) == 0);
    }
}
TEST_CASE("the bounds of SoftMoE's oracle are tight enough to see a scale that is off by 2 %") {
  Soft s = problem();
  const std::vector<float> y = s.run();
  s.scale *= 1.02f;
  CHECK(s.wrong_rows(y) == 9);
}
TEST_CASE("permuting rows permutes SoftMoE's result within rounding") {
  Soft s = problem();
  s.run();
  std::rotate(s.p.x.begin(), s.p.x.begin() + 3 * 36, s.p.x.end());
  CHECK(s.wrong_rows(s.run()) == 0);
}
TEST_CASE("SoftMoE without preferences gives every row the same result") {
  const std::vector<float> y = problem(9, 2, 0).run();
  for (int t = 1; t < 9; ++t) CHECK(bits(row_of(y, 36, t)) == bits(row_of(y, 36, 0)));
}
TEST_CASE("SoftMoE has the same bits for every number of threads") {
  CHECK(bits(problem(33).run(1)) == bits(problem(33).run(3)));
}
TEST_CASE("SoftMoE of one expert with one slot gives every row what the mixture of all rows gives") {
  const Soft one{{.tokens = 5, .hidden = 36, .ffn = 20, .experts = 1, .k = 1}, 1, 5};
  const std::vector<float> y = one.run();
  CHECK(one.wrong_rows(y) == 0);
  for (int t = 1; t < 5; ++t) CHECK(bits(view(y, 36).row(t)) == bits(view(y, 36).row(0)));
}
TEST_CASE("SoftMoE computes nothing for no rows") { CHECK(problem(0).run().empty()); }
TEST_CASE("SoftMoE asks for every expert once, however many slots it has") {
  const Soft s = problem(9, 3);
  LeaseLog log;
  const SoftMoE soft(
      moe::MoELayer(moe::NoGate{}, moe::TopK{.experts = 4}, OneByOne{s.p.storage(), &log}, moe::Cpu{.threads = 1}),
      view(s.phi, 36), 5);
  auto ws = soft.workspace(9);
  std::vector<float> y(s.p.x.size());
  soft.forward(s.p.x_view(), view(y, 36), ws);
  CHECK(log.lent == 4);
}
TEST_CASE("SoftMoE refuses slots that are no multiple of the experts, and calls that do not fit its workspace") {
  const Soft s = problem();
  const auto make = [&](int rows) {
    return SoftMoE(moe::MoELayer(moe::NoGate{}, moe::TopK{.experts = 4}, s.p.storage(), moe::Cpu{.threads = 1}),
                   moe::View<const float>(s.phi.data(), rows, 36));
  };
  CHECK(message_of([&] { make(7); }) == "moe::SoftMoE: rows of phi: expected a multiple of the 4 experts, found 7");
  const auto soft = make(8);
  auto ws = soft.workspace(5);
  std::vector<float> y(s.p.x.size());
  CHECK(message_of([&] { soft.forward(s.p.x_view(), view(y, 36), ws); }) ==
        "moe::SoftMoE::forward: rows: expected at most 5, found 9");
}

// ReuseOutputs: exact where it must be, what goes to the layer, and its measured error when inputs move a little.
#include <moe/executors/cpu.hpp>
#include <moe/layer.hpp>
#include <moe/reuse.hpp>
#include <moe/routers/hash.hpp>
#include <moe/routers/top_k.hpp>

#include "problem.hpp"

using moe::ReuseOptions;
using moe::ReuseOutputs;

namespace {

/// y = 2 x + token + 10 rule; remembers what it was asked.
struct Doubler {
  struct Log {
    int calls = 0, rows = 0, largest = 0;
    std::vector<int> positions;
    bool fail = false;
  };
  Log* log;
  int hidden() const noexcept { return 3; }
  void forward(const moe::Call<>& call, moe::Workspace<>&) const {
    ++log->calls;
    if (log->fail) moe::raise(moe::IoError("disk"));
    log->rows += call.x.rows;
    log->largest = std::max(log->largest, call.x.rows);
    for (int t = 0; t < call.x.rows; ++t) {
      const moe::RowContext row = call.context.at(t, {});
      log->positions.push_back(row.position);
      for (int i = 0; i < 3; ++i)
        call.y.floats().row(t)[i] = 2 * call.x.row(t)[i] + static_cast<float>(row.token + 1 + 10 * row.rule);
    }
  }
};

struct Bench {
  explicit Bench(ReuseOptions options) : reuse(Doubler{&log}, options) {}
  std::vector<float> run(const std::vector<float>& x, const std::vector<int>& tokens = {},
                         const std::vector<int>& rules = {}) {
    std::vector<float> y(x.size(), not_a_number);
    moe::Call<> call{.x = view(x, 3), .y = view(y, 3)};
    if (!tokens.empty()) call.context.tokens = tokens.data();
    if (!rules.empty()) call.context.rules = rules.data();
    reuse.forward(call, ws);
    return y;
  }
  Doubler::Log log;
  moe::Workspace<> ws{{}};
  ReuseOutputs<Doubler> reuse;
};

std::vector<float> doubled(const std::vector<float>& x) {
  std::vector<float> y;
  for (const float v : x) y.push_back(2 * v);
  return y;
}
using Positions = std::vector<int>;

double norm(const std::vector<float>& v) {
  double sum = 0;
  for (const float x : v) sum += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("rows that did not move are given again without asking the layer") {
  Bench b({.positions = 4});
  const std::vector<float> x{1, 2, 3, 4, 5, 6};
  CHECK(b.run(x) == doubled(x));
  CHECK(b.run(x) == doubled(x));
  CHECK(b.log.calls == 1);
  CHECK(b.reuse.statistics().share() == 0.5);
}
TEST_CASE("only the rows that moved go to the layer, together and with their positions") {
  Bench b({.positions = 4});
  std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1};
  b.run(x);
  b.log.positions.clear();
  x[3] += 1;
  x[11] += 1;
  CHECK(b.run(x) == doubled(x));
  CHECK(b.log.calls == 2);
  CHECK(b.log.positions == Positions{1, 3});
}
TEST_CASE("tolerance zero computes a row that moved by the least step") {
  Bench b({.positions = 1});
  b.run({1, 2, 3});
  const std::vector<float> x{1, 2, std::nextafter(3.0f, 4.0f)};
  CHECK(b.run(x) == doubled(x));
  CHECK(b.reuse.statistics().reused == 0);
}
TEST_CASE("a row is reused up to the tolerance, and measured from the last input that was computed") {
  Bench b({.positions = 1, .tolerance = 0.25f});
  CHECK(b.run({4, 0, 0}) == std::vector<float>{8, 0, 0});
  CHECK(b.run({5, 0, 0}) == std::vector<float>{8, 0, 0});      // just within
  CHECK(b.run({5.5f, 0, 0}) == std::vector<float>{11, 0, 0});  // not from 5, which was never computed
}
TEST_CASE("positions beyond those that are remembered are always computed") {
  Bench b({.positions = 1});
  const std::vector<float> x{1, 2, 3, 4, 5, 6};
  b.run(x);
  b.log.positions.clear();
  CHECK(b.run(x) == doubled(x));
  CHECK(b.log.positions == Positions{1});
}
TEST_CASE("a row whose token or rule changed is computed") {
  Bench b({.positions = 1});
  CHECK(b.run({1, 1, 1}, {0}, {0}) == std::vector<float>{3, 3, 3});
  CHECK(b.run({1, 1, 1}, {1}, {0}) == std::vector<float>{4, 4, 4});
  CHECK(b.run({1, 1, 1}, {1}, {1}) == std::vector<float>{14, 14, 14});
  CHECK(b.run({1, 1, 1}, {1}, {1}) == std::vector<float>{14, 14, 14});
  CHECK(b.log.calls == 3);
}
TEST_CASE("rows are computed in calls of at most `rows`") {
  Bench b({.positions = 10, .rows = 4});
  std::vector<float> x(30);
  for (std::size_t i = 0; i < 30; ++i) x[i] = static_cast<float>(i);
  CHECK(b.run(x) == doubled(x));
  CHECK(b.log.calls == 3);
  CHECK(b.log.largest == 4);
}
TEST_CASE("rows of NaN are computed every time") {
  Bench b({.positions = 1, .tolerance = 1});
  b.run({1, not_a_number, 1});
  b.run({1, not_a_number, 1});
  CHECK(b.log.calls == 2);
}
TEST_CASE("forget makes every row new") {
  Bench b({.positions = 1});
  b.run({1, 2, 3});
  b.reuse.forget();
  b.run({1, 2, 3});
  CHECK(b.log.calls == 2);
}
TEST_CASE("a call that brings logits is handed on as it is") {
  Bench b({.positions = 1});
  const std::vector<float> x{1, 2, 3}, logits{0};
  std::vector<float> y(3);
  for (int i = 0; i < 2; ++i)
    b.reuse.forward(moe::Call<>{.x = view(x, 3), .y = view(y, 3), .logits = view(logits, 1)}, b.ws);
  CHECK(b.log.calls == 2);
  CHECK(y == doubled(x));
}
TEST_CASE("after a layer failed its rows are computed again") {
  Bench b({.positions = 1, .tolerance = 1});
  b.run({1, 2, 3});
  b.log.fail = true;
  CHECK_THROWS_AS(b.run({100, 2, 3}), moe::IoError);
  b.log.fail = false;
  CHECK(b.run({100, 2, 3}) == std::vector<float>{200, 4, 6});
}
TEST_CASE("audits compute what could be reused, and report how far it was off") {
  Bench b({.positions = 1, .tolerance = 0.5f, .audit_every = 1});
  b.run({4, 0, 0});
  CHECK(b.run({5, 0, 0}) == std::vector<float>{10, 0, 0});  // 8 was remembered
  CHECK(b.reuse.statistics().audited == 1);
  CHECK(b.reuse.statistics().mean_error() == doctest::Approx(0.2));
  CHECK(b.reuse.statistics().largest_error == doctest::Approx(0.2));
}
TEST_CASE("ReuseOutputs refuses options that mean nothing") {
  const auto with = [](ReuseOptions options) { return message_of([&] { Bench b(options); }); };
  CHECK(with({.positions = -1}).find("positions") != std::string::npos);
  CHECK(with({.rows = 0}).find("rows") != std::string::npos);
  CHECK(with({.tolerance = not_a_number}).find("tolerance") != std::string::npos);
}

// ---- around a real layer

namespace {

/// Inputs that move by `step` of their length from one iteration to the next.
struct Iterations {
  Iterations(int tokens, float tolerance, int audit_every)
      : random(151),
        problem({.tokens = tokens, .hidden = 32, .ffn = 24, .experts = 8, .k = 2}, random),
        layer(moe::Linear(problem.gate_view()), moe::TopK{.experts = 8, .k = 2}, problem.storage(),
              moe::Cpu{.threads = 1}),
        reuse(moe::MoELayer(moe::Linear(problem.gate_view()), moe::TopK{.experts = 8, .k = 2}, problem.storage(),
                            moe::Cpu{.threads = 1}),
              {.positions = tokens, .tolerance = tolerance, .audit_every = audit_every}),
        ws(layer.workspace(tokens)),
        exact(problem.x.size()),
        reused(problem.x.size()) {}
  /// Moves x, and appends each row's relative difference between the results with and without reuse.
  void step(float size, std::vector<double>& errors) {
    for (float& v : problem.x) v += size * random.real();
    layer.forward(problem.x_view(), view(exact, 32), ws);
    reuse.forward(problem.x_view(), view(reused, 32), ws);
    for (int t = 0; t < problem.setup.tokens; ++t) {
      std::vector<float> truth(view(exact, 32).row(t).begin(), view(exact, 32).row(t).end()), apart = truth;
      for (std::size_t i = 0; i < 32; ++i) apart[i] -= view(reused, 32).row(t)[static_cast<int>(i)];
      errors.push_back(norm(apart) / norm(truth));
    }
  }
  using Layer = moe::MoELayer<moe::TopK, moe::Resident<moe::PanelLayout, moe::formats<float>>, moe::Cpu>;
  oracle::Random random;
  Problem<float> problem;
  Layer layer;
  ReuseOutputs<Layer> reuse;
  moe::Workspace<> ws;
  std::vector<float> exact, reused;
};

}  // namespace

TEST_CASE("around a layer, tolerance zero gives the layer's bits whether rows move or not") {
  Iterations it(24, 0, 0);
  std::vector<double> errors;
  for (const float size : {0.0f, 0.0f, 0.25f, 0.0f, 1.0f, 0.0f}) {
    it.step(size, errors);
    CHECK(bits(it.exact) == bits(it.reused));
  }
  CHECK(it.reuse.statistics().reused == 24 * 3);  // all but the first, and the two that moved
}
TEST_CASE("around a layer, the audited error is the true one within sampling, and the reuse grows with the tolerance") {
  double share_before = 0;
  for (const float tolerance : {0.02f, 0.05f, 0.1f, 0.2f}) {
    Iterations it(64, tolerance, 8);
    std::vector<double> errors;
    for (int i = 0; i < 60; ++i) it.step(0.02f, errors);
    const moe::ReuseStatistics& s = it.reuse.statistics();
    double sum = 0, squares = 0;
    for (const double e : errors) {
      sum += e;
      squares += e * e;
    }
    const auto reused = static_cast<double>(s.reused), audited = static_cast<double>(s.audited);
    const double error = sum / reused;  // rows that were computed are exact
    const double deviation = std::sqrt(squares / reused - error * error);
    MESSAGE("tolerance ", tolerance, ": reuse ", s.share(), ", mean error of reused rows ", error, ", audited ",
            s.mean_error(), ", largest ", s.largest_error);
    CHECK(std::fabs(s.mean_error() - error) < 5 * deviation / std::sqrt(audited));
    CHECK(s.share() >= share_before);
    share_before = s.share();
  }
  CHECK(share_before > 0.5);
}

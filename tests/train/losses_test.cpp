// Values of the losses by hand, gradients against finite differences in double, and what permutations change.
#include <moe/train/losses.hpp>

#include "../problem.hpp"

using moe::Row;
using moe::View;

namespace {

constexpr int tokens = 7, experts = 5;

std::vector<double> reals(oracle::Random& random, int n, double low, double high) {
  std::vector<double> out;
  for (int i = 0; i < n; ++i) out.push_back(low + (high - low) * (static_cast<double>(random.real()) + 1) / 2);
  return out;
}
View<const double> matrix(const std::vector<double>& v, int cols = experts) {
  return {v.data(), static_cast<int>(v.size()) / cols, cols};
}
View<double> matrix(std::vector<double>& v, int cols = experts) {
  return {v.data(), static_cast<int>(v.size()) / cols, cols};
}
Row<const double> row(const std::vector<double>& v) { return {v.data(), static_cast<int>(v.size())}; }

/// Central differences of loss(x), whose error is of the order of step^2; checked where `smooth(x)`.
template <class Loss, class Smooth>
void check_gradient(std::vector<double> x, const std::vector<double>& gradient, const Loss& loss,
                    const Smooth& smooth) {
  constexpr double step = 1e-5;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!smooth(x[i])) continue;
    CAPTURE(i);
    const double here = x[i];
    x[i] = here + step;
    const double above = loss(x);
    x[i] = here - step;
    const double below = loss(x);
    x[i] = here;
    CHECK(std::fabs((above - below) / (2 * step) - gradient[i]) < 1e-9 + 1e-7 * std::fabs(gradient[i]));
  }
}
const auto everywhere = [](double) { return true; };
const auto away_from_zero = [](double x) { return x > 1e-3; };

/// Rows of x in another order, and columns.
std::vector<double> permuted(const std::vector<double>& x, const std::vector<int>& rows,
                             const std::vector<int>& columns) {
  std::vector<double> out(x.size());
  for (std::size_t t = 0; t < rows.size(); ++t)
    for (std::size_t e = 0; e < columns.size(); ++e)
      out[t * columns.size() + e] =
          x[static_cast<std::size_t>(rows[t]) * columns.size() + static_cast<std::size_t>(columns[e])];
  return out;
}
const std::vector<int> rows_moved = {3, 0, 6, 1, 5, 2, 4}, columns_moved = {2, 4, 0, 1, 3},
                       columns_same = {0, 1, 2, 3, 4};

bool close(double a, double b) { return std::fabs(a - b) <= 1e-12 * (1 + std::fabs(b)); }

}  // namespace

// ---- shares

TEST_CASE("choices are counted as far as asked, and only known ids") {
  Table table(2, 3);
  table.at(0, 0) = {1, 1};
  table.at(0, 1) = {0, 1};
  table.at(0, 2) = {-1, 0};
  table.at(1, 0) = {1, 1};
  table.count = {3, 1};
  std::vector<int> loads(3, 99);
  moe::count_choices(table.get(), 0, {loads.data(), 3});
  CHECK(loads == std::vector<int>{1, 2, 0});
  moe::count_choices(table.get(), 1, {loads.data(), 3});
  CHECK(loads == std::vector<int>{0, 2, 0});
}
TEST_CASE("averaging nulls keeps their sum and the others") {
  std::vector<double> shares = {0.5, 0.25, 0.75, 0.125, 0.375};
  moe::average_nulls({shares.data(), 5}, 2);
  CHECK(shares == std::vector<double>{0.5, 0.25, 0.75, 0.25, 0.25});
}

// ---- balance

TEST_CASE("the balance loss of uniform probabilities and balanced choices is its coefficient") {
  const std::vector<double> logits(tokens * experts, 0.3), shares(experts, 1.0 / experts);
  CHECK(close(moe::balance_loss(matrix(logits), row(shares), 0.01), 0.01));
}
TEST_CASE("the balance loss has the value of a sum by hand") {
  // Two rows, two experts: P = (3/4, 1/4) and (1/2, 1/2), means 5/8 and 3/8; both rows choose expert 0.
  const std::vector<double> logits = {std::log(3.0), 0, 0, 0}, shares = {1, 0};
  CHECK(close(moe::balance_loss(matrix(logits, 2), row(shares), 1), 2 * 5.0 / 8));
}
TEST_CASE("AdaMoE's loss has the value of a sum by hand") {
  // Two true and two null experts; row 0 picks 0 and 2, row 1 picks 2 and 3: shares 1/2, 0, 1, 1/2, of which nulls 3/4.
  const std::vector<double> logits = {std::log(2.0), 0, 0, 0, 0, 0, 0, std::log(2.0)};
  std::vector<double> shares = {0.5, 0, 1, 0.5};
  moe::average_nulls({shares.data(), 4}, 2);
  const double p0 = (0.4 + 0.2) / 2, p2 = 0.2, p3 = (0.2 + 0.4) / 2;
  CHECK(close(moe::balance_loss(matrix(logits, 4), row(shares), 0.02), 0.02 * 4 * (0.5 * p0 + 0.75 * (p2 + p3))));
}
TEST_CASE("AdaMoE's loss does not see a permutation of the nulls, and its gradient moves with them") {
  oracle::Random random(770);
  const std::vector<double> logits = reals(random, tokens * experts, -3, 3);
  std::vector<double> shares = reals(random, experts, 0, 1);
  moe::average_nulls({shares.data(), experts}, 3);
  const std::vector<int> nulls_moved = {0, 1, 4, 2, 3}, same = {0, 1, 2, 3, 4, 5, 6};
  const std::vector<double> moved = permuted(logits, same, nulls_moved);
  std::vector<double> before(logits.size()), after(logits.size());
  CHECK(close(moe::balance_loss(matrix(logits), row(shares), 1, matrix(before)),
              moe::balance_loss(matrix(moved), row(shares), 1, matrix(after))));
  const std::vector<double> expected = permuted(before, same, nulls_moved);
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(close(after[i], expected[i]));
}
TEST_CASE("the balance loss is lowest where probabilities are even, if choices follow them") {
  const std::vector<double> even(experts), skewed = {2, 1, 0, -1, -2};
  const std::vector<double> even_shares(experts, 0.2), skewed_shares = {0.6, 0.2, 0.1, 0.06, 0.04};
  CHECK(moe::balance_loss(matrix(even), row(even_shares), 1) <
        moe::balance_loss(matrix(skewed), row(skewed_shares), 1));
}
TEST_CASE("the gradient of the balance loss is that of finite differences") {
  oracle::Random random(771);
  CAPTURE(random.seed);
  const std::vector<double> logits = reals(random, tokens * experts, -3, 3), shares = reals(random, experts, 0, 1);
  std::vector<double> gradient(logits.size());
  moe::balance_loss(matrix(logits), row(shares), 0.7, matrix(gradient));
  check_gradient(
      logits, gradient, [&](const std::vector<double>& x) { return moe::balance_loss(matrix(x), row(shares), 0.7); },
      everywhere);
}

// ---- the others

TEST_CASE("the z-loss has the value of a sum by hand") {
  const std::vector<double> logits = {std::log(3.0), 0, 0, 0};  // log sums: log 4, log 2
  CHECK(
      close(moe::z_loss(matrix(logits, 2), 0.1), 0.1 * (std::pow(std::log(4.0), 2) + std::pow(std::log(2.0), 2)) / 2));
}
TEST_CASE("the z-loss does not overflow") {
  const std::vector<double> logits(experts, 1000.0);
  CHECK(close(moe::z_loss(matrix(logits), 1), std::pow(1000 + std::log(5.0), 2)));
}
TEST_CASE("the gradient of the z-loss is that of finite differences") {
  oracle::Random random(772);
  const std::vector<double> logits = reals(random, tokens * experts, -3, 3);
  std::vector<double> gradient(logits.size());
  moe::z_loss(matrix(logits), 0.7, matrix(gradient));
  check_gradient(
      logits, gradient, [](const std::vector<double>& x) { return moe::z_loss(matrix(x), 0.7); }, everywhere);
}
TEST_CASE("the FLOPS loss has the value of a sum by hand") {
  const std::vector<double> activations = {1, 0, 3, 2};  // means 2 and 1
  CHECK(close(moe::flops_loss(matrix(activations, 2), 0.5), 2.5));
}
TEST_CASE("the gradient of the FLOPS loss is that of finite differences") {
  oracle::Random random(773);
  const std::vector<double> activations = reals(random, tokens * experts, 0, 3);
  std::vector<double> gradient(activations.size());
  moe::flops_loss(matrix(activations), 0.7, matrix(gradient));
  check_gradient(
      activations, gradient, [](const std::vector<double>& x) { return moe::flops_loss(matrix(x), 0.7); }, everywhere);
}
TEST_CASE("ReMoE's loss has the value of a sum by hand") {
  const std::vector<double> activations = {1, 0, 3, 2};  // sums 4 and 2, active rows 2 and 1
  CHECK(close(moe::relu_loss(matrix(activations, 2), 1, 0.5), 0.5 * 2 / 4.0 * (4 * 2 + 2 * 1)));
}
TEST_CASE("the gradient of ReMoE's loss is that of finite differences where the experts active are the same") {
  oracle::Random random(774);
  std::vector<double> activations = reals(random, tokens * experts, -2, 2);
  for (double& a : activations) a = std::max(a, 0.0);
  std::vector<double> gradient(activations.size());
  moe::relu_loss(matrix(activations), 2, 0.7, matrix(gradient));
  check_gradient(
      activations, gradient, [](const std::vector<double>& x) { return moe::relu_loss(matrix(x), 2, 0.7); },
      away_from_zero);
}
TEST_CASE("gradients are added to what is there") {
  oracle::Random random(775);
  const std::vector<double> x = reals(random, tokens * experts, 0, 2), shares = reals(random, experts, 0, 1);
  const auto adds = [&](const auto& loss) {
    std::vector<double> zero(x.size()), five(x.size(), 5.0);
    loss(matrix(zero));
    loss(matrix(five));
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!close(five[i], 5 + zero[i])) return false;
    return true;
  };
  CHECK(adds([&](View<double> g) { moe::balance_loss(matrix(x), row(shares), 1, g); }));
  CHECK(adds([&](View<double> g) { moe::z_loss(matrix(x), 1, g); }));
  CHECK(adds([&](View<double> g) { moe::flops_loss(matrix(x), 1, g); }));
  CHECK(adds([&](View<double> g) { moe::relu_loss(matrix(x), 1, 1, g); }));
}
TEST_CASE("losses do not see a permutation of rows and experts") {
  oracle::Random random(776);
  const std::vector<double> x = reals(random, tokens * experts, 0, 2), moved = permuted(x, rows_moved, columns_moved);
  const std::vector<double> shares = reals(random, experts, 0, 1), moved_shares = permuted(shares, {0}, columns_moved);
  CHECK(close(moe::balance_loss(matrix(x), row(shares), 1), moe::balance_loss(matrix(moved), row(moved_shares), 1)));
  CHECK(close(moe::z_loss(matrix(x), 1), moe::z_loss(matrix(moved), 1)));
  CHECK(close(moe::flops_loss(matrix(x), 1), moe::flops_loss(matrix(moved), 1)));
  CHECK(close(moe::relu_loss(matrix(x), 2, 1), moe::relu_loss(matrix(moved), 2, 1)));
}
TEST_CASE("losses of float32 are those of double within float32's rounding") {
  oracle::Random random(777);
  const std::vector<float> x = random.reals(tokens * experts, 2);
  const std::vector<double> wide(x.begin(), x.end()), shares = reals(random, experts, 0, 1);
  std::vector<float> gradient(x.size());
  std::vector<double> expected(x.size());
  const View<const float> narrow{x.data(), tokens, experts};
  CHECK(moe::balance_loss(narrow, row(shares), 1, View<float>{gradient.data(), tokens, experts}) ==
        moe::balance_loss(matrix(wide), row(shares), 1, matrix(expected)));
  for (std::size_t i = 0; i < x.size(); ++i)
    CHECK(std::fabs(static_cast<double>(gradient[i]) - expected[i]) <= oracle::unit * std::fabs(expected[i]));
}

// ---- the controller

TEST_CASE("the sparsity controller brings a synthetic gate to its sparsity") {
  // A gate whose activations shrink with lambda: relu(u - lambda) with u even in [0, 1): sparsity = lambda.
  moe::SparsityController controller;
  const auto sparsity = [&] {
    std::vector<double> a;
    for (int i = 0; i < 1000; ++i) a.push_back(std::max(0.0, i / 1000.0 - controller.lambda));
    return moe::sparsity_of(matrix(a, 10));
  };
  for (int step = 0; step < 150; ++step) controller.update(sparsity(), 0.75);
  for (int step = 0; step < 10; ++step) {
    controller.update(sparsity(), 0.75);
    CHECK(sparsity() > 0.75 / 1.21);
    CHECK(sparsity() < 0.75 * 1.21);
  }
}

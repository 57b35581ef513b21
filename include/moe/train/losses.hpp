// Losses that keep experts evenly busy, with their gradients; what a training loop adds to its own loss.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <moe/routing.hpp>

namespace moe {

/// Choices per id over all rows; ids outside `loads` are not counted. Counts the first `most` choices of a row, all if
/// 0: DeepSpeed's top-2 loss counts first choices only. Ask before dropping.
inline void count_choices(const RoutingTable<>& table, int most, Row<int> loads) noexcept {
  for (int& load : loads) load = 0;
  for (int t = 0; t < table.slots.rows; ++t) {
    const int n = most > 0 && most < table.size(t) ? most : table.size(t);
    for (const Slot& s : table.slots.row(t).first(n))
      if (s.expert >= 0 && s.expert < loads.size()) ++loads[s.expert];
  }
}

/// Every null expert (the last `nulls` ids) gets the nulls' mean share: no balance is forced among them (AdaMoE, Zeng
/// et al. 2024, section 3).
inline void average_nulls(Row<double> shares, int nulls) noexcept {
  double sum = 0;
  for (int e = shares.size() - nulls; e < shares.size(); ++e) sum += shares[e];
  for (int e = shares.size() - nulls; e < shares.size(); ++e) shares[e] = sum / nulls;
}

namespace detail {

/// log sum e^l of finite logits.
template <class Real>
double log_sum_exp(Row<Real> logits) noexcept {
  double best = -HUGE_VAL, sum = 0;
  for (const Real l : logits) best = std::fmax(best, static_cast<double>(l));
  for (const Real l : logits) sum += std::exp(static_cast<double>(l) - best);
  return best + std::log(sum);
}

}  // namespace detail

/// coefficient * E * sum_e f_e P_e, with P_e the mean over rows of softmax(logits)_e and f_e = `shares` [E], which is a
/// constant to the gradient. Adds the gradient to `gradient` [T,E] unless that is empty. O(T E).
///
/// What f is makes the loss: choices / T is Switch's (Fedus et al. 2021) and, from first choices,
/// DeepSpeed's for top-2; choices / (T k) is DeepSpeed's for top-k; choices / T over true and null experts, then
/// `average_nulls`, is AdaMoE's. With f = 1/E for all it is `coefficient`.
template <class Real>
double balance_loss(View<Real> logits, Row<const double> shares, double coefficient,
                    View<std::remove_const_t<Real>> gradient = {}) {
  const double scale = coefficient * logits.cols / logits.rows;
  double total = 0;
  for (int t = 0; t < logits.rows; ++t) {
    const Row<Real> row = logits.row(t);
    const double log_sum = detail::log_sum_exp(row);
    double mean = 0;  // of the shares, under this row's softmax
    for (int e = 0; e < row.size(); ++e)
      mean = std::fma(shares[e], std::exp(static_cast<double>(row[e]) - log_sum), mean);
    total += mean;
    if (gradient.data == nullptr) continue;
    for (int e = 0; e < row.size(); ++e)
      gradient.row(t)[e] += static_cast<std::remove_const_t<Real>>(
          scale * std::exp(static_cast<double>(row[e]) - log_sum) * (shares[e] - mean));
  }
  return scale * total;
}

/// coefficient * mean over rows of (log sum_e e^l)^2: keeps logits small (ST-MoE, Zoph et al. 2022). Adds
/// the gradient to `gradient` [T,E] unless that is empty. O(T E).
template <class Real>
double z_loss(View<Real> logits, double coefficient, View<std::remove_const_t<Real>> gradient = {}) {
  const double scale = coefficient / logits.rows;
  double total = 0;
  for (int t = 0; t < logits.rows; ++t) {
    const Row<Real> row = logits.row(t);
    const double log_sum = detail::log_sum_exp(row);
    total = std::fma(log_sum, log_sum, total);
    if (gradient.data == nullptr) continue;
    for (int e = 0; e < row.size(); ++e)
      gradient.row(t)[e] +=
          static_cast<std::remove_const_t<Real>>(2 * scale * log_sum * std::exp(static_cast<double>(row[e]) - log_sum));
  }
  return scale * total;
}

/// coefficient * sum_e (mean_t a_te)^2 over activations [T,E], none negative: the expected work of routers whose number
/// of choices varies (FLOPS regulariser: Paria et al. 2020; SPLADE, Formal et al. 2021). Adds the gradient with respect
/// to the activations to `gradient` unless that is empty. O(T E).
template <class Real>
double flops_loss(View<Real> activations, double coefficient, View<std::remove_const_t<Real>> gradient = {}) {
  double total = 0;
  for (int e = 0; e < activations.cols; ++e) {
    double mean = 0;
    for (int t = 0; t < activations.rows; ++t) mean += static_cast<double>(activations.row(t)[e]);
    mean /= activations.rows;
    total = std::fma(mean, mean, total);
    if (gradient.data == nullptr) continue;
    for (int t = 0; t < activations.rows; ++t)
      gradient.row(t)[e] += static_cast<std::remove_const_t<Real>>(2 * coefficient * mean / activations.rows);
  }
  return coefficient * total;
}

/// lambda * E / (k T^2) * sum_e (sum_t a_te) * (rows with a_te > 0): ReMoE's balanced L1 term
/// (Wang et al. 2024) on activations [T,E] = relu(logits). The number of active rows is a constant to the gradient,
/// which is with respect to the activations and added to `gradient` unless that is empty. O(T E).
template <class Real>
double relu_loss(View<Real> activations, int k, double lambda, View<std::remove_const_t<Real>> gradient = {}) {
  const double rows = activations.rows, scale = lambda * activations.cols / (k * rows * rows);
  double total = 0;
  for (int e = 0; e < activations.cols; ++e) {
    double sum = 0;
    int active = 0;
    for (int t = 0; t < activations.rows; ++t) {
      sum += static_cast<double>(activations.row(t)[e]);
      active += activations.row(t)[e] > 0 ? 1 : 0;
    }
    total = std::fma(sum, static_cast<double>(active), total);
    if (gradient.data == nullptr) continue;
    for (int t = 0; t < activations.rows; ++t)
      gradient.row(t)[e] += static_cast<std::remove_const_t<Real>>(scale * active);
  }
  return scale * total;
}

/// Holds the sparsity of ReMoE's activations at 1 - k / E: after every step lambda grows by `factor` if they are
/// denser, else it shrinks by it (Wang et al. 2024).
struct SparsityController {
  double lambda = 1e-8;
  double factor = 1.2;

  void update(double sparsity, double target) noexcept {
    if (sparsity < target)
      lambda *= factor;
    else
      lambda /= factor;
  }
};

/// The share of zeros among the activations [T,E].
template <class Real>
double sparsity_of(View<Real> activations) noexcept {
  std::int64_t zeros = 0;
  for (int t = 0; t < activations.rows; ++t)
    for (const Real a : activations.row(t)) zeros += a > 0 ? 0 : 1;
  return static_cast<double>(zeros) / (static_cast<double>(activations.rows) * activations.cols);
}

}  // namespace moe

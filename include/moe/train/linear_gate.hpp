// LinearGateTrainer: teaches a linear gate to predict choices that were observed.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <moe/error.hpp>
#include <moe/math.hpp>
#include <moe/routing.hpp>

namespace moe {

/// Adam (Kingma and Ba 2015) on binary cross-entropy: every expert is its own yes or no, as in ExpertFlow's predictor,
/// so that rows with any number of choices can be learned.
struct LinearGateOptions {
  double rate = 1e-2;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
};

/// Learns weight [E,H] and bias [E] from zero, in double precision and in the order of the rows: the same rows give the
/// same gate on every run. Holds 36 E (H + 1) bytes.
class LinearGateTrainer {
 public:
  /// Throws Error for sizes below 1 and options outside their ranges.
  LinearGateTrainer(int experts, int hidden, LinearGateOptions options = {})
      : experts_(experts), hidden_(hidden), options_(options) {
    constexpr const char* where = "moe::LinearGateTrainer";
    if (experts < 1) raise(Error(where, "experts", "at least 1", std::to_string(experts)));
    if (hidden < 1) raise(Error(where, "hidden", "at least 1", std::to_string(hidden)));
    const auto beta = [](double b) { return b >= 0 && b < 1; };
    if (!(options.rate > 0) || !beta(options.beta1) || !beta(options.beta2) || !(options.epsilon > 0))
      raise(Error(where, "options", "rate and epsilon above 0, betas in [0, 1)", "others"));
    const std::size_t size = static_cast<std::size_t>(experts) * row_size();
    for (std::vector<double>* v : {&value_, &first_, &second_, &gradient_}) v->assign(size, 0.0);
    rounded_.assign(size, 0.0f);
  }

  /// One step on rows `inputs` [T,H] and what was chosen for them [T,K]; ids that are no expert are left out. Returns
  /// the loss before the step: summed over experts, averaged over rows. Throws Error for shapes that do not fit, no
  /// row, or inputs with NaN or infinity; then nothing was learned. O(T E H).
  double step(View<const float> inputs, const RoutingTable<>& picks) {
    check_step(inputs, picks);
    gradient_.assign(gradient_.size(), 0.0);
    double loss = 0;
    for (int t = 0; t < inputs.rows; ++t) {
      const Row<const Slot> chosen = picks.slots.row(t).first(picks.size(t));
      for (int e = 0; e < experts_; ++e) loss += add_gradient(e, inputs.row(t), is_chosen(chosen, e));
    }
    update(1.0 / inputs.rows);
    return loss / inputs.rows;
  }

  /// [E,H] and [E], for FirstLayerGate or Linear.
  std::vector<float> weight() const {
    std::vector<float> out;
    for (int e = 0; e < experts_; ++e) out.insert(out.end(), row(e), row(e) + hidden_);
    return out;
  }
  std::vector<float> bias() const {
    std::vector<float> out;
    for (int e = 0; e < experts_; ++e) out.push_back(row(e)[hidden_]);
    return out;
  }

 private:
  std::size_t row_size() const noexcept { return static_cast<std::size_t>(hidden_) + 1; }  // weights, then the bias
  std::size_t at(int expert) const noexcept { return static_cast<std::size_t>(expert) * row_size(); }

  const float* row(int expert) const noexcept { return rounded_.data() + at(expert); }

  void check_step(View<const float> inputs, const RoutingTable<>& picks) const {
    constexpr const char* where = "moe::LinearGateTrainer::step";
    if (inputs.rows < 1) raise(Error(where, "rows of the inputs", "at least 1", std::to_string(inputs.rows)));
    require_equal(where, "columns of the inputs", hidden_, inputs.cols);
    require_equal(where, "rows of the choices", inputs.rows, picks.slots.rows);
    for (int t = 0; t < inputs.rows; ++t)
      for (const float x : inputs.row(t))
        if (!std::isfinite(x)) raise(Error(where, "inputs", "finite numbers", std::to_string(x)));
  }
  static bool is_chosen(Row<const Slot> chosen, int expert) noexcept {
    for (const Slot& slot : chosen)
      if (slot.expert == expert) return true;
    return false;
  }
  /// Returns -log p(what was seen). Products of two floats are exact in double: nothing depends on contraction to fma.
  double add_gradient(int expert, Row<const float> x, bool chosen) noexcept {
    const float* w = row(expert);
    double logit = static_cast<double>(w[hidden_]);
    for (int i = 0; i < hidden_; ++i) logit += static_cast<double>(w[i]) * static_cast<double>(x[i]);
    const auto wrong = static_cast<float>(1 / (1 + std::exp(-logit)) - (chosen ? 1 : 0));
    double* g = gradient_.data() + at(expert);
    for (int i = 0; i < hidden_; ++i) g[i] += static_cast<double>(wrong) * static_cast<double>(x[i]);
    g[hidden_] += static_cast<double>(wrong);
    const double against = chosen ? -logit : logit;  // log(1 + e^against), without overflow
    return std::fmax(against, 0.0) + std::log1p(std::exp(-std::fabs(against)));
  }
  void update(double scale) noexcept {
    ++steps_;
    const double unbias1 = 1 - std::pow(options_.beta1, steps_), unbias2 = 1 - std::pow(options_.beta2, steps_);
    for (std::size_t i = 0; i < value_.size(); ++i) {
      const double g = gradient_[i] * scale;
      first_[i] = std::fma(options_.beta1, first_[i], (1 - options_.beta1) * g);
      second_[i] = std::fma(options_.beta2, second_[i], (1 - options_.beta2) * (g * g));
      const double size = std::sqrt(second_[i] / unbias2) + options_.epsilon;
      value_[i] -= options_.rate * (first_[i] / unbias1) / size;
      rounded_[i] = static_cast<float>(value_[i]);
    }
  }

  int experts_, hidden_;
  LinearGateOptions options_;
  int steps_ = 0;
  std::vector<double> value_, first_, second_, gradient_;  // [E, H + 1]
  std::vector<float> rounded_;                             // what is learned, as it will be used
};

}  // namespace moe

// FirstLayerGate: a linear guess of the first layer's experts, made before the token that will run through it is known.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <moe/error.hpp>
#include <moe/gate.hpp>

namespace moe {

/// AdapMoE's predictive gate (Zhong et al. 2024, the first layers' prefetch): no earlier layer's input can be shown to
/// the gate of layer 0, so a gate of its own is shown the last layer's output of the token before, and guesses while
/// the engine still samples. Feed it what the head of the model sees (after the final norm), in training as in use;
/// LinearGateTrainer of train/linear_gate.hpp learns `weight` and `bias` from pairs (output for token t, choices of
/// layer 0 for token t + 1).
class FirstLayerGate {
 public:
  /// Throws Error unless `weight` is [experts, hidden] and `bias` [experts], with sizes of at least 1 and finite
  /// numbers.
  FirstLayerGate(int experts, int hidden, std::vector<float> weight, std::vector<float> bias)
      : experts_(experts), hidden_(hidden), weight_(std::move(weight)), bias_(std::move(bias)) {
    constexpr const char* where = "moe::FirstLayerGate";
    if (experts < 1) raise(Error(where, "experts", "at least 1", std::to_string(experts)));
    if (hidden < 1) raise(Error(where, "hidden", "at least 1", std::to_string(hidden)));
    require_equal(where, "weights", static_cast<std::size_t>(experts) * static_cast<std::size_t>(hidden),
                  weight_.size());
    require_equal(where, "biases", static_cast<std::size_t>(experts), bias_.size());
    require_finite(where, weight_);
    require_finite(where, bias_);
  }

  int experts() const noexcept { return experts_; }
  int hidden() const noexcept { return hidden_; }
  /// The same as a gate of a layer; valid as long as this object.
  Linear<> linear() const { return Linear<>({weight_.data(), experts_, hidden_}, bias_.data()); }

  /// Guesses for the sequences whose newest outputs are the rows of `last` [S,H]: give the result to
  /// layers[0].prefetch as Call::logits, with `last` as x. Valid until the next guess. Throws Error for other columns.
  /// The executor multiplies: O(S E H); allocates when S grows.
  template <class Executor>
  View<const float> guess(const Executor& executor, View<const float> last) {
    require_equal("moe::FirstLayerGate::guess", "columns of the outputs", hidden_, last.cols);
    const auto needed = static_cast<std::size_t>(last.rows) * static_cast<std::size_t>(experts_);
    if (logits_.size() < needed) logits_.resize(needed);
    const View<float> out(logits_.data(), last.rows, experts_);
    Frame<> none;
    linear().logits(executor, none, {.in = last, .logits = out});
    return out;
  }

 private:
  static void require_finite(const char* where, const std::vector<float>& values) {
    for (const float value : values)
      if (!std::isfinite(value)) raise(Error(where, "numbers", "finite ones", std::to_string(value)));
  }

  int experts_, hidden_;
  std::vector<float> weight_, bias_, logits_;
};

}  // namespace moe

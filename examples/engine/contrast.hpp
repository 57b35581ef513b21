// ContrastSequence: the next-token logits of two routings of one model against each other.
#pragma once

#include <moe/routers/self_contrast.hpp>
#include <span>

#include "sequence.hpp"

namespace engine {

struct ContrastOptions {
  float alpha = 0.1f;  // tokens less likely than alpha times the likeliest are cut off
  float beta = 0.5f;   // 0 is the strong stream alone
};

/// SCMoE (Shi et al., NeurIPS 2024): the prompt and every chosen token go through a strong and a weak routing of the
/// model, each with keys and values of its own, as two rows of one step. The model's policy is `TwoStreams`; `model`
/// outlives this.
class ContrastSequence {
 public:
  /// Throws moe::Error unless the model's policy is `TwoStreams`, alpha in (0, 1] and beta from 0 to 100.
  ContrastSequence(const Model& model, const ContrastOptions& options) : options_(options), both_(model, {0, 1}) {
    const auto refuse = [](const char* what, const char* expected, float found) {
      moe::raise(moe::Error("engine::ContrastSequence", what, expected, std::to_string(found)));
    };
    if (!(options.alpha > 0 && options.alpha <= 1)) refuse("alpha", "above 0, at most 1", options.alpha);
    if (!(options.beta >= 0 && options.beta <= 100)) refuse("beta", "0 to 100", options.beta);
    if (!std::holds_alternative<TwoStreams>(model.experts().policy())) {
      moe::raise(moe::Error("engine::ContrastSequence", "policy of the model", "TwoStreams", "another one"));
    }
  }

  /// As Sequence::append, with (1 + beta) strong - beta weak as the logits, minus infinity where they are cut off.
  ConstRows append(std::span<const int> tokens, LogitsOf which) {
    const ConstRows both = both_.append(tokens, which);
    const int rows = both.rows / 2;
    if (logits_.rows() < rows) logits_ = Matrix(rows, both.cols);
    for (int t = 0; t < rows; ++t) {
      moe::contrast_logits(both.row(t), both.row(rows + t), options_.alpha, options_.beta, logits_.view().row(t));
    }
    return logits_.first(rows);
  }
  void restart() noexcept { both_.restart(); }
  /// Strong is stream 0.
  Sequence& streams() noexcept { return both_; }

 private:
  ContrastOptions options_;
  Sequence both_;
  Matrix logits_;
};

}  // namespace engine

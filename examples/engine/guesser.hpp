// Guesser: what the layers of a model may be asked for, known from tokens, their own gates or the outputs before.
#pragma once

#include <moe/frame.hpp>
#include <moe/io/model_config.hpp>
#include <moe/predictors/first_gate.hpp>
#include <moe/predictors/path_predictor.hpp>
#include <moe/predictors/token_frequencies.hpp>
#include <moe/storage/cached.hpp>
#include <optional>
#include <vector>

#include "dense.hpp"
#include "storage_choice.hpp"

namespace engine {

/// Remembers one sequence.
class Guesser {
 public:
  /// Throws moe::Error if the choice's predictor does not fit the model, whose routers take `logits` numbers, and
  /// moe::IoError for its file.
  Guesser(const StorageChoice& choice, const moe::io::ModelConfig& config, int logits, const moe::Cpu& cpu);

  void begin_sequence();
  /// The layers are about to run for these tokens [T] of `streams` copies of one text: a predictor of paths plans.
  void begin_pass(moe::Row<const int> tokens, int streams, const moe::ExpertCache& cache);

  /// Layers that are guessed for before `layer` runs: `count_after(layer)` of them from `first_after(layer)` on.
  int first_after(int layer) const noexcept { return frequencies_ && layer == 0 ? 0 : layer + 1; }
  int count_after(int layer) const noexcept;
  /// Of a guess for `layer`; without columns the layer's own gate guesses.
  ConstRows logits(int layer);
  /// Of a guess for layer 0 on the next tokens, from the newest outputs [S,H] of the model's last norm; without columns
  /// nobody guesses so early.
  ConstRows logits_of_next(ConstRows outputs);
  /// What a layer chose.
  void routed(int layer, const moe::Frame<>& frame);

 private:
  void read_paths(const StorageChoice& choice, const moe::io::ModelConfig& config);
  void read_first_gate(const StorageChoice& choice, const moe::io::ModelConfig& config);
  std::vector<moe::PlannedExpert> planned(ConstRows logits) const;

  moe::Cpu cpu_;
  Predictor predictor_;
  int horizon_, layers_, picks_;
  moe::Row<const int> tokens_{nullptr, 0};
  std::optional<moe::TokenFrequencies> frequencies_;
  std::optional<moe::PathPredictor> paths_;
  moe::PathPredictorState path_state_;
  std::optional<moe::FirstLayerGate> first_gate_;
  Matrix logits_;
};

}  // namespace engine

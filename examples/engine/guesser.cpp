#include "guesser.hpp"

#include <algorithm>
#include <cmath>
#include <moe/io/first_gate.hpp>
#include <moe/io/path_predictor.hpp>

namespace engine {

namespace {

float probability(float logit) { return 1 / (1 + std::exp(-logit)); }

}  // namespace

Guesser::Guesser(const StorageChoice& choice, const moe::io::ModelConfig& config, int logits, const moe::Cpu& cpu)
    : cpu_(cpu),
      predictor_(choice.predictor),
      horizon_(choice.horizon),
      layers_(config.layers()),
      picks_(config.experts_per_token()) {
  const bool makes_logits = predictor_ == Predictor::token_table || predictor_ == Predictor::first_gate;
  if (makes_logits)
    moe::require_equal("--predictor", "logits of the routers, one for each expert", config.experts(), logits);
  if (predictor_ == Predictor::token_table)
    frequencies_.emplace(
        moe::TokenFrequenciesShape{.vocabulary = config.vocab, .layers = layers_, .experts = config.experts()});
  if (predictor_ == Predictor::paths) read_paths(choice, config);
  if (predictor_ == Predictor::first_gate) read_first_gate(choice, config);
}

void Guesser::read_paths(const StorageChoice& choice, const moe::io::ModelConfig& config) {
  constexpr const char* where = "--predictor path";
  int moe_layers = 0;
  for (int layer = 0; layer < layers_; ++layer) moe_layers += config.is_moe_layer(layer) ? 1 : 0;
  paths_ = moe::io::read_path_predictor(choice.predictor_file);
  moe::require_equal(where, "token ids", config.vocab, paths_->vocabulary());
  moe::require_equal(where, "layers with experts", moe_layers, paths_->layers());
  moe::require_equal(where, "experts a layer", config.experts(), paths_->experts());
  path_state_ = paths_->begin();
}

void Guesser::read_first_gate(const StorageChoice& choice, const moe::io::ModelConfig& config) {
  constexpr const char* where = "--predictor first-gate";
  if (!config.is_moe_layer(0)) moe::raise(moe::Error(where, "layer 0", "one with experts", "one without"));
  first_gate_ = moe::io::read_first_gate(choice.predictor_file);
  moe::require_equal(where, "experts a layer", config.experts(), first_gate_->experts());
  moe::require_equal(where, "hidden width", config.hidden(), first_gate_->hidden());
}

void Guesser::begin_sequence() {
  if (paths_) path_state_ = paths_->begin();
}

void Guesser::begin_pass(moe::Row<const int> tokens, int streams, const moe::ExpertCache& cache) {
  tokens_ = tokens;
  if (!paths_) return;
  const int own = tokens.size() / streams;
  if (logits_.rows() < own) logits_ = Matrix(own, paths_->outputs());
  paths_->advance(cpu_, path_state_, tokens.first(own), logits_.first(own));
  cache.plan(planned(logits_.first(own)));
}

/// The likeliest experts of every token, with how many tokens are expected to choose them.
std::vector<moe::PlannedExpert> Guesser::planned(ConstRows logits) const {
  const int experts = paths_->experts();
  std::vector<float> expected(static_cast<std::size_t>(logits.cols));
  for (int t = 0; t < logits.rows; ++t)
    for (int l = 0; l < paths_->layers(); ++l)
      moe::for_each_largest({logits.row(t).data() + l * experts, experts}, picks_, [&](int e, float logit) {
        expected[static_cast<std::size_t>(l * experts + e)] += probability(logit);
      });
  std::vector<moe::PlannedExpert> uses;
  for (int column = 0; column < logits.cols; ++column)
    if (const float tokens = expected[static_cast<std::size_t>(column)]; tokens > 0)
      uses.push_back({column / experts, column % experts, tokens});
  return uses;
}

int Guesser::count_after(int layer) const noexcept {
  return predictor_ == Predictor::paths ? 0 : std::min(horizon_, layers_ - first_after(layer));
}

ConstRows Guesser::logits(int layer) {
  if (!frequencies_) return {};
  if (logits_.rows() < tokens_.size()) logits_ = Matrix(tokens_.size(), frequencies_->shape().experts);
  frequencies_->logits(layer, tokens_, logits_.first(tokens_.size()));
  return logits_.first(tokens_.size());
}

ConstRows Guesser::logits_of_next(ConstRows outputs) {
  return first_gate_ ? first_gate_->guess(cpu_, outputs) : ConstRows{};
}

void Guesser::routed(int layer, const moe::Frame<>& frame) {
  if (!frequencies_ || tokens_.size() == 0) return;
  moe::FrequencyObserver{&*frequencies_, layer, tokens_.data()}.done(frame);
}

}  // namespace engine

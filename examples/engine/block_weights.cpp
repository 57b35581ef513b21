#include "block_weights.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace engine {

namespace {

using moe::io::BlockConfig;
using moe::io::Checkpoint;
using moe::io::GateConfig;
using moe::io::RouterConfig;
using moe::io::SharedConfig;

moe::Row<const float> row_of(const std::vector<float>& values) {
  return {values.data(), static_cast<int>(values.size())};
}
const float* data_of(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

}  // namespace

BlockWeights::BlockWeights(const Checkpoint& checkpoint, int layer) : blocks_(checkpoint.blocks()), layer_(layer) {
  read_gate(checkpoint);
  read_router(checkpoint);
  read_rest(checkpoint);
}

void BlockWeights::read_gate(const Checkpoint& checkpoint) {
  const GateConfig& g = blocks_.gate;
  const int logits = blocks_.logits(layer_), hidden = blocks_.hidden, state = g.state;
  const auto vector = [&](const std::string& name, int size) { return checkpoint.vector(layer_, name, size); };
  const auto matrix = [&](const std::string& name, int rows, int cols) {
    return Matrix(checkpoint.matrix(layer_, name, rows, cols), rows, cols);
  };
  gate_ = Matrix(checkpoint.gate(layer_), logits, g.kind == GateConfig::Kind::carried ? state : hidden);
  if (!g.bias.empty()) gate_bias_ = vector(g.bias, logits);
  if (!g.gain.empty()) gain_ = vector(g.gain, hidden);
  if (g.kind != GateConfig::Kind::carried) return;
  enter_ = matrix(g.enter, state, hidden);
  first_ = matrix(g.first, state, state);
  second_ = matrix(g.second, state, state);
  enter_bias_ = vector(g.enter_bias, state);
  norm_ = vector(g.norm, state);
  first_bias_ = vector(g.first_bias, state);
  second_bias_ = vector(g.second_bias, state);
  if (checkpoint.has(layer_, g.carried)) carried_ = vector(g.carried, state);
}

void BlockWeights::read_router(const Checkpoint& checkpoint) {
  const RouterConfig& r = blocks_.router;
  const int choosable = r.choosable(layer_);
  if (r.is_hash_layer(layer_)) {
    table_ = checkpoint.token_table(layer_);
  } else if (!r.bias.empty()) {
    bias_ = checkpoint.vector(layer_, r.bias, choosable);
  }
  if (!r.expert_scale.empty()) expert_scale_ = checkpoint.vector(layer_, r.expert_scale, choosable);
}

void BlockWeights::read_rest(const Checkpoint& checkpoint) {
  const SharedConfig& shared = blocks_.shared;
  if (shared.mixing != SharedConfig::Mixing::none && !shared.weight.empty()) {
    const int rows = shared.mixing == SharedConfig::Mixing::learned ? 2 : 1;
    mixing_ = Matrix(checkpoint.matrix(layer_, shared.weight, rows, blocks_.hidden), rows, blocks_.hidden);
    if (!shared.bias.empty()) mixing_bias_ = checkpoint.vector(layer_, shared.bias, rows);
  }
  if (const int width = blocks_.latent.width; width != 0) {
    latent_enter_ =
        Matrix(checkpoint.matrix(layer_, blocks_.latent.enter, width, blocks_.hidden), width, blocks_.hidden);
    latent_leave_ =
        Matrix(checkpoint.matrix(layer_, blocks_.latent.leave, blocks_.hidden, width), blocks_.hidden, width);
  }
}

BlockGate BlockWeights::gate() const {
  const GateConfig& g = blocks_.gate;
  if (g.kind == GateConfig::Kind::linear) return moe::Linear<>{gate_.view(), data_of(gate_bias_)};
  if (g.kind == GateConfig::Kind::normalised) return moe::NormalisedLinear<>{gate_.view(), data_of(gain_), g.epsilon};
  return moe::CarriedMlp<>{{.enter = enter_.view(),
                            .enter_bias = data_of(enter_bias_),
                            .carried = data_of(carried_),
                            .norm = data_of(norm_),
                            .norm_eps = g.epsilon,
                            .first = first_.view(),
                            .first_bias = data_of(first_bias_),
                            .second = second_.view(),
                            .second_bias = data_of(second_bias_),
                            .leave = gate_.view()}};
}

moe::TopK top_k_of(const RouterConfig& r, int layer, moe::Row<const float> bias, moe::Row<const float> expert_scale) {
  return {.experts = r.experts.at(layer),
          .k = r.k.at(layer),
          .score = r.score,
          .normalise = r.normalise,
          .scale = r.scale,
          .logits = r.logits,
          .bias = {bias},
          .groups = r.groups,
          .expert_scale = expert_scale,
          .identities = r.identities,
          .nulls = r.nulls};
}

BlockRouter BlockWeights::router() const {
  const RouterConfig& r = blocks_.router;
  moe::TopK inner = top_k_of(r, layer_, row_of(bias_), row_of(expert_scale_));
  if (!table_.empty()) return moe::TokenTable<moe::TopK>{inner, {table_.data(), r.vocab, r.k.at(layer_)}};
  switch (r.kind) {
    case RouterConfig::Kind::top_k:
      return inner;
    case RouterConfig::Kind::sparse_mixer:
      return moe::SparseMixer{.experts = inner.experts, .k = inner.k, .jitter = r.jitter};
    case RouterConfig::Kind::null_experts:
      inner.nulls = 0;
      inner.k = std::min(inner.k, inner.experts);
      return moe::NullExperts<moe::TopK>{.inner = inner, .nulls = r.nulls, .k = r.k.at(layer_)};
    case RouterConfig::Kind::capacity:
      break;
  }
  moe::Capacity<moe::TopK> capacity{.inner = inner, .fixed = r.capacity, .renormalise = r.renormalise_left};
  if (r.capacity == 0) {  // a part of all rows: factor = part * E / k
    constexpr int steps = 1000;
    const int part = std::max(1, static_cast<int>(std::lround(r.capacity_of_rows * steps)));
    capacity.factor = {part * inner.experts, steps * inner.k};
  } else {
    capacity.per_sequence = true;
  }
  return capacity;
}

BlockMixing BlockWeights::mixing() const {
  switch (blocks_.shared.mixing) {
    case SharedConfig::Mixing::average:
      return moe::AverageShared{};
    case SharedConfig::Mixing::sigmoid:
      return moe::SigmoidShared<>{mixing_.view()};
    case SharedConfig::Mixing::learned:
      return moe::LearnedMix<>{mixing_.view(), data_of(mixing_bias_)};
    default:
      return moe::AddShared{};
  }
}

moe::Latent<> BlockWeights::latent() const {
  return {.enter_weight = latent_enter_.view(), .leave_weight = latent_leave_.view()};
}

Matrix BlockWeights::coefficients(const moe::Cpu& cpu, ConstRows x) const {
  if (blocks_.shared.mixing != SharedConfig::Mixing::learned) return {};
  Matrix c(x.rows, 2);
  moe::Frame<> unused;
  cpu.linear(unused, x, mixing_.view(), data_of(mixing_bias_), c.view());
  for (int t = 0; t < x.rows; ++t) {
    const moe::Row<float> row = c.view().row(t);
    row[0] = moe::sigmoid(row[0] - row[1]);
    row[1] = 1 - row[0];
  }
  return c;
}

}  // namespace engine

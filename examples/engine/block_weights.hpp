// BlockWeights: what one mixture-of-experts block has beside its experts, and the policies that work on it.
#pragma once

#include <moe/any_policy.hpp>
#include <moe/envelope.hpp>
#include <moe/gate.hpp>
#include <moe/io/checkpoint.hpp>
#include <moe/routers/capacity.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/sparse_mixer.hpp>
#include <moe/routers/token_table.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/shared.hpp>
#include <vector>

#include "dense.hpp"

namespace engine {

/// Whatever routes, opens and mixes in a published model: one type, so that one layer type serves all families.
using BlockRouter = moe::AnyRouter<moe::TopK, moe::SparseMixer, moe::NullExperts<moe::TopK>, moe::TokenTable<moe::TopK>,
                                   moe::Capacity<moe::TopK>>;
using BlockGate = moe::AnyGate<moe::Linear<>, moe::NormalisedLinear<>, moe::CarriedMlp<>>;
using BlockMixing = moe::AnyMixing<moe::AddShared, moe::AverageShared, moe::SigmoidShared<>, moe::LearnedMix<>>;

/// The scores and picks of `layer`, without what surrounds them in some families; views bias [L] and scale [E].
moe::TopK top_k_of(const moe::io::RouterConfig& router, int layer, moe::Row<const float> bias = {},
                   moe::Row<const float> expert_scale = {});

/// Gate, router and mixing of one layer of a checkpoint, in memory. The policies that it gives view what it owns.
class BlockWeights {
 public:
  /// Throws moe::IoError for what is missing, mis-shaped or not finite.
  BlockWeights(const moe::io::Checkpoint& checkpoint, int layer);
  BlockWeights(const BlockWeights&) = delete;
  BlockWeights& operator=(const BlockWeights&) = delete;

  BlockGate gate() const;
  BlockRouter router() const;
  BlockMixing mixing() const;
  moe::Latent<> latent() const;

  /// The gate takes the state of the layer before (Zaya's layers but the first).
  bool takes_state() const noexcept { return !carried_.empty(); }
  /// The softmax of the learned mix (PR-MoE), by row: [T,2]; empty for other families.
  Matrix coefficients(const moe::Cpu& cpu, ConstRows x) const;

 private:
  void read_gate(const moe::io::Checkpoint& checkpoint);
  void read_router(const moe::io::Checkpoint& checkpoint);
  void read_rest(const moe::io::Checkpoint& checkpoint);

  moe::io::BlockConfig blocks_;
  int layer_;
  Matrix gate_;
  std::vector<float> gate_bias_, gain_;
  Matrix enter_, first_, second_;  // of a carried gate
  std::vector<float> enter_bias_, carried_, norm_, first_bias_, second_bias_;
  std::vector<float> bias_, expert_scale_;
  std::vector<int> table_;
  Matrix mixing_;
  std::vector<float> mixing_bias_;
  Matrix latent_enter_, latent_leave_;
};

}  // namespace engine

// What the mixture-of-experts blocks of one model are, as plain data: numbers, forms, and where their tensors lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <moe/activations.hpp>
#include <moe/expert.hpp>
#include <moe/io/config_reader.hpp>
#include <moe/scores.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

/// One value for all layers, or one a layer; a list that ends early goes on with its last value.
template <class T>
class PerLayer {
 public:
  PerLayer() : values_(1) {}
  PerLayer(T value) : values_(1, std::move(value)) {}             // NOLINT: a value is the same in all layers
  PerLayer(std::vector<T> values) : values_(std::move(values)) {  // NOLINT
    if (values_.empty()) values_.resize(1);
  }

  const T& at(int layer) const {
    return values_[std::min(static_cast<std::size_t>(std::max(layer, 0)), values_.size() - 1)];
  }
  const std::vector<T>& values() const { return values_; }
  std::vector<T>& values() { return values_; }

 private:
  std::vector<T> values_;
};

// ---- where tensors lie. In every name {i} stands for the layer and {e} for the expert

/// How a network's matrices lie in their tensors.
struct NetworkTensors {
  /// One tensor holds gate and up: all gate rows first, or row by row in turn.
  enum class Fusion { separate, halves, interleaved };
  enum class Experts {
    own_tensors,  // each expert has its own (a shared expert too): [N,K]
    stacked,      // [E,N,K]
    flat          // [E*N,K]
  };

  std::string gate, up, down;  // `up` is the fused tensor where there is one; no `gate` then, nor for ungated experts
  std::string gate_bias, up_bias, down_bias;  // none: empty
  Fusion fusion = Fusion::separate;
  Experts experts = Experts::own_tensors;
  bool up_transposed = false, down_transposed = false;  // inputs first: [K,N]
  /// `up` and `down` are the heads of two names each: *_blocks u8 [E,N,K/32,16] and *_scales u8 [E,N,K/32] (MXFP4).
  bool mxfp4 = false;
};

/// How the gate makes logits, and its tensors.
struct GateConfig {
  enum class Kind {
    linear,
    normalised,  // Gemma-4
    carried      // Zaya
  };
  Kind kind = Kind::linear;
  std::vector<std::string> weight;  // [L,H] together, one below the other
  std::string bias;                 // [L]; none: empty
  std::string gain;                 // of `normalised` [H]
  float epsilon = 0;                // of the norm inside
  // Of `carried`, with state width R: enter [R,H], scale of the carried state [R] (the first layer has none),
  // norm [R], two hidden matrices [R,R], each but `weight` with a bias.
  int state = 0;
  std::string enter, enter_bias, carried, norm, first, first_bias, second, second_bias;
};

// ---- numbers

/// Who picks, and how picks are weighed; the fields of moe::TopK and of what may surround it.
struct RouterConfig {
  enum class Kind {
    top_k,
    sparse_mixer,  // Phi-3.5-MoE
    null_experts,  // AdaMoE: `nulls` logits behind the experts', weights over the experts that are left
    capacity       // Switch, NLLB
  };
  Kind kind = Kind::top_k;
  PerLayer<int> experts;  // E
  PerLayer<int> k = 1;
  Score score = Score::softmax_of_picked;
  Normalisation normalise = Normalisation::none();
  float scale = 1;
  LogitMap logits{};
  GroupLimit groups{};
  int identities = 0, nulls = 0;
  float jitter = 0;                       // of the sparse mixer
  int capacity = 0;                       // rows per expert
  double capacity_of_rows = 0;            // as a part of all rows, where `capacity` is 0
  bool renormalise_left = false;          // after rows were turned away
  std::vector<int> hash_layers;           // layers whose picks come from a table by token id, ascending
  int vocab = 0;                          // rows of that table
  std::string bias, expert_scale, table;  // [L], [E], [V,K]; none: empty

  int choosable(int layer) const { return experts.at(layer) + identities + nulls; }
  bool is_hash_layer(int layer) const { return std::binary_search(hash_layers.begin(), hash_layers.end(), layer); }
};

/// Experts that every token passes, as one network.
struct SharedConfig {
  enum class Mixing { none, add, sigmoid, average, learned };
  Mixing mixing = Mixing::none;
  PerLayer<int> ffn;
  NetworkTensors tensors;
  std::string weight, bias;  // of `sigmoid` [1,H]; of `learned` [2,H] and [2]
};

/// Experts of a narrower width between two projections (Nemotron-H 3).
struct LatentConfig {
  int width = 0;                                     // 0: none
  std::string enter, leave, enter_bias, leave_bias;  // [M,H], [H,M], [M], [H]; biases may be empty
};

/// One run of layers whose names begin alike: a decoder, or the encoder before it.
struct LayerStack {
  int layers = 0;                     // 0: as many as the checkpoint holds
  std::vector<std::string> prefixes;  // in order of preference; the checkpoint has one of them
};

/// The blocks of one model. Layers count through all stacks.
struct BlockConfig {
  std::string family;  // its model_type
  int hidden = 0;      // H
  std::vector<LayerStack> stacks;
  std::vector<int> moe_layers;  // ascending; none where the checkpoint tells how many there are

  RouterConfig router;
  GateConfig gate;

  bool gated = true;
  PerLayer<AnyGated> act, shared_act;  // of gated experts
  AnyUngated ungated_act{};
  WeightOn weight_on = WeightOn::output;
  float output_scale = 1;

  PerLayer<int> ffn;  // F
  bool biased = false;
  std::vector<NetworkTensors> experts;  // as families publish them; the checkpoint has one of them
  SharedConfig shared;
  LatentConfig latent;

  /// Of layers without experts; only where an engine runs whole models.
  int dense_ffn = 0;
  NetworkTensors dense;

  bool is_moe_layer(int layer) const { return std::binary_search(moe_layers.begin(), moe_layers.end(), layer); }
  int layers() const {
    int n = 0;
    for (const LayerStack& stack : stacks) n += stack.layers;
    return n;
  }
  /// Width that experts see.
  int expert_hidden() const { return latent.width != 0 ? latent.width : hidden; }
  ExpertShape expert_shape(int layer) const { return {expert_hidden(), ffn.at(layer), gated, biased}; }
  ExpertShape shared_shape(int layer) const {
    return {hidden, shared.ffn.at(layer), gated, !shared.tensors.up_bias.empty()};
  }
  int logits(int layer) const { return router.choosable(layer); }
};

}  // namespace moe::io

#include "model.hpp"

#include <string>
#include <utility>

#include "adamoe.hpp"

namespace engine {

namespace {

using moe::io::Checkpoint;
using moe::io::ModelConfig;
using moe::io::QkNorm;

/// Two ways to walk through the backbone's tensors: to check them, and to read them.
struct CheckTensors {
  const Checkpoint& checkpoint;
  Matrix matrix(const std::string& name, int rows, int cols) const {
    checkpoint.require(name, {rows, cols});
    return {};
  }
  std::vector<float> vector(const std::string& name, int size) const {
    checkpoint.require(name, {size});
    return {};
  }
};
struct ReadTensors {
  const Checkpoint& checkpoint;
  Matrix matrix(const std::string& name, int rows, int cols) const {
    return {checkpoint.read_f32(name, {rows, cols}), rows, cols};
  }
  std::vector<float> vector(const std::string& name, int size) const { return checkpoint.read_f32(name, {size}); }
};

template <class Tensors>
Projection projection(const Tensors& tensors, const std::string& name, int outputs, int inputs, bool bias) {
  Projection p{tensors.matrix(name + ".weight", outputs, inputs), {}};
  if (bias) p.bias = tensors.vector(name + ".bias", outputs);
  return p;
}

template <class Tensors>
AttentionWeights attention(const Tensors& tensors, const ModelConfig& c, const std::string& prefix) {
  const int queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  AttentionWeights w;
  w.query = projection(tensors, prefix + "q_proj", queries, c.hidden(), c.attention_bias);
  w.key = projection(tensors, prefix + "k_proj", keys, c.hidden(), c.attention_bias);
  w.value = projection(tensors, prefix + "v_proj", keys, c.hidden(), c.attention_bias);
  w.output = projection(tensors, prefix + "o_proj", c.hidden(), queries, c.attention_bias);
  if (c.qk_norm != QkNorm::none) {
    const bool per_head = c.qk_norm == QkNorm::per_head;
    w.query_gain = tensors.vector(prefix + "q_norm.weight", per_head ? c.head_dim : queries);
    w.key_gain = tensors.vector(prefix + "k_norm.weight", per_head ? c.head_dim : keys);
  }
  return w;
}

template <class Tensors>
Backbone backbone(const Tensors& tensors, const ModelConfig& c) {
  Backbone b;
  b.embeddings = tensors.matrix("model.embed_tokens.weight", c.vocab, c.hidden());
  for (int layer = 0; layer < c.layers(); ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    b.layers.push_back({tensors.vector(prefix + "input_layernorm.weight", c.hidden()),
                        tensors.vector(prefix + "post_attention_layernorm.weight", c.hidden()),
                        attention(tensors, c, prefix + "self_attn.")});
  }
  b.final_gain = tensors.vector("model.norm.weight", c.hidden());
  if (!c.tied_embeddings) b.output = tensors.matrix("lm_head.weight", c.vocab, c.hidden());
  return b;
}

}  // namespace

void check_backbone(const Checkpoint& checkpoint) { backbone(CheckTensors{checkpoint}, checkpoint.config()); }

Backbone load_backbone(const Checkpoint& checkpoint) {
  check_backbone(checkpoint);
  return backbone(ReadTensors{checkpoint}, checkpoint.config());
}

Model::Model(const std::filesystem::path& directory, const Options& options, const LoadProgress& progress)
    : checkpoint_(options.adamoe.empty() ? std::make_shared<const Checkpoint>(directory)
                                         : open_adamoe(directory, options.adamoe)),
      cpu_(options.cpu),
      backbone_(load_backbone(*checkpoint_)),
      experts_(checkpoint_, options, options.adamoe.empty() ? TrainedNulls{} : load_nulls(options.adamoe), progress) {}

}  // namespace engine

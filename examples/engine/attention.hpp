// Attention of one decoder layer: rotary positions, grouped queries, norms of queries and keys, sliding windows.
#pragma once

#include <moe/io/model_config.hpp>
#include <span>
#include <vector>

#include "dense.hpp"
#include "kv_cache.hpp"

namespace engine {

/// Rotary position embeddings (Su et al. 2021) in the order of halves that Hugging Face checkpoints have:
/// element i of a head turns with element i + head_dim / 2.
class Rotation {
 public:
  Rotation(int head_dim, double theta, int most_rows);

  /// Prepares the angles of `rows` positions from `first` on.
  void prepare(int first, int rows);
  /// Turns one head of the prepared row `t`.
  void apply(int t, float* head) const;

 private:
  std::vector<float> frequencies_;  // [head_dim / 2]
  Matrix cosines_, sines_;          // [rows, head_dim / 2]
};

struct AttentionWeights {
  Projection query, key, value, output;
  std::vector<float> query_gain, key_gain;  // of the norms, empty if there are none
};

/// What the layers of a model share of their attention: its numbers and the memory it works in.
class Attention {
 public:
  /// Works on up to `most_rows` rows at once.
  Attention(const moe::io::ModelConfig& config, const moe::Cpu& cpu, int most_rows);

  /// Called once for a batch of tokens, before the layers.
  void begin(int first_position, int tokens);
  /// out = attention of the rows of `in` to themselves and to what their cache holds; adds their keys and values to it.
  /// The rows are those of one stream after the other, as many for each; a stream sees its own cache alone.
  void forward(const AttentionWeights& weights, ConstRows in, std::span<KvCache> caches, Rows out);

 private:
  void prepare_head_rows(Rows rows, const std::vector<float>& gain) const;
  void store(std::span<KvCache> caches, Rows keys, Rows values) const;
  void attend(std::span<const KvCache> caches, Rows queries, Rows out) const;

  moe::io::ModelConfig config_;
  moe::Cpu cpu_;
  Rotation rotation_;
  int first_position_ = 0, tokens_ = 0;  // of the batch
  Matrix queries_, keys_, values_, attended_;
};

}  // namespace engine

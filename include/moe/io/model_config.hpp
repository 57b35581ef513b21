// What an engine must know of a whole language model, as plain data.
#pragma once

#include <moe/io/block_config.hpp>
#include <optional>
#include <vector>

namespace moe::io {

/// Where the queries and keys are RMS-normalised before the rotation.
enum class QkNorm { none, per_head, whole_row };

/// One model's numbers. Everything was checked: sizes are positive and bounded, heads divide, top-k fits.
struct ModelConfig {
  BlockConfig blocks;
  int vocab = 0;  // V

  int heads = 0;
  int kv_heads = 0;  // divides `heads`
  int head_dim = 0;  // even; heads * head_dim may differ from the hidden width
  QkNorm qk_norm = QkNorm::none;
  bool attention_bias = false;
  std::optional<float> clip_qkv;      // queries, keys and values are clamped to [-clip, clip]
  std::optional<int> sliding_window;  // positions a token sees, itself included
  double rope_theta = 0;
  float rms_norm_eps = 0;
  int max_positions = 0;
  bool tied_embeddings = false;       // the output matrix is the embedding matrix
  std::vector<int> bos_ids, eos_ids;  // tokens in [0, vocab); may be empty

  int layers() const { return blocks.layers(); }
  int hidden() const { return blocks.hidden; }
  // The same in all layers:
  int experts() const { return blocks.router.experts.at(0); }
  int experts_per_token() const { return blocks.router.k.at(0); }
  bool is_moe_layer(int layer) const { return blocks.is_moe_layer(layer); }
};

}  // namespace moe::io

// Model: a published directory in memory, ready to compute. Everything but the experts is in Backbone.
#pragma once

#include <filesystem>
#include <memory>
#include <moe/io/checkpoint.hpp>
#include <vector>

#include "attention.hpp"
#include "moe_stack.hpp"

namespace engine {

struct DecoderLayer {
  std::vector<float> attention_gain, feed_forward_gain;  // of the norms before each
  AttentionWeights attention;
};

/// A decoder without its feed-forwards, in float32.
struct Backbone {
  Matrix embeddings;  // [V,H]
  std::vector<DecoderLayer> layers;
  std::vector<float> final_gain;
  Matrix output;  // [V,H]; empty if the embeddings serve
};

/// Throws moe::IoError unless the checkpoint has every tensor of the backbone in the right shape and a known element
/// type. Reads none of them.
void check_backbone(const moe::io::Checkpoint& checkpoint);
/// Checks all, then reads all.
Backbone load_backbone(const moe::io::Checkpoint& checkpoint);

/// A model of one of the families that moe::io knows. Throws moe::IoError for what is missing, mis-shaped or malformed.
class Model {
 public:
  Model(const std::filesystem::path& directory, const Options& options, const LoadProgress& progress = {});

  const moe::io::ModelConfig& config() const noexcept { return checkpoint_->config(); }
  const moe::io::Checkpoint& checkpoint() const noexcept { return *checkpoint_; }
  const moe::Cpu& cpu() const noexcept { return cpu_; }
  const Backbone& backbone() const noexcept { return backbone_; }
  MoeStack& experts() noexcept { return experts_; }
  const MoeStack& experts() const noexcept { return experts_; }
  /// The matrix that turns hidden states into logits.
  ConstRows output() const noexcept {
    return backbone_.output.rows() != 0 ? backbone_.output.view() : backbone_.embeddings.view();
  }

 private:
  std::shared_ptr<const moe::io::Checkpoint> checkpoint_;
  moe::Cpu cpu_;
  Backbone backbone_;
  MoeStack experts_;
};

}  // namespace engine

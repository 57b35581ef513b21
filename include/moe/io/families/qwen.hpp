// Qwen and Mellum.
#pragma once

#include <moe/io/families/decoder_parts.hpp>

namespace moe::io::detail {

/// Qwen's line: which layers have experts, and the names.
inline void read_qwen(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  LayerFilter filter(config, b.layers());
  filter.only(b.moe_layers);
  filter.every("decoder_sparse_step");
  filter.without("mlp_only_layers");
  b.moe_layers = filter.layers();
  name_as_qwen(b);
}

inline void qwen_shared(const ConfigReader& config, BlockConfig& b) {
  shared_network(b, SharedConfig::Mixing::sigmoid, width(config, {"shared_expert_intermediate_size"}),
                 projections("mlp.shared_expert."));
  b.shared.weight = "mlp.shared_expert_gate.weight";
}

inline void read_qwen2_moe(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b);
  read_norm_topk_prob(config, b);
  qwen_shared(config, b);
}

inline void read_qwen3_moe(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b);
  read_norm_topk_prob(config, b);
  b.dense_ffn = config.integer_or(0, "intermediate_size", 1, ModelLimits::width);
  b.dense = projections("mlp.");
}

inline void read_qwen3_5_moe(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b);
  qwen_shared(config, b);
}

inline void read_qwen3_vl_moe(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b);
  b.experts = {fused_transposed("mlp.experts.gate_up_proj", "mlp.experts.down_proj")};
}

inline void read_mellum(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b);
  read_norm_topk_prob(config, b);
}

inline void read_qwen3_decoder(const ConfigReader& config, ModelConfig& model) {
  model.blocks.dense_ffn = width(config, {"intermediate_size"});
  model.qk_norm = QkNorm::per_head;
  model.attention_bias = config.flag_or(false, "attention_bias");
  // Published configs carry a window that this flag switches off.
  if (config.flag_or(false, "use_sliding_window")) model.sliding_window = read_window(config);
}

inline constexpr Family qwen_families[]{
    {"qwen2_moe", models::rules::qwen2_moe, read_qwen2_moe},
    // Its shipped models set norm_topk_prob; a config without the key means false.
    {"qwen3_moe", models::rules::qwen2_moe, read_qwen3_moe, read_qwen3_decoder},
    {"qwen3_next", models::rules::qwen3_moe, read_qwen2_moe},
    {"qwen4_exp", models::rules::qwen3_moe, read_qwen2_moe},
    {"qwen4_exp_text", models::rules::qwen3_moe, read_qwen2_moe},
    {"qwen3_5_moe", models::rules::qwen3_moe, read_qwen3_5_moe},
    {"qwen3_5_moe_text", models::rules::qwen3_moe, read_qwen3_5_moe},
    {"qwen3_vl_moe", models::rules::qwen3_moe, read_qwen3_vl_moe},
    {"qwen3_vl_moe_text", models::rules::qwen3_moe, read_qwen3_vl_moe},
    {"mellum", models::rules::qwen3_moe, read_mellum},
};

}  // namespace moe::io::detail

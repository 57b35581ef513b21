// Mixtral and what has its blocks, Mistral 4.
#pragma once

#include <moe/io/families/decoder_parts.hpp>

namespace moe::io::detail {

inline void read_mixtral(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  name_as_mixtral(b);
}

inline void read_phimoe(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  b.router.kind = RouterConfig::Kind::sparse_mixer;
  b.router.jitter = factor(config, {"router_jitter_noise"}, 0.01);
  name_as_mixtral(b);
}

inline void read_mistral4(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  read_groups(config, b);
  normalise_if(b, config.flag_or(true, "norm_topk_prob"));
  b.router.scale = factor(config, {"routed_scaling_factor"});
  name_as_qwen(b);
  shared_experts(config, b, {"n_shared_experts"}, "mlp.shared_experts.");
}

inline void read_mixtral_decoder(const ConfigReader& config, ModelConfig& model) {
  if (config.find({"sliding_window"}) != nullptr) model.sliding_window = read_window(config);
}

inline constexpr Family mistral_families[]{
    {"mixtral", models::rules::mixtral, read_mixtral, read_mixtral_decoder},
    {"minimax", models::rules::mixtral, read_mixtral},
    {"phimoe", models::rules::mixtral, read_phimoe},
    {"mistral4", models::rules::mistral4, read_mistral4},
};

}  // namespace moe::io::detail

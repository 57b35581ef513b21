// Gemma 4.
#pragma once

#include <moe/io/families/parts.hpp>

namespace moe::io::detail {

inline void read_gemma4(const ConfigReader& config, BlockConfig& b) {
  if (!config.flag_or(true, "enable_moe_block")) config.refuse("enable_moe_block", "true", "false");
  read_decoder(config, b, {"moe_intermediate_size"});
  b.act = gated_activation(config, {"hidden_activation"}, "gelu_pytorch_tanh");
  b.gate.kind = GateConfig::Kind::normalised;
  b.gate.weight = {"router.proj.weight"};
  b.gate.gain = "router.scale";
  b.gate.epsilon = factor(config, {"rms_norm_eps"}, 1e-6);
  b.router.expert_scale = "router.per_expert_scale";
  b.experts = {fused("experts.gate_up_proj", "experts.down_proj")};
}

inline constexpr Family gemma_families[]{
    {"gemma4", models::rules::mixtral, read_gemma4},
    {"gemma4_text", models::rules::mixtral, read_gemma4},
};

}  // namespace moe::io::detail

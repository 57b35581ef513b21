// MiniMax from M2 on.
#pragma once

#include <moe/io/families/parts.hpp>

namespace moe::io::detail {

inline void read_minimax_m2(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  b.router.bias = bias_if(config, "use_routing_bias", "block_sparse_moe.e_score_correction_bias");
  name_as_mixtral(b);
}

inline void read_minimax_m3(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"intermediate_size"});
  read_experts_and_picks(config, b);
  read_decoder_layers(config, b);
  b.router.bias = bias_if(config, "use_routing_bias", "block_sparse_moe.e_score_correction_bias");
  name_as_mixtral(b);
  b.act = b.shared_act = AnyGated{
      .kind = AnyGated::Kind::gpt_oss,
      .gpt_oss = {.alpha = factor(config, {"swiglu_alpha"}, 1.702), .limit = factor(config, {"swiglu_limit"}, 7)}};
  b.output_scale = factor(config, {"routed_scaling_factor"});
  shared_network(b, SharedConfig::Mixing::add, config.integer_or(0, "shared_intermediate_size", 0, ModelLimits::width),
                 projections("block_sparse_moe.shared_experts."));
}

inline constexpr Family minimax_families[]{
    {"minimax_m2", models::rules::minimax_m2, read_minimax_m2},
    {"minimax_m3", models::rules::minimax_m3, read_minimax_m3},
    {"minimax_m3_vl", models::rules::minimax_m3, read_minimax_m3},
    {"minimax_m3_vl_text", models::rules::minimax_m3, read_minimax_m3},
};

}  // namespace moe::io::detail

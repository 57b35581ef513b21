// Hunyuan.
#pragma once

#include <moe/io/families/parts.hpp>

namespace moe::io::detail {

inline void read_hunyuan(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  name_as_qwen(b);
  b.gate.weight = {"mlp.gate.wg.weight"};
  shared_network(b, SharedConfig::Mixing::add, b.ffn, projections("mlp.shared_mlp."));
}

inline void read_hy_v3(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"}, 1);
  b.router.bias = "mlp.expert_bias";
  b.router.scale = factor(config, {"router_scaling_factor", "routed_scaling_factor"});
  name_as_qwen(b);
  b.gate.weight = {"mlp.router.gate.weight"};
  shared_experts(config, b, {"num_shared_experts"}, "mlp.shared_mlp.", 1);
}

inline constexpr Family hunyuan_families[]{
    {"hunyuan_v1_moe", models::rules::mixtral, read_hunyuan},
    {"hy_v3", models::rules::deepseek_v3, read_hy_v3},
};

}  // namespace moe::io::detail

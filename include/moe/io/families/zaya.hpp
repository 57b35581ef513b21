// Zaya.
#pragma once

#include <moe/io/families/parts.hpp>

namespace moe::io::detail {

inline void read_zaya(const ConfigReader& config, BlockConfig& b) {
  b.router.nulls = 1;
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.bias = "mlp.gate.balancing_biases";
  GateConfig& g = b.gate;
  g.kind = GateConfig::Kind::carried;
  g.state = width(config, {"router_hidden_size"});
  g.epsilon = factor(config, {"rms_norm_eps", "norm_epsilon"}, 1e-5);
  g.enter = "mlp.gate.down_proj.weight";
  g.enter_bias = "mlp.gate.down_proj.bias";
  g.carried = "mlp.gate.router_states_scale";
  g.norm = "mlp.gate.router_mlp.norm.weight";
  g.first = "mlp.gate.router_mlp.fc1.weight";
  g.first_bias = "mlp.gate.router_mlp.fc1.bias";
  g.second = "mlp.gate.router_mlp.fc2.weight";
  g.second_bias = "mlp.gate.router_mlp.fc2.bias";
  g.weight = {"mlp.gate.router_mlp.out_proj.weight"};
  b.experts = {fused("mlp.experts.gate_up_proj", "mlp.experts.down_proj"), projections("mlp.experts.{e}.")};
}

inline constexpr Family zaya_families[]{
    {"zaya", models::rules::zaya, read_zaya},
};

}  // namespace moe::io::detail

// DBRX.
#pragma once

#include <moe/io/families/parts.hpp>
#include <optional>

namespace moe::io::detail {

inline void read_dbrx(const ConfigReader& config, BlockConfig& b) {
  const std::optional<ConfigReader> ffn = config.object_if_any("ffn_config");
  if (!ffn) config.refuse("ffn_config", "an object", "none");
  b.hidden = width(config, {"d_model", "hidden_size"});
  b.ffn = width(*ffn, {"ffn_hidden_size"});
  read_experts_and_picks(*ffn, b);
  if (const auto act = ffn->object_if_any("ffn_act_fn")) b.act = gated_activation(*act, {"name"});
  normalise_if(b, !ffn->says_null("moe_normalize_expert_weights"));
  b.router.normalise.power = factor(*ffn, {"moe_normalize_expert_weights"});
  b.stacks = {{config.integer({"n_layers", "num_hidden_layers"}, 1, ModelLimits::layers),
               {"transformer.blocks.{i}.", "model.blocks.{i}."}}};
  b.moe_layers = LayerFilter(config, b.layers()).layers();
  b.gate.weight = {"ffn.router.layer.weight"};
  NetworkTensors n;
  n.gate = "ffn.experts.mlp.w1";
  n.up = "ffn.experts.mlp.v1";
  n.down = "ffn.experts.mlp.w2";
  n.experts = NetworkTensors::Experts::flat;
  n.down_transposed = true;
  b.experts = {n};
}

inline constexpr Family dbrx_families[]{
    {"dbrx", models::rules::dbrx, read_dbrx},
};

}  // namespace moe::io::detail

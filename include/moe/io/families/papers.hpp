// Models of papers in their authors' formats: AdaMoE, PR-MoE.
#pragma once

#include <moe/io/families/parts.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moe::io::detail {

/// As many layers as the config or else the checkpoint has.
inline void layers_if_any(const ConfigReader& config, BlockConfig& b, std::vector<std::string> prefixes) {
  const int layers = config.integer_or(0, {"num_hidden_layers", "num_layers"}, 1, ModelLimits::layers);
  b.stacks = {{layers, std::move(prefixes)}};
}

inline void read_adamoe(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"intermediate_size"});
  b.act = gated_activation(config, {"hidden_act"});
  b.router.nulls = config.integer({"num_null_experts"}, 0, ModelLimits::experts);
  read_experts_and_picks(config, b);
  b.router.kind = RouterConfig::Kind::null_experts;
  layers_if_any(config, b, decoder_prefixes());
  b.moe_layers = LayerFilter(config, b.layers()).layers();
  name_as_mixtral(b);
  b.gate.weight.push_back("block_sparse_moe.gate2.weight");
}

inline void read_pr_moe(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"ffn_hidden_size"});
  b.gated = false;
  b.biased = true;
  b.ungated_act = ungated_activation(config, {"hidden_act"}, "gelu_tanh");
  read_experts_and_picks(config, b, {"top_k", "num_experts_per_tok"});
  if (config.flag_or(false, "drop_tokens")) config.refuse("drop_tokens", "false", "true");
  layers_if_any(config, b, {"transformer.layers.{i}.", "model.layers.{i}."});
  b.gate.weight = {"mlp.deepspeed_moe.gate.wg.weight"};
  b.experts = {ungated("mlp.deepspeed_moe.experts.deepspeed_experts.{e}.", "dense_h_to_4h", "dense_4h_to_h", true)};
  if (!config.flag_or(true, "use_residual")) return;
  shared_network(b, SharedConfig::Mixing::learned, b.ffn, ungated("mlp.mlp.", "dense_h_to_4h", "dense_4h_to_h", true));
  b.shared.weight = "mlp.coefficient.weight";
  b.shared.bias = "mlp.coefficient.bias";
}

inline constexpr Family paper_families[]{
    {"adamoe", models::rules::mixtral, read_adamoe},
    {"pr_moe", models::rules::pr_moe, read_pr_moe},
};

}  // namespace moe::io::detail

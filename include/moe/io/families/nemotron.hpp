// Nemotron-H.
#pragma once

#include <moe/io/families/parts.hpp>
#include <string>
#include <vector>

namespace moe::io::detail {

inline void read_nemotron_h(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"moe_intermediate_size"});
  b.gated = false;
  b.ungated_act = ungated_activation(config, {"mlp_hidden_act"}, "relu2");
  if (config.flag_or(false, "mlp_bias")) config.refuse("mlp_bias", "false (biased experts are not known)", "true");
  read_experts_and_picks(config, b);
  b.router.bias = "mixer.gate.e_score_correction_bias";
  b.router.scale = factor(config, {"routed_scaling_factor"});
  normalise_if(b, config.flag_or(true, "norm_topk_prob"));
  read_groups(config, b);
  const std::string pattern = config.text_or("", {"hybrid_override_pattern"});
  const std::vector<std::string> types =
      config.texts(config.find({"layers_block_type"}) ? "layers_block_type" : "layer_types");
  const std::size_t listed = types.empty() ? pattern.size() : types.size();
  if (listed > static_cast<std::size_t>(ModelLimits::layers))
    config.refuse("layers_block_type", concat("at most ", ModelLimits::layers, " layers"), std::to_string(listed));
  const int layers =
      listed != 0 ? static_cast<int>(listed) : config.integer({"num_hidden_layers"}, 1, ModelLimits::layers);
  b.stacks = {{layers, {"backbone.layers.{i}.", "model.layers.{i}.", "layers.{i}."}}};
  LayerFilter filter(config, layers);
  filter.keep([&](int i) {
    const auto at = static_cast<std::size_t>(i);
    return types.empty() ? at < pattern.size() && pattern[at] == 'E' : types[at] == "moe";
  });
  b.moe_layers = filter.layers();
  b.gate.weight = {"mixer.gate.weight"};
  b.experts = {ungated("mixer.experts.{e}.", "up_proj", "down_proj", false)};
  NetworkTensors stacked;
  stacked.up = "mixer.experts.up_proj";
  stacked.down = "mixer.experts.down_proj";
  stacked.experts = NetworkTensors::Experts::stacked;
  b.experts.push_back(stacked);
  shared_network(b, SharedConfig::Mixing::add,
                 config.integer_or(0, "moe_shared_expert_intermediate_size", 0, ModelLimits::width),
                 ungated("mixer.shared_experts.", "up_proj", "down_proj", false));
  b.latent.width = config.integer_or(0, "moe_latent_size", 1, ModelLimits::width);
  b.latent.enter = "mixer.fc1_latent_proj.weight";
  b.latent.leave = "mixer.fc2_latent_proj.weight";
}

inline constexpr Family nemotron_families[]{
    {"nemotron_h", models::rules::deepseek_v3, read_nemotron_h},
};

}  // namespace moe::io::detail

// Step.
#pragma once

#include <charconv>
#include <moe/io/families/parts.hpp>
#include <string>
#include <vector>

namespace moe::io::detail {

/// Limits of a clamp after the activation, one a layer; 0 and null: none.
inline PerLayer<AnyGated> output_clamps(const ConfigReader& config, const char* key) {
  std::vector<AnyGated> all;
  for (const double limit : config.numbers(key, 0, 1e6)) {
    AnyGated act;
    if (limit > 0) {
      act.kind = AnyGated::Kind::output_clamped;
      act.output_clamped.limit = static_cast<float>(limit);
    }
    all.push_back(act);
  }
  return all;
}

inline void read_step(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.act = output_clamps(config, "swiglu_limits");
  b.shared_act = output_clamps(config, "swiglu_limits_shared");
  if (config.find({"mlp_layer_types"}) == nullptr) {
    std::vector<int> listed;
    const Json* layers = config.find({"moe_layers_enum"});
    if (layers != nullptr && layers->is_string()) {  // "3,4,5"
      const std::string& text = layers->get_ref<const std::string&>();
      for (const char *at = text.data(), *end = at + text.size(); at < end; ++at) {
        int layer = 0;
        const auto [next, error] = std::from_chars(at, end, layer);
        if (error != std::errc() || (next != end && *next != ','))
          config.refuse("moe_layers_enum", "numbers and commas", in_quotes(text));
        listed.push_back(layer);
        at = next;
      }
    } else if (layers != nullptr) {
      listed = config.integers("moe_layers_enum", 0, ModelLimits::layers);
    } else {
      for (int i = 3; i < b.layers(); ++i) listed.push_back(i);
    }
    LayerFilter filter(config, b.layers());
    filter.only(listed);
    b.moe_layers = filter.layers();
  }
  b.router.bias = bias_if(config, "use_moe_router_bias", "moe.router_bias");
  normalise_if(b, config.flag_or(true, "norm_expert_weight"));
  b.output_scale = factor(config, {"moe_router_scaling_factor"});
  b.gate.weight = {"moe.gate.weight"};
  NetworkTensors n = projections("moe.");
  n.experts = NetworkTensors::Experts::stacked;
  b.experts = {n};
  shared_network(b, SharedConfig::Mixing::add,
                 config.integer({"share_expert_dim", "share_expert_dims"}, 0, ModelLimits::width),
                 projections("share_expert."));
}

inline constexpr Family step_families[]{
    {"step3p5", models::rules::minimax_m3, read_step},
    {"step3p7", models::rules::minimax_m3, read_step},
};

}  // namespace moe::io::detail

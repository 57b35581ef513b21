// Llama 4.
#pragma once

#include <moe/io/families/parts.hpp>
#include <vector>

namespace moe::io::detail {

inline void read_llama4(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  const std::vector<int> listed = config.integers("moe_layers", 0, ModelLimits::layers);
  LayerFilter filter(config, b.layers());
  if (config.find({"moe_layers"}) != nullptr) {
    filter.only(listed);
  } else {
    filter.every("interleave_moe_layer_step");
  }
  b.moe_layers = filter.layers();
  b.gate.weight = {"feed_forward.router.weight"};
  b.experts = {fused_transposed("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj")};
  shared_network(b, SharedConfig::Mixing::add, b.ffn, projections("feed_forward.shared_expert."));
}

inline constexpr Family llama_families[]{
    {"llama4", models::rules::llama4, read_llama4},
    {"llama4_text", models::rules::llama4, read_llama4},
};

}  // namespace moe::io::detail

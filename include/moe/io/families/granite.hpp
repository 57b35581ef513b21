// Granite.
#pragma once

#include <moe/io/families/parts.hpp>

namespace moe::io::detail {

inline void read_granite(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  b.gate.weight = {"block_sparse_moe.router.layer.weight"};
  b.experts = {fused("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight")};
}

inline void read_granite_shared(const ConfigReader& config, BlockConfig& b) {
  read_granite(config, b);
  NetworkTensors shared = fused("shared_mlp.input_linear.weight", "shared_mlp.output_linear.weight");
  shared.experts = NetworkTensors::Experts::own_tensors;
  shared_network(b, SharedConfig::Mixing::add, config.integer_or(0, "shared_intermediate_size", 0, ModelLimits::width),
                 shared);
}

inline constexpr Family granite_families[]{
    {"granitemoe", models::rules::gpt_oss, read_granite},
    {"granitemoeshared", models::rules::gpt_oss, read_granite_shared},
    {"granitemoehybrid", models::rules::gpt_oss, read_granite_shared},
};

}  // namespace moe::io::detail

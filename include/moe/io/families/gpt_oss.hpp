// GPT-OSS.
#pragma once

#include <moe/io/families/parts.hpp>

namespace moe::io::detail {

inline void read_gpt_oss(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  b.act = AnyGated{
      .kind = AnyGated::Kind::gpt_oss,
      .gpt_oss = {.alpha = factor(config, {"swiglu_alpha"}, 1.702), .limit = factor(config, {"swiglu_limit"}, 7)}};
  b.biased = true;
  b.gate.weight = {"mlp.router.weight"};
  b.gate.bias = "mlp.router.bias";
  NetworkTensors packed = fused("mlp.experts.gate_up_proj", "mlp.experts.down_proj");
  packed.fusion = NetworkTensors::Fusion::interleaved;
  packed.up_bias = "mlp.experts.gate_up_proj_bias";
  packed.down_bias = "mlp.experts.down_proj_bias";
  NetworkTensors plain = packed;
  packed.mxfp4 = true;
  plain.up_transposed = plain.down_transposed = true;
  b.experts = {packed, plain};
}

inline constexpr Family gpt_oss_families[]{
    {"gpt_oss", models::rules::gpt_oss, read_gpt_oss},
};

}  // namespace moe::io::detail

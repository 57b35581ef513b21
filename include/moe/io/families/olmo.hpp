// OLMoE and FlexOlmo.
#pragma once

#include <moe/io/families/decoder_parts.hpp>

namespace moe::io::detail {

inline void read_olmoe(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  read_norm_topk_prob(config, b);
  name_as_qwen(b);
}

inline void read_olmoe_decoder(const ConfigReader& config, ModelConfig& model) {
  model.qk_norm = QkNorm::whole_row;
  model.attention_bias = config.flag_or(false, "attention_bias");
  if (const auto clip = config.number_if_any("clip_qkv", 0, 1e6)) model.clip_qkv = static_cast<float>(*clip);
}

inline constexpr Family olmo_families[]{
    {"olmoe", models::rules::olmoe, read_olmoe, read_olmoe_decoder},
    {"flex_olmo", models::rules::olmoe, read_olmoe},
};

}  // namespace moe::io::detail

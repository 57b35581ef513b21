// The families of published mixture-of-experts models: one row each, and one short function in families_*.hpp.
#pragma once

#include <filesystem>
#include <moe/io/families_other.hpp>
#include <moe/io/families_sigmoid.hpp>
#include <moe/io/families_softmax.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace moe::io {

namespace detail {

struct BlockFamily {
  std::string_view model_type;
  void (*read)(const ConfigReader&, BlockConfig&);
};

inline constexpr BlockFamily block_families[]{
    {"mixtral", read_mixtral_block},
    {"minimax", read_mixtral_block},
    {"qwen2_moe", read_qwen2_moe},
    {"qwen3_moe", read_qwen3_moe_block},
    {"qwen3_next", read_qwen3_next},
    {"qwen3_5_moe", read_qwen3_5_moe},
    {"qwen3_5_moe_text", read_qwen3_5_moe},
    {"qwen4_exp", read_qwen3_next},
    {"qwen4_exp_text", read_qwen3_next},
    {"qwen3_vl_moe", read_qwen3_vl_moe},
    {"qwen3_vl_moe_text", read_qwen3_vl_moe},
    {"mellum", read_mellum},
    {"olmoe", read_olmoe_block},
    {"flex_olmo", read_olmoe_block},
    {"jamba", read_jamba},
    {"hunyuan_v1_moe", read_hunyuan},
    {"gpt_oss", read_gpt_oss},
    {"granitemoe", read_granite},
    {"granitemoeshared", read_granite_shared},
    {"granitemoehybrid", read_granite_shared},
    {"aria", read_aria},
    {"aria_text", read_aria},
    {"aria_moe_lm", read_aria},
    {"cohere2_moe", read_cohere2},
    {"dbrx", read_dbrx},
    {"phimoe", read_phimoe},
    {"gemma4", read_gemma4},
    {"gemma4_text", read_gemma4},
    {"deepseek_v2", read_deepseek_v2},
    {"mistral4", read_mistral4},
    {"ernie4_5_moe", read_ernie4_5},
    {"longcat_flash", read_longcat},
    {"zaya", read_zaya},
    {"deepseek_v3", read_deepseek_v3},
    {"deepseek_v32", read_deepseek_v3},
    {"kimi_k2", read_deepseek_v3},
    {"glm4_moe", read_first_dense},
    {"glm4_moe_lite", read_first_dense},
    {"glm4v_moe", read_first_dense},
    {"glm4v_moe_text", read_first_dense},
    {"glm_moe_dsa", read_deepseek_v3},
    {"dots1", read_dots1},
    {"solar_open", read_deepseek_v3},
    {"mimo_v2_flash", read_mimo},
    {"exaone_moe", read_exaone},
    {"bailing_moe_v2", read_bailing},
    {"bailing_hybrid", read_bailing},
    {"kimi_linear", read_kimi_linear},
    {"nemotron_h", read_nemotron_h},
    {"afmoe", read_afmoe},
    {"hy_v3", read_hy_v3},
    {"lfm2_moe", read_lfm2_moe},
    {"minimax_m2", read_minimax_m2},
    {"minimax_m3", read_minimax_m3},
    {"minimax_m3_vl", read_minimax_m3},
    {"minimax_m3_vl_text", read_minimax_m3},
    {"laguna", read_laguna},
    {"step3p5", read_step},
    {"step3p7", read_step},
    {"llama4", read_llama4},
    {"llama4_text", read_llama4},
    {"deepseek_v4", read_deepseek_v4},
    {"switch_transformers", read_switch},
    {"nllb-moe", read_nllb_moe},
    {"nllb_moe", read_nllb_moe},
    {"adamoe", read_adamoe},
    {"pr_moe", read_pr_moe},
};

inline const BlockFamily* find_family(std::string_view type) {
  for (const BlockFamily& family : block_families)
    if (family.model_type == type) return &family;
  return nullptr;
}

}  // namespace detail

/// The mixture-of-experts blocks that a config.json describes; keys as published on the hub or as transformers 5 writes
/// them, in the root or in the `text_config` of a multimodal model. Throws `IoError` that names file, key, expected and
/// found.
inline BlockConfig read_block_config(const ConfigReader& root) {
  const std::optional<ConfigReader> nested = root.object_if_any("text_config");
  const ConfigReader& config = nested ? *nested : root;
  const std::string inner = config.text_or("", {"model_type"}), outer = root.text_or("", {"model_type"});
  const detail::BlockFamily* family = detail::find_family(inner);
  if (family == nullptr) family = detail::find_family(outer);
  if (family == nullptr) {
    std::string known;
    for (const detail::BlockFamily& one : detail::block_families)
      known += concat(known.empty() ? "one of " : ", ", one.model_type);
    root.refuse("model_type", known, outer.empty() ? "none" : in_quotes(outer));
  }
  BlockConfig b;
  family->read(config, b);
  b.family = family->model_type;
  return b;
}
inline BlockConfig parse_block_config(std::string_view text, std::string_view file_name) {
  const Json root = parse_json(text, file_name);
  return read_block_config(ConfigReader(root, std::string(file_name)));
}
/// Reads and validates a config.json of at most `ModelLimits::file_bytes`.
inline BlockConfig load_block_config(const std::filesystem::path& file) {
  return parse_block_config(read_text(file, ModelLimits::file_bytes), file.string());
}

}  // namespace moe::io

// The families of published mixture-of-experts models, by line: one row each in families/, and one short function.
#pragma once

#include <filesystem>
#include <moe/io/families/dbrx.hpp>
#include <moe/io/families/deepseek.hpp>
#include <moe/io/families/encoder_decoder.hpp>
#include <moe/io/families/gemma.hpp>
#include <moe/io/families/gpt_oss.hpp>
#include <moe/io/families/granite.hpp>
#include <moe/io/families/hunyuan.hpp>
#include <moe/io/families/llama.hpp>
#include <moe/io/families/minimax.hpp>
#include <moe/io/families/mistral.hpp>
#include <moe/io/families/nemotron.hpp>
#include <moe/io/families/olmo.hpp>
#include <moe/io/families/others.hpp>
#include <moe/io/families/papers.hpp>
#include <moe/io/families/qwen.hpp>
#include <moe/io/families/step.hpp>
#include <moe/io/families/zaya.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace moe::io {

namespace detail {

inline constexpr std::span<const Family> lines[]{
    mistral_families, qwen_families,  olmo_families,    deepseek_families,        minimax_families,  gpt_oss_families,
    llama_families,   gemma_families, granite_families, hunyuan_families,         nemotron_families, step_families,
    dbrx_families,    zaya_families,  other_families,   encoder_decoder_families, paper_families};

template <class Is>
const Family* first_family(const Is& is) {
  for (const std::span<const Family> line : lines)
    for (const Family& family : line)
      if (is(family)) return &family;
  return nullptr;
}
inline const Family* find_family(std::string_view type) {
  return first_family([&](const Family& family) { return family.model_type == type; });
}
/// Refuses the `model_type` of a config with the names of all families that `is` holds for.
template <class Is>
[[noreturn]] void refuse_family(const ConfigReader& config, const Is& is) {
  std::string known;
  first_family([&](const Family& family) {
    if (is(family)) known += concat(known.empty() ? "one of " : ", ", family.model_type);
    return false;
  });
  const std::string type = config.text_or("", {"model_type"});
  config.refuse("model_type", known, type.empty() ? "none" : in_quotes(type));
}

inline BlockConfig read_blocks(const ConfigReader& config, const Family& family) {
  BlockConfig b;
  b.family = family.model_type;
  start_from(family.rule, b);
  family.read_blocks(config, b);
  return b;
}

}  // namespace detail

/// Whether an engine can run models of this `model_type` whole.
inline bool is_language_model(std::string_view model_type) {
  const detail::Family* family = detail::find_family(model_type);
  return family != nullptr && family->read_decoder != nullptr;
}

/// The mixture-of-experts blocks that a config.json describes; keys as published on the hub or as transformers 5 writes
/// them, in the root or in the `text_config` of a multimodal model. Throws `IoError` that names file, key, expected and
/// found.
inline BlockConfig read_block_config(const ConfigReader& root) {
  const std::optional<ConfigReader> nested = root.object_if_any("text_config");
  const ConfigReader& config = nested ? *nested : root;
  const std::string inner = config.text_or("", {"model_type"}), outer = root.text_or("", {"model_type"});
  const detail::Family* family = detail::find_family(inner);
  if (family == nullptr) family = detail::find_family(outer);
  if (family == nullptr) detail::refuse_family(root, [](const detail::Family&) { return true; });
  return detail::read_blocks(config, *family);
}
inline BlockConfig parse_block_config(std::string_view text, std::string_view file_name) {
  const Json root = parse_json(text, file_name);
  return read_block_config(ConfigReader(root, std::string(file_name)));
}
/// Reads and validates a config.json of at most `ModelLimits::file_bytes`.
inline BlockConfig load_block_config(const std::filesystem::path& file) {
  return parse_block_config(read_text(file, ModelLimits::file_bytes), file.string());
}

/// The whole language model that a config.json describes, of the families that `is_language_model` names. Same errors.
inline ModelConfig read_model_config(const ConfigReader& config) {
  const std::string type = config.text_or("", {"model_type"});
  if (!is_language_model(type))
    detail::refuse_family(config, [](const detail::Family& family) { return family.read_decoder != nullptr; });
  const detail::Family& family = *detail::find_family(type);
  ModelConfig model;
  model.blocks = detail::read_blocks(config, family);
  detail::read_backbone(config, model);
  family.read_decoder(config, model);
  return model;
}
inline ModelConfig parse_model_config(std::string_view text, std::string_view file_name) {
  const Json root = parse_json(text, file_name);
  return read_model_config(ConfigReader(root, std::string(file_name)));
}
/// Reads and validates a config.json of at most `ModelLimits::file_bytes`.
inline ModelConfig load_model_config(const std::filesystem::path& file) {
  return parse_model_config(read_text(file, ModelLimits::file_bytes), file.string());
}

}  // namespace moe::io

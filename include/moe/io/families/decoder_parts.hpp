// What surrounds the blocks of language models that an engine can run whole: attention, rotation, vocabulary.
#pragma once

#include <moe/io/families/parts.hpp>
#include <optional>
#include <string>

namespace moe::io::detail {

inline int read_window(const ConfigReader& config) {
  return config.integer({"sliding_window"}, 1, ModelLimits::positions);
}

/// theta stands at the top (older configs), in `rope_parameters` (transformers 5) or in `rope_scaling`.
/// Only the plain rotation is known: a scaled one computed as plain would give fluent nonsense.
inline double read_rope_theta(const ConfigReader& config) {
  std::optional<double> theta = config.number_if_any("rope_theta", 1, 1e12);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const std::optional<ConfigReader> rope = config.object_if_any(key);
    if (!rope) continue;
    const std::string type = rope->text_or("default", {"rope_type", "type"});
    if (type != "default") rope->refuse("rope_type", "\"default\" (others are not supported)", in_quotes(type));
    for (const char* scale : {"factor", "partial_rotary_factor"}) {
      const double value = rope->number_if_any(scale, 0, 1e12).value_or(1);
      if (value != 1) rope->refuse(scale, "1 (others are not supported)", Json(value).dump());
    }
    const std::optional<double> inner = rope->number_if_any("rope_theta", 1, 1e12);
    if (inner && theta && *inner != *theta) rope->refuse("rope_theta", Json(*theta).dump(), Json(*inner).dump());
    if (inner) theta = inner;
  }
  if (!theta) config.refuse("rope_theta", "a number from 1 to 1e12, here or in \"rope_parameters\"", "none");
  return *theta;
}

inline void read_attention(const ConfigReader& config, ModelConfig& model) {
  model.heads = config.integer({"num_attention_heads"}, 1, ModelLimits::width);
  model.kv_heads = config.integer({"num_key_value_heads"}, 1, ModelLimits::width);
  if (model.heads % model.kv_heads != 0) {
    config.refuse("num_key_value_heads", concat("a divisor of the ", model.heads, " attention heads"),
                  std::to_string(model.kv_heads));
  }
  if (config.find({"head_dim"}) != nullptr) {
    model.head_dim = config.integer({"head_dim"}, 2, ModelLimits::width);
  } else if (model.hidden() % model.heads == 0) {
    model.head_dim = model.hidden() / model.heads;
  } else {
    config.refuse("num_attention_heads", concat("a divisor of the hidden size ", model.hidden()),
                  std::to_string(model.heads));
  }
  if (model.head_dim % 2 != 0)
    config.refuse("head_dim", "an even number (pairs are rotated)", std::to_string(model.head_dim));
  if (model.heads > ModelLimits::width / model.head_dim) {
    config.refuse("num_attention_heads", concat("heads x head_dim up to ", ModelLimits::width),
                  concat(model.heads, " x ", model.head_dim));
  }
  model.rope_theta = read_rope_theta(config);
  model.rms_norm_eps = static_cast<float>(config.number({"rms_norm_eps"}, 0, 1));
  model.max_positions = config.integer({"max_position_embeddings"}, 1, ModelLimits::positions);
}

/// Engines of whole models know one number for all layers, and SwiGLU.
inline void check_blocks(const ConfigReader& config, const BlockConfig& blocks) {
  const auto one_for_all = [&](const PerLayer<int>& values, const char* key) {
    if (values.values().size() > 1) config.refuse(key, "one number for all layers", "an array");
  };
  one_for_all(blocks.router.experts, "num_experts");
  one_for_all(blocks.router.k, "num_experts_per_tok");
  one_for_all(blocks.ffn, "moe_intermediate_size");
  const std::string act = config.text_or("silu", {"hidden_act"});
  if (act != "silu") config.refuse("hidden_act", "\"silu\"", in_quotes(act));
}

/// All but what `Family::read_decoder` adds; the blocks were read before.
inline void read_backbone(const ConfigReader& config, ModelConfig& model) {
  check_blocks(config, model.blocks);
  model.vocab = config.integer({"vocab_size"}, 1, ModelLimits::vocab);
  model.tied_embeddings = config.flag_or(false, "tie_word_embeddings");
  model.bos_ids = config.integers("bos_token_id", 0, model.vocab - 1);
  model.eos_ids = config.integers("eos_token_id", 0, model.vocab - 1);
  read_attention(config, model);
}

}  // namespace moe::io::detail

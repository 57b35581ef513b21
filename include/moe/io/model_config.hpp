// The config.json of a model: what an engine must know, from an untrusted file, family by family.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <moe/error.hpp>
#include <moe/io/config_reader.hpp>
#include <moe/io/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

enum class Family { mixtral, qwen3_moe, olmoe };

/// Where the queries and keys are RMS-normalised before the rotation.
enum class QkNorm { none, per_head, whole_row };

/// One model's numbers. Everything was checked: sizes are positive and bounded, heads divide, top-k fits.
struct ModelConfig {
  Family family = Family::mixtral;
  int layers = 0;
  int hidden = 0;      // H
  int vocab = 0;       // V
  int expert_ffn = 0;  // F, inner width of one expert
  int dense_ffn = 0;   // inner width of layers without experts; 0: the family has none
  int experts = 0;     // E
  int experts_per_token = 0;
  bool norm_topk_prob = false;  // whether the picked weights are divided by their sum

  int heads = 0;
  int kv_heads = 0;  // divides `heads`
  int head_dim = 0;  // even; heads * head_dim may differ from `hidden`
  QkNorm qk_norm = QkNorm::none;
  bool attention_bias = false;
  std::optional<float> clip_qkv;      // queries, keys and values are clamped to [-clip, clip]
  std::optional<int> sliding_window;  // positions a token sees, itself included
  double rope_theta = 0;
  float rms_norm_eps = 0;
  int max_positions = 0;
  bool tied_embeddings = false;  // the output matrix is the embedding matrix

  int sparse_step = 1;                // every n-th layer has experts
  std::vector<int> dense_layers;      // layers without experts all the same, ascending
  std::vector<int> bos_ids, eos_ids;  // tokens in [0, vocab); may be empty

  bool is_moe_layer(int layer) const {
    return (layer + 1) % sparse_step == 0 && !std::binary_search(dense_layers.begin(), dense_layers.end(), layer);
  }
};

// ---- the families

/// The names of a family's tensors: {i} stands for the layer, {e} for the expert.
struct TensorNames {
  std::string_view gate;                              // [E,H]
  std::string_view expert_gate, expert_up;            // [F,H] each
  std::string_view expert_down;                       // [H,F]
  std::string_view dense_gate, dense_up, dense_down;  // of layers without experts; empty: the family has none
};

namespace detail {

inline void read_mixtral(const ConfigReader& config, ModelConfig& model) {
  model.expert_ffn = config.integer({"intermediate_size"}, 1, ModelLimits::width);
  model.norm_topk_prob = true;
  if (config.find({"sliding_window"}) != nullptr) {
    model.sliding_window = config.integer({"sliding_window"}, 1, ModelLimits::positions);
  }
}

inline void read_qwen3_moe(const ConfigReader& config, ModelConfig& model) {
  model.expert_ffn = config.integer({"moe_intermediate_size"}, 1, ModelLimits::width);
  model.dense_ffn = config.integer({"intermediate_size"}, 1, ModelLimits::width);
  model.norm_topk_prob = config.flag_or(false, "norm_topk_prob");
  model.qk_norm = QkNorm::per_head;
  model.attention_bias = config.flag_or(false, "attention_bias");
  model.sparse_step = config.integer_or(1, "decoder_sparse_step", 1, ModelLimits::layers);
  model.dense_layers = config.integers("mlp_only_layers", 0, model.layers - 1);
  std::sort(model.dense_layers.begin(), model.dense_layers.end());
  // Published configs carry a window that this flag switches off.
  if (config.flag_or(false, "use_sliding_window")) {
    model.sliding_window = config.integer({"sliding_window"}, 1, ModelLimits::positions);
  }
}

inline void read_olmoe(const ConfigReader& config, ModelConfig& model) {
  model.expert_ffn = config.integer({"intermediate_size"}, 1, ModelLimits::width);
  model.norm_topk_prob = config.flag_or(false, "norm_topk_prob");
  model.qk_norm = QkNorm::whole_row;
  model.attention_bias = config.flag_or(false, "attention_bias");
  if (const auto clip = config.number_if_any("clip_qkv", 0, 1e6)) model.clip_qkv = static_cast<float>(*clip);
}

/// A family is one row: its `model_type`, the function that reads what only it has, and the names of its tensors.
struct FamilyRow {
  std::string_view model_type;
  Family family;
  void (*read)(const ConfigReader&, ModelConfig&);
  TensorNames names;
};

inline constexpr TensorNames mixtral_names{.gate = "model.layers.{i}.block_sparse_moe.gate.weight",
                                           .expert_gate = "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight",
                                           .expert_up = "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight",
                                           .expert_down = "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight",
                                           .dense_gate = {},
                                           .dense_up = {},
                                           .dense_down = {}};
inline constexpr TensorNames qwen_names{.gate = "model.layers.{i}.mlp.gate.weight",
                                        .expert_gate = "model.layers.{i}.mlp.experts.{e}.gate_proj.weight",
                                        .expert_up = "model.layers.{i}.mlp.experts.{e}.up_proj.weight",
                                        .expert_down = "model.layers.{i}.mlp.experts.{e}.down_proj.weight",
                                        .dense_gate = "model.layers.{i}.mlp.gate_proj.weight",
                                        .dense_up = "model.layers.{i}.mlp.up_proj.weight",
                                        .dense_down = "model.layers.{i}.mlp.down_proj.weight"};

inline constexpr std::array family_rows{
    FamilyRow{"mixtral", Family::mixtral, read_mixtral, mixtral_names},
    FamilyRow{"qwen3_moe", Family::qwen3_moe, read_qwen3_moe, qwen_names},
    FamilyRow{"olmoe", Family::olmoe, read_olmoe, qwen_names},
};

inline const FamilyRow& family_row(const ConfigReader& config) {
  const std::string type = config.text_or("", {"model_type"});
  std::string known;
  for (const FamilyRow& row : family_rows) {
    if (row.model_type == type) return row;
    known += concat(known.empty() ? "one of " : ", ", row.model_type);
  }
  config.refuse("model_type", known, type.empty() ? "none" : in_quotes(type));
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
  } else if (model.hidden % model.heads == 0) {
    model.head_dim = model.hidden / model.heads;
  } else {
    config.refuse("num_attention_heads", concat("a divisor of the hidden size ", model.hidden),
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

inline void read_experts(const ConfigReader& config, ModelConfig& model) {
  model.experts = config.integer({"num_local_experts", "num_experts"}, 1, ModelLimits::experts);
  model.experts_per_token = config.integer({"num_experts_per_tok"}, 1, ModelLimits::experts);
  if (model.experts_per_token > model.experts) {
    config.refuse("num_experts_per_tok", concat("at most the ", model.experts, " experts"),
                  std::to_string(model.experts_per_token));
  }
  const std::string act = config.text_or("silu", {"hidden_act"});
  if (act != "silu") config.refuse("hidden_act", "\"silu\"", in_quotes(act));
}

}  // namespace detail

/// The tensor names of a family.
inline const TensorNames& tensor_names(Family family) {
  return std::find_if(detail::family_rows.begin(), detail::family_rows.end(),
                      [&](const detail::FamilyRow& row) { return row.family == family; })
      ->names;
}
/// The family's name as `model_type` says it.
inline std::string_view family_name(Family family) {
  return std::find_if(detail::family_rows.begin(), detail::family_rows.end(),
                      [&](const detail::FamilyRow& row) { return row.family == family; })
      ->model_type;
}

/// Whether a `model_type` is one of the families above.
inline bool is_language_model(std::string_view model_type) {
  return std::any_of(detail::family_rows.begin(), detail::family_rows.end(),
                     [&](const detail::FamilyRow& row) { return row.model_type == model_type; });
}

/// Reads and validates a config: keys as published on the hub or as transformers 5 writes them.
/// Throws `IoError` that names the file, the key, what was expected and what was found.
inline ModelConfig read_model_config(const ConfigReader& config) {
  const detail::FamilyRow& row = detail::family_row(config);
  ModelConfig model;
  model.family = row.family;
  model.layers = config.integer({"num_hidden_layers"}, 1, ModelLimits::layers);
  model.hidden = config.integer({"hidden_size"}, 1, ModelLimits::width);
  model.vocab = config.integer({"vocab_size"}, 1, ModelLimits::vocab);
  model.tied_embeddings = config.flag_or(false, "tie_word_embeddings");
  model.bos_ids = config.integers("bos_token_id", 0, model.vocab - 1);
  model.eos_ids = config.integers("eos_token_id", 0, model.vocab - 1);
  detail::read_attention(config, model);
  detail::read_experts(config, model);
  row.read(config, model);
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

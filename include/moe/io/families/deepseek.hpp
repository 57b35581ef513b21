// DeepSeek, and the many whose blocks are its own: Kimi, GLM, dots, Solar, MiMo, EXAONE, Ling.
#pragma once

#include <moe/io/families/parts.hpp>
#include <string>
#include <vector>

namespace moe::io::detail {

inline void read_deepseek_v2(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.scale = factor(config, {"routed_scaling_factor"});
  const std::string method = config.text_or("greedy", {"topk_method"});
  if (method == "group_limited_greedy") {
    read_groups(config, b);
  } else if (method != "greedy") {
    config.refuse("topk_method", "\"greedy\" or \"group_limited_greedy\"", in_quotes(method));
  }
  name_as_qwen(b);
  shared_experts(config, b, {"n_shared_experts"}, "mlp.shared_experts.");
}

/// DeepSeek-V3 and its line: sigmoid, bias, groups by their two best.
inline void read_deepseek_line(const ConfigReader& config, BlockConfig& b, int dense, bool renormalised = true) {
  read_decoder(config, b, {"moe_intermediate_size"}, dense);
  b.router.bias = "mlp.gate.e_score_correction_bias";
  b.router.scale = factor(config, {"routed_scaling_factor"});
  normalise_if(b, config.flag_or(renormalised, {"norm_topk_prob", "moe_renormalize"}));
  b.router.score = read_score(config, {"scoring_func", "score_function", "moe_router_activation_func"}, "sigmoid");
  read_groups(config, b);
  name_as_qwen(b);
  shared_experts(config, b, {"n_shared_experts", "num_shared_experts"}, "mlp.shared_experts.");
}

inline void read_deepseek_v3(const ConfigReader& config, BlockConfig& b) { read_deepseek_line(config, b, 0); }

/// The same where the first layer is dense unless a key says otherwise.
inline void read_first_dense(const ConfigReader& config, BlockConfig& b) { read_deepseek_line(config, b, 1); }

inline void read_dots1(const ConfigReader& config, BlockConfig& b) { read_deepseek_line(config, b, 0, false); }

inline void read_mimo(const ConfigReader& config, BlockConfig& b) {
  read_deepseek_line(config, b, 1);
  b.shared = {};
}

inline void read_exaone(const ConfigReader& config, BlockConfig& b) {
  read_deepseek_line(config, b, 1);
  b.router.bias = "mlp.e_score_correction_bias";
}

inline void read_bailing(const ConfigReader& config, BlockConfig& b) {
  read_deepseek_line(config, b, 0);
  b.router.bias = "mlp.gate.expert_bias";
}

inline void read_kimi_linear(const ConfigReader& config, BlockConfig& b) {
  read_deepseek_line(config, b, 1);
  name_as_mixtral(b);
  b.router.bias = "block_sparse_moe.gate.e_score_correction_bias";
  if (b.shared.mixing != SharedConfig::Mixing::none) b.shared.tensors = projections("block_sparse_moe.shared_experts.");
}

inline void read_deepseek_v4(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.stacks[0].prefixes = {"layers.{i}.", "model.layers.{i}."};
  if (const float limit = factor(config, {"swiglu_limit"}, 0); limit > 0) {
    b.act = b.shared_act = AnyGated{.kind = AnyGated::Kind::input_clamped, .input_clamped = {.limit = limit}};
  }
  b.router.bias = "ffn.gate.bias";
  b.router.scale = factor(config, {"routed_scaling_factor"}, 1.5);
  b.router.score = read_score(config, {"scoring_func"}, "sqrtsoftplus");
  const std::vector<std::string> types = config.texts("mlp_layer_types");
  const int hashed = config.integer_or(3, "num_hash_layers", 0, ModelLimits::layers);
  for (const int layer : b.moe_layers) {
    const bool hash = types.empty() ? layer < hashed : types[static_cast<std::size_t>(layer)] == "hash_moe";
    if (hash) b.router.hash_layers.push_back(layer);
  }
  b.router.table = "ffn.gate.tid2eid";
  if (!b.router.hash_layers.empty()) b.router.vocab = config.integer({"vocab_size"}, 1, ModelLimits::vocab);
  name_as_mixtral(b, "ffn.");
  shared_network(b, SharedConfig::Mixing::add, b.ffn, numbered("ffn.shared_experts."));
}

inline constexpr Family deepseek_families[]{
    {"deepseek_v2", models::rules::deepseek_v2, read_deepseek_v2},
    {"deepseek_v3", models::rules::deepseek_v3, read_deepseek_v3},
    {"deepseek_v32", models::rules::deepseek_v3, read_deepseek_v3},
    {"kimi_k2", models::rules::deepseek_v3, read_deepseek_v3},
    {"glm_moe_dsa", models::rules::deepseek_v3, read_deepseek_v3},
    {"solar_open", models::rules::deepseek_v3, read_deepseek_v3},
    {"glm4_moe", models::rules::deepseek_v3, read_first_dense},
    {"glm4_moe_lite", models::rules::deepseek_v3, read_first_dense},
    {"glm4v_moe", models::rules::deepseek_v3, read_first_dense},
    {"glm4v_moe_text", models::rules::deepseek_v3, read_first_dense},
    {"dots1", models::rules::deepseek_v3, read_dots1},
    {"mimo_v2_flash", models::rules::deepseek_v3, read_mimo},
    {"exaone_moe", models::rules::deepseek_v3, read_exaone},
    {"bailing_moe_v2", models::rules::deepseek_v3, read_bailing},
    {"bailing_hybrid", models::rules::deepseek_v3, read_bailing},
    {"kimi_linear", models::rules::deepseek_v3, read_kimi_linear},
    {"deepseek_v4", models::rules::deepseek_v4, read_deepseek_v4},
};

}  // namespace moe::io::detail

// Configs of the families that score each expert on its own: sigmoid, square root of softplus.
#pragma once

#include <charconv>
#include <moe/io/family_parts.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moe::io::detail {

/// DeepSeek-V3 and its line: sigmoid, bias, groups by their two best.
inline void read_deepseek_line(const ConfigReader& config, BlockConfig& b, int dense) {
  read_decoder(config, b, {"moe_intermediate_size"}, dense);
  sigmoid_router(b, "mlp.gate.e_score_correction_bias",
                 sum_if(config.flag_or(true, {"norm_topk_prob", "moe_renormalize"}), 1e-20f),
                 factor(config, {"routed_scaling_factor"}));
  b.router.score = read_score(config, {"scoring_func", "score_function", "moe_router_activation_func"}, "sigmoid");
  b.router.groups = read_groups(config, b, GroupLimit::By::two_best, GroupLimit::Others::excluded);
  name_as_qwen(b);
  shared_experts(config, b, {"n_shared_experts", "num_shared_experts"}, "mlp.shared_experts.");
}
inline void read_deepseek_v3(const ConfigReader& config, BlockConfig& b) { read_deepseek_line(config, b, 0); }
/// The same where the first layer is dense unless a key says otherwise.
inline void read_first_dense(const ConfigReader& config, BlockConfig& b) { read_deepseek_line(config, b, 1); }
inline void read_dots1(const ConfigReader& config, BlockConfig& b) {
  read_deepseek_line(config, b, 0);
  b.router.normalise = sum_if(config.flag_or(false, "norm_topk_prob"), 1e-20f);
}
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

inline void read_nemotron_h(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"moe_intermediate_size"});
  b.gated = false;
  b.ungated_act = ungated_activation(config, {"mlp_hidden_act"}, "relu2");
  if (config.flag_or(false, "mlp_bias")) config.refuse("mlp_bias", "false (biased experts are not known)", "true");
  read_experts_and_picks(config, b);
  sigmoid_router(b, "mixer.gate.e_score_correction_bias", sum_if(config.flag_or(true, "norm_topk_prob"), 1e-20f),
                 factor(config, {"routed_scaling_factor"}));
  b.router.groups = read_groups(config, b, GroupLimit::By::two_best, GroupLimit::Others::excluded);
  const std::string pattern = config.text_or("", {"hybrid_override_pattern"});
  const std::vector<std::string> types =
      config.texts(config.find({"layers_block_type"}) ? "layers_block_type" : "layer_types");
  const std::size_t listed = types.empty() ? pattern.size() : types.size();
  if (listed > static_cast<std::size_t>(ModelLimits::layers))
    config.refuse("layers_block_type", concat("at most ", ModelLimits::layers, " layers"), std::to_string(listed));
  const int layers =
      listed != 0 ? static_cast<int>(listed) : config.integer({"num_hidden_layers"}, 1, ModelLimits::layers);
  b.stacks = {{layers, {"backbone.layers.{i}.", "model.layers.{i}.", "layers.{i}."}}};
  LayerFilter filter(config, layers);
  filter.keep([&](int i) {
    const auto at = static_cast<std::size_t>(i);
    return types.empty() ? at < pattern.size() && pattern[at] == 'E' : types[at] == "moe";
  });
  b.moe_layers = filter.layers();
  b.gate.weight = {"mixer.gate.weight"};
  b.experts = {ungated("mixer.experts.{e}.", "up_proj", "down_proj", false)};
  NetworkTensors stacked;
  stacked.up = "mixer.experts.up_proj";
  stacked.down = "mixer.experts.down_proj";
  stacked.experts = NetworkTensors::Experts::stacked;
  b.experts.push_back(stacked);
  shared_network(b, SharedConfig::Mixing::add,
                 config.integer_or(0, "moe_shared_expert_intermediate_size", 0, ModelLimits::width),
                 ungated("mixer.shared_experts.", "up_proj", "down_proj", false));
  b.latent.width = config.integer_or(0, "moe_latent_size", 1, ModelLimits::width);
  b.latent.enter = "mixer.fc1_latent_proj.weight";
  b.latent.leave = "mixer.fc2_latent_proj.weight";
}

inline void read_afmoe(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  sigmoid_router(b, "mlp.expert_bias", Normalisation::by_sum(1e-20f), factor(config, {"route_scale"}));
  name_as_qwen(b);
  b.gate.weight = {"mlp.router.gate.weight"};
  shared_experts(config, b, {"num_shared_experts"}, "mlp.shared_experts.");
}
inline void read_hy_v3(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"}, 1);
  sigmoid_router(b, "mlp.expert_bias", Normalisation::by_sum(1e-20f),
                 factor(config, {"router_scaling_factor", "routed_scaling_factor"}));
  name_as_qwen(b);
  b.gate.weight = {"mlp.router.gate.weight"};
  shared_experts(config, b, {"num_shared_experts"}, "mlp.shared_mlp.", 1);
}
inline void read_lfm2_moe(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  sigmoid_router(b, bias_if(config, "use_expert_bias", "feed_forward.expert_bias"),
                 sum_if(config.flag_or(true, "norm_topk_prob"), 1e-6f), factor(config, {"routed_scaling_factor"}));
  name_as_mixtral(b, "feed_forward.");
}

inline void read_minimax_m2(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  sigmoid_router(b, bias_if(config, "use_routing_bias", "block_sparse_moe.e_score_correction_bias"),
                 Normalisation::by_sum(), 1);
  name_as_mixtral(b);
}
inline void read_minimax_m3(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"intermediate_size"});
  read_experts_and_picks(config, b);
  read_decoder_layers(config, b);
  sigmoid_router(b, bias_if(config, "use_routing_bias", "block_sparse_moe.e_score_correction_bias"),
                 Normalisation::by_sum(), 1);
  name_as_mixtral(b);
  b.act = b.shared_act = AnyGated{
      .kind = AnyGated::Kind::gpt_oss,
      .gpt_oss = {.alpha = factor(config, {"swiglu_alpha"}, 1.702), .limit = factor(config, {"swiglu_limit"}, 7)}};
  b.output_scale = factor(config, {"routed_scaling_factor"});
  shared_network(b, SharedConfig::Mixing::add, config.integer_or(0, "shared_intermediate_size", 0, ModelLimits::width),
                 projections("block_sparse_moe.shared_experts."));
}
inline void read_laguna(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  sigmoid_router(b, "mlp.experts.e_score_correction_bias", Normalisation::by_sum(), 1);
  b.router.logits.softcap = factor(config, {"moe_router_logit_softcapping"}, 0);
  b.output_scale = factor(config, {"moe_routed_scaling_factor"});
  if (config.flag_or(false, "moe_apply_router_weight_on_input")) b.weight_on = WeightOn::input;
  name_as_qwen(b);
  shared_network(b, SharedConfig::Mixing::add, width(config, {"shared_expert_intermediate_size"}),
                 projections("mlp.shared_expert."));
}

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
  sigmoid_router(b, bias_if(config, "use_moe_router_bias", "moe.router_bias"),
                 sum_if(config.flag_or(true, "norm_expert_weight")), 1);
  b.output_scale = factor(config, {"moe_router_scaling_factor"});
  b.gate.weight = {"moe.gate.weight"};
  NetworkTensors n = projections("moe.");
  n.experts = NetworkTensors::Experts::stacked;
  b.experts = {n};
  shared_network(b, SharedConfig::Mixing::add,
                 config.integer({"share_expert_dim", "share_expert_dims"}, 0, ModelLimits::width),
                 projections("share_expert."));
}

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
  b.router.score = Score::sigmoid;
  b.weight_on = WeightOn::input;
  b.gate.weight = {"feed_forward.router.weight"};
  b.experts = {fused_transposed("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj")};
  shared_network(b, SharedConfig::Mixing::add, b.ffn, projections("feed_forward.shared_expert."));
}

inline void read_deepseek_v4(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.stacks[0].prefixes = {"layers.{i}.", "model.layers.{i}."};
  if (const float limit = factor(config, {"swiglu_limit"}, 0); limit > 0) {
    b.act = b.shared_act = AnyGated{.kind = AnyGated::Kind::input_clamped, .input_clamped = {.limit = limit}};
  }
  sigmoid_router(b, "ffn.gate.bias", Normalisation::by_sum(1e-20f), factor(config, {"routed_scaling_factor"}, 1.5));
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

}  // namespace moe::io::detail

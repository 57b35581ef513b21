// The families of published mixture-of-experts models: one row and one short function each.
#pragma once

#include <array>
#include <cmath>
#include <filesystem>
#include <moe/io/family_parts.hpp>
#include <string>
#include <string_view>

namespace moe::io {

namespace detail {

// ---- softmax

/// What most decoders have: hidden width, E and K, activation, layers.
inline void read_decoder(const ConfigReader& config, BlockConfig& b, Keys ffn, int dense = 0,
                         Keys layers = {"num_hidden_layers"}) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = per_layer(config, ffn, 1, ModelLimits::width);
  b.act = b.shared_act = gated_activation(config, {"hidden_act"});
  read_experts_and_picks(config, b);
  read_decoder_layers(config, b, dense, layers);
}

inline void read_mixtral_block(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  softmax_router(b, true);
  name_as_mixtral(b);
}

/// Qwen's line: which layers have experts, and the names.
inline void read_qwen(const ConfigReader& config, BlockConfig& b, bool normalised) {
  read_decoder(config, b, {"moe_intermediate_size"});
  softmax_router(b, normalised);
  LayerFilter filter(config, b.layers());
  filter.only(b.moe_layers);
  filter.every("decoder_sparse_step");
  filter.without("mlp_only_layers");
  b.moe_layers = filter.layers();
  name_as_qwen(b);
}
inline void qwen_shared(const ConfigReader& config, BlockConfig& b) {
  shared_network(b, SharedConfig::Mixing::sigmoid, width(config, {"shared_expert_intermediate_size"}),
                 projections("mlp.shared_expert."));
  b.shared.weight = "mlp.shared_expert_gate.weight";
}
inline void read_qwen2_moe(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b, config.flag_or(false, "norm_topk_prob"));
  qwen_shared(config, b);
}
inline void read_qwen3_moe_block(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b, config.flag_or(false, "norm_topk_prob"));
  b.dense_ffn = config.integer_or(0, "intermediate_size", 1, ModelLimits::width);
  b.dense = projections("mlp.");
}
inline void read_qwen3_next(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b, config.flag_or(true, "norm_topk_prob"));
  qwen_shared(config, b);
}
inline void read_qwen3_5_moe(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b, true);
  qwen_shared(config, b);
}
inline void read_qwen3_vl_moe(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b, true);
  b.experts = {fused_transposed("mlp.experts.gate_up_proj", "mlp.experts.down_proj")};
}
inline void read_mellum(const ConfigReader& config, BlockConfig& b) {
  read_qwen(config, b, config.flag_or(true, "norm_topk_prob"));
}
inline void read_olmoe_block(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  softmax_router(b, config.flag_or(false, "norm_topk_prob"));
  name_as_qwen(b);
}

inline void read_jamba(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  softmax_router(b, false);
  const int period = config.integer_or(2, "expert_layer_period", 1, ModelLimits::layers);
  const int offset = config.integer_or(1, "expert_layer_offset", 0, period - 1);
  LayerFilter filter(config, b.layers());
  filter.keep([&](int i) { return i % period == offset; });
  b.moe_layers = filter.layers();
  name_as_qwen(b, "feed_forward.");
  b.gate.weight = {"feed_forward.router.weight"};
}

inline void read_hunyuan(const ConfigReader& config, BlockConfig& b) {
  const bool own_width = config.find({"moe_intermediate_size"}) != nullptr;
  read_decoder(config, b, {own_width ? "moe_intermediate_size" : "intermediate_size"});
  softmax_router(b, true);
  name_as_qwen(b);
  b.gate.weight = {"mlp.gate.wg.weight"};
  shared_experts(config, b, {"num_shared_expert"}, "mlp.shared_mlp.", 1);
}

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

inline void read_aria(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  b.gate.weight = {"mlp.router.weight"};
  b.experts = {fused_transposed("mlp.experts.fc1.weight", "mlp.experts.fc2.weight")};
  shared_experts(config, b, {"moe_num_shared_experts"}, "mlp.shared_experts.", 2);
}

inline void read_cohere2(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  if (read_score(config, {"expert_selection_fn"}, "softmax") == Score::sigmoid) {
    b.router.score = Score::sigmoid;
    b.router.normalise = sum_if(config.flag_or(true, "norm_topk_prob"));
  }
  name_as_qwen(b);
  shared_experts(config, b, {"num_shared_experts"}, "mlp.shared_experts.");
  const std::string how = config.text_or("average", {"shared_expert_combination_strategy"});
  if (how != "sum" && how != "average")
    config.refuse("shared_expert_combination_strategy", "\"sum\" or \"average\"", in_quotes(how));
  if (b.shared.mixing != SharedConfig::Mixing::none && how == "average")
    b.shared.mixing = SharedConfig::Mixing::average;
}

inline void read_dbrx(const ConfigReader& config, BlockConfig& b) {
  const std::optional<ConfigReader> ffn = config.object_if_any("ffn_config");
  if (!ffn) config.refuse("ffn_config", "an object", "none");
  b.hidden = width(config, {"d_model", "hidden_size"});
  b.ffn = width(*ffn, {"ffn_hidden_size"});
  read_experts_and_picks(*ffn, b);
  if (const auto act = ffn->object_if_any("ffn_act_fn")) b.act = gated_activation(*act, {"name"});
  b.router.score = Score::softmax;
  if (const auto power = ffn->number_if_any("moe_normalize_expert_weights", 1e-3, 1e3))
    b.router.normalise = Normalisation::by_norm(static_cast<float>(*power));
  b.stacks = {{config.integer({"n_layers", "num_hidden_layers"}, 1, ModelLimits::layers),
               {"transformer.blocks.{i}.", "model.blocks.{i}."}}};
  b.moe_layers = LayerFilter(config, b.layers()).layers();
  b.gate.weight = {"ffn.router.layer.weight"};
  NetworkTensors n;
  n.gate = "ffn.experts.mlp.w1";
  n.up = "ffn.experts.mlp.v1";
  n.down = "ffn.experts.mlp.w2";
  n.experts = NetworkTensors::Experts::flat;
  n.down_transposed = true;
  b.experts = {n};
}

inline void read_phimoe(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  b.router.kind = RouterConfig::Kind::sparse_mixer;
  b.router.jitter = factor(config, {"router_jitter_noise"}, 0.01);
  name_as_mixtral(b);
}

inline void read_gemma4(const ConfigReader& config, BlockConfig& b) {
  if (!config.flag_or(true, "enable_moe_block")) config.refuse("enable_moe_block", "true", "false");
  read_decoder(config, b, {"moe_intermediate_size"});
  b.act = gated_activation(config, {"hidden_activation"}, "gelu_pytorch_tanh");
  b.gate.kind = GateConfig::Kind::normalised;
  b.gate.weight = {"router.proj.weight"};
  b.gate.gain = "router.scale";
  b.gate.epsilon = factor(config, {"rms_norm_eps"}, 1e-6);
  b.router.expert_scale = "router.per_expert_scale";
  b.experts = {fused("experts.gate_up_proj", "experts.down_proj")};
}

// ---- softmax in groups or with a bias

inline void read_deepseek_v2(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.score = Score::softmax;
  b.router.scale = factor(config, {"routed_scaling_factor"});
  const std::string method = config.text_or("greedy", {"topk_method"});
  if (method == "group_limited_greedy") {
    b.router.groups = read_groups(config, b, GroupLimit::By::maximum, GroupLimit::Others::zero);
  } else if (method != "greedy") {
    config.refuse("topk_method", "\"greedy\" or \"group_limited_greedy\"", in_quotes(method));
  }
  name_as_qwen(b);
  shared_experts(config, b, {"n_shared_experts"}, "mlp.shared_experts.");
}

inline void read_mistral4(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.score = Score::softmax;
  b.router.groups = read_groups(config, b, GroupLimit::By::two_best, GroupLimit::Others::zero);
  b.router.normalise = sum_if(config.flag_or(true, "norm_topk_prob"), 1e-20f);
  b.router.scale = factor(config, {"routed_scaling_factor"});
  name_as_qwen(b);
  shared_experts(config, b, {"n_shared_experts"}, "mlp.shared_experts.");
}

inline void read_ernie4_5(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  if (config.flag_or(false, "use_bias")) config.refuse("use_bias", "false (biased experts are not known)", "true");
  const int last = config.integer_or(-1, "moe_layer_end_index", -1, ModelLimits::layers);
  const int first = config.integer_or(0, "moe_layer_start_index", 0, ModelLimits::layers);
  LayerFilter filter(config, b.layers());
  filter.every("moe_layer_interval");
  filter.keep([&](int i) { return i >= first && (last < 0 || i <= last); });
  b.moe_layers = filter.layers();
  b.router.score = Score::softmax;
  b.router.bias = "mlp.moe_statics.e_score_correction_bias";
  b.router.normalise = Normalisation::by_sum(0, factor(config, {"moe_norm_min"}, 1e-12));
  name_as_qwen(b);
  shared_experts(config, b, {"moe_num_shared_experts"}, "mlp.shared_experts.");
}

inline void read_longcat(const ConfigReader& config, BlockConfig& b) {
  b.router.identities = config.integer_or(0, "zero_expert_num", 0, ModelLimits::experts);
  read_decoder(config, b, {"expert_ffn_hidden_size", "moe_intermediate_size"}, 0, {"num_layers"});
  b.router.score = Score::softmax;
  b.router.bias = "mlp.router.e_score_correction_bias";
  b.router.scale = factor(config, {"routed_scaling_factor"});
  name_as_qwen(b);
  b.gate.weight = {"mlp.router.classifier.weight"};
  if (config.flag_or(false, "router_bias")) b.gate.bias = "mlp.router.classifier.bias";
}

inline void read_zaya(const ConfigReader& config, BlockConfig& b) {
  b.router.nulls = 1;
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.score = Score::softmax;
  b.router.bias = "mlp.gate.balancing_biases";
  GateConfig& g = b.gate;
  g.kind = GateConfig::Kind::carried;
  g.state = width(config, {"router_hidden_size"});
  g.epsilon = factor(config, {"rms_norm_eps", "norm_epsilon"}, 1e-5);
  g.enter = "mlp.gate.down_proj.weight";
  g.enter_bias = "mlp.gate.down_proj.bias";
  g.carried = "mlp.gate.router_states_scale";
  g.norm = "mlp.gate.router_mlp.norm.weight";
  g.first = "mlp.gate.router_mlp.fc1.weight";
  g.first_bias = "mlp.gate.router_mlp.fc1.bias";
  g.second = "mlp.gate.router_mlp.fc2.weight";
  g.second_bias = "mlp.gate.router_mlp.fc2.bias";
  g.weight = {"mlp.gate.router_mlp.out_proj.weight"};
  b.experts = {fused("mlp.experts.gate_up_proj", "mlp.experts.down_proj"), projections("mlp.experts.{e}.")};
}

// ---- sigmoid

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
  sigmoid_router(b, "mlp.expert_bias", sum_if(config.flag_or(true, "route_norm"), 1e-20f),
                 factor(config, {"route_scale"}));
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
  sigmoid_router(b, config.flag_or(true, "use_expert_bias") ? "feed_forward.expert_bias" : "",
                 sum_if(config.flag_or(true, "norm_topk_prob"), 1e-6f), factor(config, {"routed_scaling_factor"}));
  name_as_mixtral(b, "feed_forward.");
}

inline void read_minimax_m2(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  sigmoid_router(b, "block_sparse_moe.e_score_correction_bias", Normalisation::by_sum(), 1);
  name_as_mixtral(b);
}
inline void read_minimax_m3(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"intermediate_size"});
  read_experts_and_picks(config, b);
  read_decoder_layers(config, b);
  sigmoid_router(b, "block_sparse_moe.e_score_correction_bias", Normalisation::by_sum(), 1);
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
  sigmoid_router(b, "moe.router_bias", Normalisation::by_sum(), 1);
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

// ---- others

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
  shared_experts(config, b, {"n_shared_experts"}, "ffn.shared_experts.");
  b.shared.tensors = numbered("ffn.shared_experts.");
}

/// Encoder and decoder layers of a family that numbers them apart.
inline void encoder_decoder(const ConfigReader& config, BlockConfig& b, Keys encoder, Keys decoder,
                            std::vector<std::string> encoder_prefixes, std::vector<std::string> decoder_prefixes,
                            bool (*has_experts)(int layer, int step)) {
  const int first = config.integer(encoder, 1, ModelLimits::layers);
  const int second = config.integer_or(first, decoder, 0, ModelLimits::layers);
  b.stacks = {{first, std::move(encoder_prefixes)}, {second, std::move(decoder_prefixes)}};
  const auto add = [&](int begin, int layers, const char* key) {
    const int step = config.integer_or(4, key, 0, ModelLimits::layers);
    for (int i = 0; i < layers; ++i)
      if (step > 0 && has_experts(i, step)) b.moe_layers.push_back(begin + i);
  };
  add(0, first, "encoder_sparse_step");
  add(first, second, "decoder_sparse_step");
}

inline void read_switch(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"d_model", "hidden_size"});
  b.ffn = width(config, {"d_ff"});
  b.gated = false;
  b.ungated_act = ungated_activation(config, {"dense_act_fn"}, "relu");
  b.router.experts = config.integer({"num_experts"}, 1, ModelLimits::experts);
  b.router.score = Score::softmax;
  b.router.kind = RouterConfig::Kind::capacity;
  b.router.capacity = config.integer_or(64, "expert_capacity", 1, ModelLimits::positions);
  encoder_decoder(config, b, {"num_layers", "num_hidden_layers"}, {"num_decoder_layers"},
                  {"encoder.block.{i}.layer.1.", "model.encoder.block.{i}.layer.1."},
                  {"decoder.block.{i}.layer.2.", "model.decoder.block.{i}.layer.2."},
                  [](int i, int step) { return step == 1 || i % step == 1; });
  b.gate.weight = {"mlp.router.classifier.weight"};
  if (config.flag_or(false, "router_bias")) b.gate.bias = "mlp.router.classifier.bias";
  b.experts = {ungated("mlp.experts.expert_{e}.", "wi", "wo", false)};
}

inline void read_nllb_moe(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"d_model", "hidden_size"});
  b.gated = false;
  b.biased = true;
  b.ungated_act = ungated_activation(config, {"activation_function"}, "relu");
  b.router.experts = config.integer({"num_experts"}, 2, ModelLimits::experts);
  b.router.k = 2;
  b.router.score = Score::softmax;
  b.router.normalise = Normalisation::by_sum(0, 1.1920929e-7f);  // float32's epsilon
  const std::string second = config.text_or("all", {"second_expert_policy"});
  if (second != "all") config.refuse("second_expert_policy", "\"all\" (others draw lots)", in_quotes(second));
  const double part = config.number_if_any("moe_eval_capacity_token_fraction", -1e6, 1e6).value_or(1);
  if (part < 1) {
    b.router.kind = RouterConfig::Kind::capacity;
    if (config.flag_or(false, "batch_prioritized_routing"))
      config.refuse("batch_prioritized_routing", "false where rows are turned away", "true");
    if (part > 0)
      b.router.capacity_of_rows = part;
    else
      b.router.capacity = config.integer_or(64, "expert_capacity", 1, ModelLimits::positions);
    b.router.renormalise_left = !config.flag_or(false, "normalize_router_prob_before_dropping");
  }
  b.output_scale = 1 - factor(config, {"moe_token_dropout"}, 0.2);
  encoder_decoder(
      config, b, {"encoder_layers"}, {"decoder_layers"}, {"model.encoder.layers.{i}.", "encoder.layers.{i}."},
      {"model.decoder.layers.{i}.", "decoder.layers.{i}."}, [](int i, int step) { return (i + 1) % step == 0; });
  std::vector<int> widths(static_cast<std::size_t>(b.stacks[0].layers), width(config, {"encoder_ffn_dim"}));
  widths.resize(static_cast<std::size_t>(std::max(b.layers(), 1)),
                config.integer_or(widths[0], "decoder_ffn_dim", 1, ModelLimits::width));
  b.ffn = widths;
  b.gate.weight = {"ffn.router.classifier.weight"};
  if (config.flag_or(false, "router_bias")) b.gate.bias = "ffn.router.classifier.bias";
  b.experts = {ungated("ffn.experts.expert_{e}.", "fc1", "fc2", true)};
}

/// As many layers as the config or else the checkpoint has.
inline void layers_if_any(const ConfigReader& config, BlockConfig& b, std::vector<std::string> prefixes) {
  const int layers = config.integer_or(0, {"num_hidden_layers", "num_layers"}, 1, ModelLimits::layers);
  b.stacks = {{layers, std::move(prefixes)}};
}
inline void read_adamoe(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"intermediate_size"});
  b.act = gated_activation(config, {"hidden_act"});
  b.router.nulls = config.integer({"num_null_experts"}, 0, ModelLimits::experts);
  read_experts_and_picks(config, b);
  b.router.kind = RouterConfig::Kind::null_experts;
  layers_if_any(config, b, decoder_prefixes());
  b.moe_layers = LayerFilter(config, b.layers()).layers();
  name_as_mixtral(b);
  b.gate.weight.push_back("block_sparse_moe.gate2.weight");
}
inline void read_pr_moe(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"hidden_size"});
  b.ffn = width(config, {"ffn_hidden_size"});
  b.gated = false;
  b.biased = true;
  b.ungated_act = ungated_activation(config, {"hidden_act"}, "gelu_tanh");
  read_experts_and_picks(config, b, {"top_k", "num_experts_per_tok"});
  b.router.score = Score::softmax;
  if (config.flag_or(false, "drop_tokens")) config.refuse("drop_tokens", "false", "true");
  layers_if_any(config, b, {"transformer.layers.{i}.", "model.layers.{i}."});
  b.gate.weight = {"mlp.deepspeed_moe.gate.wg.weight"};
  b.experts = {ungated("mlp.deepspeed_moe.experts.deepspeed_experts.{e}.", "dense_h_to_4h", "dense_4h_to_h", true)};
  if (!config.flag_or(true, "use_residual")) return;
  shared_network(b, SharedConfig::Mixing::learned, b.ffn, ungated("mlp.mlp.", "dense_h_to_4h", "dense_4h_to_h", true));
  b.shared.weight = "mlp.coefficient.weight";
  b.shared.bias = "mlp.coefficient.bias";
}

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
    {"dots1", read_deepseek_v3},
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

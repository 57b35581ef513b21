// Configs of the families that score by softmax.
#pragma once

#include <moe/io/family_parts.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moe::io::detail {

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
  read_decoder(config, b, {"intermediate_size"});
  softmax_router(b, true);
  name_as_qwen(b);
  b.gate.weight = {"mlp.gate.wg.weight"};
  shared_network(b, SharedConfig::Mixing::add, b.ffn, projections("mlp.shared_mlp."));
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
  const bool old = config.find({"moe_intermediate_size"}) != nullptr;
  read_decoder(config, b, {old ? "moe_intermediate_size" : "intermediate_size"});
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
  if (!ffn->says_null("moe_normalize_expert_weights"))
    b.router.normalise = Normalisation::by_norm(factor(*ffn, {"moe_normalize_expert_weights"}));
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

}  // namespace moe::io::detail

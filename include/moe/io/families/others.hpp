// Lines of one short reader each: Aria, Command, ERNIE, Jamba, Laguna, LFM2, LongCat, Trinity.
#pragma once

#include <moe/io/families/parts.hpp>
#include <string>

namespace moe::io::detail {

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
    if (config.flag_or(true, "norm_topk_prob")) b.router.normalise = Normalisation::by_sum();
  }
  name_as_qwen(b);
  shared_experts(config, b, {"num_shared_experts"}, "mlp.shared_experts.");
  const std::string how = config.text_or("average", {"shared_expert_combination_strategy"});
  if (how != "sum" && how != "average")
    config.refuse("shared_expert_combination_strategy", "\"sum\" or \"average\"", in_quotes(how));
  if (b.shared.mixing != SharedConfig::Mixing::none && how == "average")
    b.shared.mixing = SharedConfig::Mixing::average;
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
  b.router.bias = "mlp.moe_statics.e_score_correction_bias";
  b.router.normalise.floor = factor(config, {"moe_norm_min"}, 1e-12);
  name_as_qwen(b);
  shared_experts(config, b, {"moe_num_shared_experts"}, "mlp.shared_experts.");
}

inline void read_jamba(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"intermediate_size"});
  const int period = config.integer_or(2, "expert_layer_period", 1, ModelLimits::layers);
  const int offset = config.integer_or(1, "expert_layer_offset", 0, period - 1);
  LayerFilter filter(config, b.layers());
  filter.keep([&](int i) { return i % period == offset; });
  b.moe_layers = filter.layers();
  name_as_qwen(b, "feed_forward.");
  b.gate.weight = {"feed_forward.router.weight"};
}

inline void read_laguna(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.bias = "mlp.experts.e_score_correction_bias";
  b.router.logits.softcap = factor(config, {"moe_router_logit_softcapping"}, 0);
  b.output_scale = factor(config, {"moe_routed_scaling_factor"});
  if (config.flag_or(false, "moe_apply_router_weight_on_input")) b.weight_on = WeightOn::input;
  name_as_qwen(b);
  shared_network(b, SharedConfig::Mixing::add, width(config, {"shared_expert_intermediate_size"}),
                 projections("mlp.shared_expert."));
}

inline void read_lfm2_moe(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.bias = bias_if(config, "use_expert_bias", "feed_forward.expert_bias");
  b.router.scale = factor(config, {"routed_scaling_factor"});
  normalise_if(b, config.flag_or(true, "norm_topk_prob"));
  name_as_mixtral(b, "feed_forward.");
}

inline void read_longcat(const ConfigReader& config, BlockConfig& b) {
  b.router.identities = config.integer_or(0, "zero_expert_num", 0, ModelLimits::experts);
  read_decoder(config, b, {"expert_ffn_hidden_size", "moe_intermediate_size"}, 0, {"num_layers"});
  b.router.bias = "mlp.router.e_score_correction_bias";
  b.router.scale = factor(config, {"routed_scaling_factor"});
  name_as_qwen(b);
  b.gate.weight = {"mlp.router.classifier.weight"};
  if (config.flag_or(false, "router_bias")) b.gate.bias = "mlp.router.classifier.bias";
}

inline void read_afmoe(const ConfigReader& config, BlockConfig& b) {
  read_decoder(config, b, {"moe_intermediate_size"});
  b.router.bias = "mlp.expert_bias";
  b.router.scale = factor(config, {"route_scale"});
  name_as_qwen(b);
  b.gate.weight = {"mlp.router.gate.weight"};
  shared_experts(config, b, {"num_shared_experts"}, "mlp.shared_experts.");
}

inline constexpr Family other_families[]{
    {"aria", models::rules::gpt_oss, read_aria},
    {"aria_text", models::rules::gpt_oss, read_aria},
    {"aria_moe_lm", models::rules::gpt_oss, read_aria},
    {"cohere2_moe", models::rules::mixtral, read_cohere2},
    {"ernie4_5_moe", models::rules::ernie4_5, read_ernie4_5},
    {"jamba", models::rules::olmoe, read_jamba},
    {"laguna", models::rules::minimax_m3, read_laguna},
    {"lfm2_moe", models::rules::lfm2_moe, read_lfm2_moe},
    {"longcat_flash", models::rules::longcat, read_longcat},
    {"afmoe", models::rules::deepseek_v3, read_afmoe},
};

}  // namespace moe::io::detail

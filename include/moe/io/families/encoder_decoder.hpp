// Encoders with decoders: Switch Transformers, NLLB.
#pragma once

#include <algorithm>
#include <moe/io/families/parts.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moe::io::detail {

/// Encoder and decoder layers of a family that numbers them apart.
inline void encoder_decoder(const ConfigReader& config, BlockConfig& b, Keys encoder, Keys decoder,
                            std::vector<std::string> encoder_prefixes, std::vector<std::string> decoder_prefixes,
                            bool (*has_experts)(int layer, int step)) {
  const int first = config.integer(encoder, 1, ModelLimits::layers);
  const int second = config.integer_or(first, decoder, 0, ModelLimits::layers);
  b.stacks = {{first, std::move(encoder_prefixes)}, {second, std::move(decoder_prefixes)}};
  const auto add = [&](int begin, int layers, const char* key, const char* count) {
    const int sparse = config.integer_or(0, count, 0, ModelLimits::layers);
    const int step = config.integer_or(sparse > 0 ? std::max(1, layers / sparse) : 4, key, 0, ModelLimits::layers);
    for (int i = 0; i < layers; ++i)
      if (step > 0 && has_experts(i, step)) b.moe_layers.push_back(begin + i);
  };
  add(0, first, "encoder_sparse_step", "num_sparse_encoder_layers");
  add(first, second, "decoder_sparse_step", "num_sparse_decoder_layers");
}

inline void read_switch(const ConfigReader& config, BlockConfig& b) {
  b.hidden = width(config, {"d_model", "hidden_size"});
  b.ffn = width(config, {"d_ff"});
  b.gated = false;
  b.ungated_act = ungated_activation(config, {"dense_act_fn"}, "relu");
  b.router.experts = config.integer({"num_experts"}, 1, ModelLimits::experts);
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

inline constexpr Family encoder_decoder_families[]{
    {"switch_transformers", models::rules::switch_transformer, read_switch},
    {"nllb-moe", models::rules::nllb, read_nllb_moe},
    {"nllb_moe", models::rules::nllb, read_nllb_moe},
};

}  // namespace moe::io::detail

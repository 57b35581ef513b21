// The families' config.json as blocks: which layers have experts, keys and their synonyms, and what is refused.
#include <doctest/doctest.h>

#include <filesystem>
#include <moe/io/families.hpp>
#include <string>
#include <vector>

#include "io/support.hpp"

using namespace io_test;
using moe::io::BlockConfig;
using moe::io::Json;
using moe::io::RouterConfig;
using moe::io::SharedConfig;

namespace {

Json golden(const std::string& family) {
  return Json::parse(read_file(concat(MOE_TEST_DATA, "/golden/", family, "/config.json")));
}
/// The golden config, or its text part, with members replaced; JSON null stays null.
Json with(const std::string& family, const Json& changes) {
  Json config = golden(family);
  Json& text = config.contains("text_config") ? config["text_config"] : config;
  for (const auto& [key, value] : changes.items()) text[key] = value;
  return config;
}
BlockConfig parse(const Json& config) { return moe::io::parse_block_config(config.dump(), "c.json"); }
BlockConfig parse(const std::string& family, const Json& changes) { return parse(with(family, changes)); }
std::string message(const std::string& family, const Json& changes) {
  return message_of([&] { parse(family, changes); });
}
std::vector<int> layers(const std::string& family, const Json& changes) { return parse(family, changes).moe_layers; }
using Layers = std::vector<int>;

}  // namespace

TEST_CASE("layers without experts are known by whichever key a family publishes") {
  CHECK(layers("qwen2_moe", {{"num_hidden_layers", 5}, {"decoder_sparse_step", 2}, {"mlp_only_layers", {3}}}) ==
        Layers{1});
  CHECK(layers("deepseek_v3", {{"num_hidden_layers", 5}, {"first_k_dense_replace", 3}}) == Layers{3, 4});
  CHECK(layers("deepseek_v2", {{"num_hidden_layers", 6}, {"first_k_dense_replace", 1}, {"moe_layer_freq", 2}}) ==
        Layers{2, 4});
  CHECK(layers("minimax_m3", {{"num_hidden_layers", 4}, {"moe_layer_freq", {0, 1, 0, 1}}}) == Layers{1, 3});
  CHECK(layers("hy_v3", {{"num_hidden_layers", 3}, {"mlp_layer_types", {"sparse", "dense", "sparse"}}}) ==
        Layers{0, 2});
  CHECK(layers("jamba", {{"num_hidden_layers", 6}, {"expert_layer_period", 3}, {"expert_layer_offset", 1}}) ==
        Layers{1, 4});
  CHECK(layers("llama4", {{"num_hidden_layers", 4}, {"moe_layers", {1, 3}}}) == Layers{1, 3});
  CHECK(layers("llama4", {{"num_hidden_layers", 4}, {"moe_layers", nullptr}, {"interleave_moe_layer_step", 2}}) ==
        Layers{1, 3});
  CHECK(layers("afmoe", {{"num_hidden_layers", 4}, {"num_dense_layers", 2}}) == Layers{2, 3});
  CHECK(layers("step3p5", {{"num_hidden_layers", 5}, {"moe_layers_enum", "2,4"}}) == Layers{2, 4});
  CHECK(layers("step3p5", {{"num_hidden_layers", 5}, {"moe_layers_enum", nullptr}}) == Layers{3, 4});
  CHECK(layers("nemotron_h", {{"hybrid_override_pattern", "ME*-E"}}) == Layers{1, 4});
  CHECK(layers("nemotron_h", {{"layers_block_type", {"moe", "mlp", "moe"}}}) == Layers{0, 2});
  CHECK(layers("ernie4_5_moe", {{"num_hidden_layers", 6},
                                {"moe_layer_start_index", 1},
                                {"moe_layer_end_index", 4},
                                {"moe_layer_interval", 2}}) == Layers{1, 3});
}

TEST_CASE("encoder and decoder layers are counted one behind the other") {
  CHECK(
      layers("switch_transformers",
             {{"num_layers", 4}, {"num_decoder_layers", 4}, {"encoder_sparse_step", 2}, {"decoder_sparse_step", 4}}) ==
      Layers{1, 3, 5});
  const BlockConfig nllb = parse("nllb_moe", {{"encoder_layers", 4},
                                              {"decoder_layers", 2},
                                              {"encoder_sparse_step", 4},
                                              {"decoder_sparse_step", 2},
                                              {"encoder_ffn_dim", 20},
                                              {"decoder_ffn_dim", 24}});
  CHECK(nllb.moe_layers == Layers{3, 5});
  CHECK(nllb.ffn.at(3) == 20);
  CHECK(nllb.ffn.at(5) == 24);
}

TEST_CASE("numbers that vary by layer come as lists") {
  const BlockConfig b =
      parse("hunyuan_v1_moe", {{"num_hidden_layers", 2}, {"num_experts", {8, 6}}, {"moe_topk", {2, 3}}});
  CHECK(b.router.experts.at(1) == 6);
  CHECK(b.router.k.at(0) == 2);
  CHECK(b.router.k.at(1) == 3);
  const BlockConfig step = parse(
      "step3p5", {{"num_hidden_layers", 2}, {"swiglu_limits", {0.0, 1.5, 9.0}}, {"swiglu_limits_shared", nullptr}});
  CHECK(step.act.at(0).kind == moe::AnyGated::Kind::swiglu);
  CHECK(step.act.at(1).kind == moe::AnyGated::Kind::output_clamped);
  CHECK(step.act.at(1).output_clamped.limit == 1.5f);
  CHECK(step.shared_act.at(1).kind == moe::AnyGated::Kind::swiglu);
}

TEST_CASE("keys of the hub and of transformers 5 mean the same") {
  Json config = golden("qwen3_moe");
  config["num_local_experts"] = config["num_experts"];
  config.erase("num_experts");
  CHECK(parse(config).router.experts.at(0) == 12);
  config["num_experts"] = 11;
  CHECK(contains(message_of([&] { parse(config); }), "as under its other name"));
  CHECK(parse("granitemoe", {}).router.k.at(0) == 8);
  CHECK(parse("longcat_flash", {}).router.k.at(0) == 9);
  CHECK(parse("ernie4_5_moe", {}).router.k.at(0) == 3);
  CHECK(parse("gemma4", {}).router.k.at(0) == 3);
}

TEST_CASE("what a model may lack it may have none of") {
  CHECK(parse("longcat_flash", {{"zero_expert_num", 0}, {"moe_topk", 3}}).router.identities == 0);
  CHECK(parse("deepseek_v3", {{"n_shared_experts", 0}}).shared.mixing == moe::io::SharedConfig::Mixing::none);
  CHECK(parse("deepseek_v4", {{"num_hash_layers", 0}, {"mlp_layer_types", nullptr}}).router.hash_layers.empty());
  CHECK(layers("glm4_moe", {{"num_hidden_layers", 3}, {"first_k_dense_replace", 0}, {"mlp_layer_types", nullptr}}) ==
        Layers{0, 1, 2});
  CHECK(parse("nemotron_h", {{"moe_shared_expert_intermediate_size", 0}}).shared.mixing ==
        moe::io::SharedConfig::Mixing::none);
  CHECK(parse("granitemoeshared", {{"shared_intermediate_size", 0}}).shared.mixing ==
        moe::io::SharedConfig::Mixing::none);
}

TEST_CASE("numbers that have a usual value are read where they have another") {
  CHECK(parse("phimoe", {{"router_jitter_noise", 0.25}}).router.jitter == 0.25f);
  CHECK(parse("phimoe", {{"router_jitter_noise", nullptr}}).router.jitter == 0.01f);
}

TEST_CASE("a generation setting is not the number of experts per token") {
  CHECK(parse("deepseek_v3", {{"top_k", 50}}).router.k.at(0) == 8);
}

TEST_CASE("a multimodal model's text config is read, whatever names the family") {
  const Json config = golden("aria");
  REQUIRE(config.contains("text_config"));
  CHECK(parse(config).family == "aria_text");
  Json unnamed = config;
  unnamed["text_config"].erase("model_type");
  CHECK(parse(unnamed).family == "aria");
}

TEST_CASE("hash layers come first unless the config names them") {
  const auto hash = [](const Json& changes) { return parse("deepseek_v4", changes).router.hash_layers; };
  CHECK(hash({{"num_hidden_layers", 5}, {"num_hash_layers", 2}}) == Layers{0, 1});
  CHECK(hash({{"num_hidden_layers", 5}, {"num_hash_layers", nullptr}}) == Layers{0, 1, 2});
  CHECK(hash({{"num_hidden_layers", 3}, {"mlp_layer_types", {"moe", "hash_moe", "moe"}}}) == Layers{1});
}

TEST_CASE("an absent norm is the sum where the family says so, and null is none") {
  Json config = golden("dbrx");
  config["ffn_config"].erase("moe_normalize_expert_weights");
  CHECK(parse(config).router.normalise.by == moe::Normalisation::By::norm);
  CHECK(parse(config).router.normalise.power == 1);
  config["ffn_config"]["moe_normalize_expert_weights"] = 2;
  CHECK(parse(config).router.normalise.power == 2);
  config["ffn_config"]["moe_normalize_expert_weights"] = nullptr;
  CHECK(parse(config).router.normalise.by == moe::Normalisation::By::nothing);
}

TEST_CASE("shared experts may be absent") {
  CHECK(parse("ernie4_5_moe", {{"moe_num_shared_experts", 0}}).shared.mixing == SharedConfig::Mixing::none);
  CHECK(parse("deepseek_v2", {{"n_shared_experts", nullptr}}).shared.mixing == SharedConfig::Mixing::none);
  CHECK(parse("granitemoeshared", {{"shared_intermediate_size", 0}}).shared.mixing == SharedConfig::Mixing::none);
  CHECK(
      parse("cohere2_moe", {{"num_shared_experts", 1}, {"shared_expert_combination_strategy", "sum"}}).shared.mixing ==
      SharedConfig::Mixing::add);
}

TEST_CASE("NLLB turns rows away only below a whole capacity") {
  CHECK(parse("nllb_moe", {{"moe_eval_capacity_token_fraction", 1.0}}).router.kind == RouterConfig::Kind::top_k);
  const BlockConfig half = parse("nllb_moe", {{"moe_eval_capacity_token_fraction", 0.5}});
  CHECK(half.router.kind == RouterConfig::Kind::capacity);
  CHECK(half.router.capacity_of_rows == 0.5);
  CHECK(half.router.renormalise_left);
  CHECK(contains(message("nllb_moe", {{"second_expert_policy", "random"}}), "key \"second_expert_policy\""));
}

TEST_CASE("an unknown family is refused with those that are known") {
  const std::string refused = message("mixtral", {{"model_type", "gpt2"}});
  CHECK(contains(refused, "c.json: key \"model_type\": value: expected one of mixtral, "));
  CHECK(contains(refused, ", pr_moe, found \"gpt2\""));
  CHECK(contains(message_of([] { moe::io::parse_block_config("{}", "c.json"); }), "found none"));
  CHECK(contains(message_of([] { moe::io::parse_block_config("[]", "c.json"); }), "JSON"));
}

struct BadValue {
  const char *family, *key, *value, *expected;
};
const std::vector<BadValue> bad_values{
    {"deepseek_v3", "n_routed_experts", "0", "an integer from 1 to 65536, found 0"},
    {"deepseek_v3", "n_routed_experts", "1e9", "key \"num_experts\""},
    {"deepseek_v3", "num_experts_per_tok", "13", "key \"num_experts_per_tok\": value: expected at most the 12 experts"},
    {"deepseek_v3", "n_group", "5", "key \"n_group\": value: expected a divisor of the 12 experts, found 5"},
    {"deepseek_v3", "n_group", "65", "key \"n_group\""},
    {"deepseek_v3", "topk_group", "5", "key \"topk_group\": value: expected an integer from 1 to 4, found 5"},
    {"deepseek_v3", "topk_group", "null", "key \"topk_group\""},
    {"deepseek_v3", "n_shared_experts", "1000000", "key \"n_shared_experts\""},
    {"deepseek_v3", "routed_scaling_factor", "\"2\"", "key \"routed_scaling_factor\""},
    {"deepseek_v3", "scoring_func", "\"relu\"", "key \"scoring_func\": value: expected \"sigmoid\", \"softmax\""},
    {"deepseek_v3", "hidden_act", "\"mish\"", "key \"hidden_act\""},
    {"deepseek_v3", "first_k_dense_replace", "-1", "key \"first_k_dense_replace\""},
    {"deepseek_v2", "topk_method", "\"noaux_tc\"", "\"greedy\" or \"group_limited_greedy\", found \"noaux_tc\""},
    {"deepseek_v4", "vocab_size", "null", "key \"vocab_size\""},
    {"hunyuan_v1_moe", "moe_topk", "[3, 9]", "at most the 8 experts, found 9"},
    {"hunyuan_v1_moe", "moe_topk", "[3, \"3\"]", "found \"3\""},
    {"longcat_flash", "zero_expert_num", "-1", "key \"zero_expert_num\""},
    {"ernie4_5_moe", "use_bias", "true", "key \"use_bias\""},
    {"jamba", "expert_layer_offset", "9", "key \"expert_layer_offset\""},
    {"minimax_m3", "moe_layer_freq", "[]", "key \"moe_layer_freq\": value: expected one of each of the 1 layers"},
    {"hy_v3", "mlp_layer_types", "[1]", "key \"mlp_layer_types\": value: expected an array of strings, found 1"},
    {"step3p5", "swiglu_limits", "[-1]", "key \"swiglu_limits\""},
    {"step3p5", "moe_layers_enum", "\"1;2\"", "key \"moe_layers_enum\": value: expected numbers and commas"},
    {"nemotron_h", "mlp_hidden_act", "\"mish\"", "key \"mlp_hidden_act\""},
    {"gemma4", "enable_moe_block", "false", "key \"enable_moe_block\""},
    {"cohere2_moe", "shared_expert_combination_strategy", "\"max\"", "\"sum\" or \"average\", found \"max\""},
    {"dbrx", "ffn_config", "3", "key \"ffn_config\": value: expected an object, found 3"},
    {"zaya", "router_hidden_size", "null", "key \"router_hidden_size\""},
    {"adamoe", "num_null_experts", "null", "key \"num_null_experts\""},
    {"pr_moe", "drop_tokens", "true", "key \"drop_tokens\""},
    {"switch_transformers", "expert_capacity", "0", "key \"expert_capacity\""},
};

TEST_CASE("a bad value is refused with its key, what was expected and what was found") {
  for (const BadValue& bad : bad_values) {
    CAPTURE(bad.family);
    CAPTURE(bad.key);
    CAPTURE(bad.value);
    const std::string refused = message(bad.family, {{bad.key, Json::parse(bad.value)}});
    CAPTURE(refused);
    CHECK(contains(refused, "c.json"));
    CHECK(contains(refused, bad.expected));
  }
}

TEST_CASE("whatever one value of a config becomes, it is read or refused, and never believed beyond the limits") {
  const std::vector<std::string> hostile{"null", "-1",   "0",  "1",   "2147483647", "4294967296", "1e308",
                                         "0.5",  "true", "[]", "[0]", "{}",         "\"silu\"",   "[\"moe\"]"};
  int read = 0, refused = 0;
  for (const auto& folder : std::filesystem::directory_iterator(MOE_TEST_DATA "/golden")) {
    if (!folder.is_directory()) continue;
    const std::string family = folder.path().filename().string();
    const Json config = golden(family);
    const Json& text = config.contains("text_config") ? config["text_config"] : config;
    for (const auto& item : text.items()) {
      const std::string& key = item.key();
      for (const std::string& value : hostile) {
        CAPTURE(family);
        CAPTURE(key);
        CAPTURE(value);
        try {
          const BlockConfig b = parse(family, {{key, Json::parse(value)}});
          ++read;
          CHECK(b.hidden >= 1);
          CHECK(b.hidden <= moe::io::ModelLimits::width);
          CHECK(b.layers() <= 2 * moe::io::ModelLimits::layers);
          CHECK(b.router.k.at(0) <= b.router.choosable(0));
          for (const int layer : b.moe_layers) CHECK(b.is_moe_layer(layer));
        } catch (const moe::IoError&) {
          ++refused;
        }
      }
    }
  }
  CHECK(read > 1000);
  CHECK(refused > 1000);
}

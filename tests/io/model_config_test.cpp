// config.json of the three families: what published files say is read, everything else is refused by key.
#include <doctest/doctest.h>

#include <limits>
#include <moe/io/families.hpp>
#include <string>
#include <vector>

#include "io/support.hpp"

using namespace io_test;
using moe::io::Json;
using moe::io::ModelConfig;
using moe::io::QkNorm;

namespace {

Json golden(const std::string& family) {
  return Json::parse(read_file(concat(MOE_TEST_DATA, "/golden/", family, "/config.json")));
}
ModelConfig parse(const Json& config) { return moe::io::parse_model_config(config.dump(), "c.json"); }
std::string message(const Json& config) {
  return message_of([&] { parse(config); });
}
/// The golden config with one member replaced; `value` is JSON, "" removes the member.
Json with(const std::string& family, const std::string& key, const std::string& value) {
  Json config = golden(family);
  if (value.empty()) {
    config.erase(key);
  } else {
    config[key] = Json::parse(value);
  }
  return config;
}

struct BadConfig {
  const char *family, *key, *value, *expected;
};

const std::vector<BadConfig> bad_configs{
    {"mixtral", "model_type", "", "key \"model_type\": value: expected one of mixtral, qwen3_moe, olmoe, found none"},
    {"mixtral", "model_type", "\"llama\"", "expected one of mixtral, qwen3_moe, olmoe, found \"llama\""},
    {"mixtral", "model_type", "7", "key \"model_type\": value: expected a string, found 7"},
    {"mixtral", "hidden_size", "", "key \"hidden_size\": value: expected an integer from 1 to 1048576, found none"},
    {"mixtral", "hidden_size", "null", "key \"hidden_size\": value: expected an integer from 1 to 1048576, found none"},
    {"mixtral", "hidden_size", "0", "found 0"},
    {"mixtral", "hidden_size", "-64", "key \"hidden_size\": value: expected an integer from 1 to 1048576, found -64"},
    {"mixtral", "hidden_size", "64.0", "found 64.0"},
    {"mixtral", "hidden_size", "\"64\"", "found \"64\""},
    {"mixtral", "hidden_size", "[64]", "found an array"},
    {"mixtral", "hidden_size", "{}", "found an object"},
    {"mixtral", "hidden_size", "true", "found true"},
    {"mixtral", "hidden_size", "1048577", "found 1048577"},
    {"mixtral", "hidden_size", "4294967360", "found 4294967360"},
    {"mixtral", "hidden_size", "18446744073709551615", "found 18446744073709551615"},
    {"mixtral", "hidden_size", "-9223372036854775808", "found -9223372036854775808"},
    {"mixtral", "hidden_size", "1e300", "key \"hidden_size\""},
    {"mixtral", "hidden_size", "66",
     "key \"num_attention_heads\": value: expected a divisor of the hidden size 66, found 4"},
    {"mixtral", "intermediate_size", "0", "key \"intermediate_size\""},
    {"mixtral", "num_hidden_layers", "0",
     "key \"num_hidden_layers\": value: expected an integer from 1 to 4096, found 0"},
    {"mixtral", "num_hidden_layers", "5000", "found 5000"},
    {"mixtral", "vocab_size", "", "key \"vocab_size\""},
    {"mixtral", "num_local_experts", "", "key \"num_experts\": value: expected an integer from 1 to 65536, found none"},
    {"mixtral", "num_local_experts", "1",
     "key \"num_experts_per_tok\": value: expected at most the 1 experts, found 2"},
    {"mixtral", "num_local_experts", "-3", "found -3"},
    {"mixtral", "num_experts", "9", "key \"num_local_experts\": value: expected 9 as under its other name, found 8"},
    {"mixtral", "num_experts_per_tok", "9",
     "key \"num_experts_per_tok\": value: expected at most the 8 experts, found 9"},
    {"mixtral", "num_experts_per_tok", "0", "key \"num_experts_per_tok\""},
    {"mixtral", "num_attention_heads", "3",
     "key \"num_key_value_heads\": value: expected a divisor of the 3 attention heads"},
    {"mixtral", "num_key_value_heads", "3", "expected a divisor of the 4 attention heads, found 3"},
    {"mixtral", "num_key_value_heads", "", "key \"num_key_value_heads\""},
    {"mixtral", "head_dim", "15", "key \"head_dim\": value: expected an even number"},
    {"mixtral", "head_dim", "1000000", "expected heads x head_dim up to 1048576, found 4 x 1000000"},
    {"mixtral", "head_dim", "\"16\"", "key \"head_dim\""},
    {"mixtral", "hidden_act", "\"gelu\"", "key \"hidden_act\": value: expected \"silu\", found \"gelu\""},
    {"mixtral", "hidden_act", "3", "key \"hidden_act\": value: expected a string, found 3"},
    {"mixtral", "rms_norm_eps", "", "key \"rms_norm_eps\": value: expected a number from 0.0 to 1.0, found none"},
    {"mixtral", "rms_norm_eps", "-1e-6", "found -1e-06"},
    {"mixtral", "rms_norm_eps", "\"1e-5\"", "found \"1e-5\""},
    {"mixtral", "rope_theta", "0", "key \"rope_theta\": value: expected a number from 1.0 to 1000000000000.0, found 0"},
    {"mixtral", "rope_theta", "500",
     "in \"rope_parameters\": key \"rope_theta\": value: expected 500.0, found 1000000.0"},
    {"mixtral", "rope_theta", "[1]", "key \"rope_theta\""},
    {"mixtral", "rope_parameters", "3", "key \"rope_parameters\": value: expected an object, found 3"},
    {"mixtral", "rope_parameters", R"({"rope_type":"yarn","factor":4})",
     "c.json: in \"rope_parameters\": key \"rope_type\": value: expected \"default\" (others are not supported), found "
     "\"yarn\""},
    {"mixtral", "rope_parameters", R"({"rope_type":"default","factor":4})", "key \"factor\": value: expected 1"},
    {"mixtral", "rope_parameters", R"({"partial_rotary_factor":0.5})",
     "key \"partial_rotary_factor\": value: expected 1"},
    {"mixtral", "rope_scaling", R"({"type":"linear","factor":2})", "in \"rope_scaling\": key \"rope_type\""},
    {"mixtral", "rope_scaling", R"({"type":"default","rope_type":"yarn"})",
     "expected \"yarn\" as under its other name"},
    {"mixtral", "sliding_window", "0", "key \"sliding_window\""},
    {"mixtral", "sliding_window", "\"no\"", "key \"sliding_window\""},
    {"mixtral", "max_position_embeddings", "-1", "key \"max_position_embeddings\""},
    {"mixtral", "tie_word_embeddings", "1", "key \"tie_word_embeddings\": value: expected true or false, found 1"},
    {"mixtral", "bos_token_id", "48", "key \"bos_token_id\": value: expected an integer from 0 to 47, found 48"},
    {"mixtral", "bos_token_id", "-1", "key \"bos_token_id\""},
    {"mixtral", "eos_token_id", "[1,[2]]",
     "key \"eos_token_id\": value: expected an integer from 0 to 47, found an array"},
    {"mixtral", "eos_token_id", "\"</s>\"", "key \"eos_token_id\""},
    {"qwen3_moe", "moe_intermediate_size", "", "key \"moe_intermediate_size\""},
    {"qwen3_moe", "intermediate_size", "", "key \"intermediate_size\""},
    {"qwen3_moe", "norm_topk_prob", "\"yes\"", "key \"norm_topk_prob\": value: expected true or false, found \"yes\""},
    {"qwen3_moe", "decoder_sparse_step", "0", "key \"decoder_sparse_step\": value: expected an integer from 1 to 4096"},
    {"qwen3_moe", "mlp_only_layers", "[2]", "key \"mlp_only_layers\": value: expected an integer from 0 to 1, found 2"},
    {"qwen3_moe", "mlp_only_layers", "[\"0\"]", "key \"mlp_only_layers\""},
    {"qwen3_moe", "use_sliding_window", "true", "key \"sliding_window\""},
    {"qwen3_moe", "attention_bias", "0", "key \"attention_bias\""},
    {"olmoe", "clip_qkv", "-1", "key \"clip_qkv\""},
    {"olmoe", "clip_qkv", "\"8\"", "key \"clip_qkv\""},
    {"olmoe", "num_experts", "", "key \"num_experts\""},
    {"mixtral", "num_local_experts", "[8,4]",
     "key \"num_experts\": value: expected one number for all layers, found an array"},
    {"mixtral", "num_experts_per_tok", "[2,1]", "expected one number for all layers, found an array"},
    {"mixtral", "intermediate_size", "[40,24]", "expected one number for all layers, found an array"},
};

}  // namespace

TEST_CASE("a bad config is refused with file, key, expected and found") {
  CHECK(bad_configs.size() >= 60);
  for (const BadConfig& bad : bad_configs) {
    CAPTURE(bad.family);
    CAPTURE(bad.key);
    CAPTURE(bad.value);
    const std::string text = message(with(bad.family, bad.key, bad.value));
    CAPTURE(text);
    CHECK(text.starts_with("c.json: "));
    CHECK(contains(text, bad.expected));
  }
}

TEST_CASE("text that is no config is refused with the place") {
  const auto said = [](const std::string& text) {
    return message_of([&] { moe::io::parse_model_config(text, "c.json"); });
  };
  CHECK(contains(said(""), "c.json at byte 0: JSON: expected \"{\" as the first byte"));
  CHECK(contains(said("[]"), "expected \"{\" as the first byte, found \"[\""));
  CHECK(contains(said("{\"a\":1"), "found \"unexpected end of input"));
  CHECK(contains(said("{}{}"), "expected a JSON object"));
  CHECK(contains(said("{\"a\":1,\"a\":2}"), "key \"a\": expected each key once, found a second one"));
  CHECK(contains(said("{\"x\":{\"a\":1,\"\\u0061\":2}}"), "key \"a\": expected each key once"));
  CHECK(contains(said(concat("{\"a\":", std::string(100'000, '[') + "}")),
                 "expected at most 32 levels, found a deeper one"));
  CHECK(contains(said("{\"a\":\"\xff\"}"), "ill-formed UTF-8"));
  CHECK(contains(said(std::string("{}\0{}", 5)), "found a zero byte"));
  CHECK(contains(said("{\"a\":1e999}"), "expected a JSON object, found"));
  CHECK(contains(said("{}"), "key \"model_type\""));
}

TEST_CASE("every prefix and every flipped bit of a config is refused or gives a config within the limits") {
  const std::string good = read_file(MOE_TEST_DATA "/golden/qwen3_moe/config.json");
  const auto sound = [](const std::string& text) {
    try {
      const ModelConfig c = moe::io::parse_model_config(text, "c.json");
      return c.experts_per_token() >= 1 && c.experts_per_token() <= c.experts() && c.heads % c.kv_heads == 0 &&
             c.hidden() > 0 && c.layers() > 0 && c.head_dim % 2 == 0 && c.blocks.ffn.at(0) > 0 &&
             c.blocks.dense_ffn > 0 && c.vocab > 0;
    } catch (const moe::IoError&) {
      return true;
    }
  };
  for (std::size_t length = 0; length < good.size(); ++length) CHECK(sound(good.substr(0, length)));
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string text = good;
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    CHECK(sound(text));
  }
}

TEST_CASE("a config file of more than 4 MiB is refused unread") {
  const TemporaryFolder folder;
  write_file(folder / "config.json", std::string((4u << 20) + 1, ' '));
  CHECK(contains(message_of([&] { moe::io::load_model_config(folder / "config.json"); }),
                 "config.json: size: expected at most 4194304 bytes, found 4194305"));
}

TEST_CASE("Mixtral's config is read") {
  const ModelConfig c = parse(golden("mixtral"));
  CHECK(c.blocks.family == "mixtral");
  CHECK(c.layers() == 2);
  CHECK(c.hidden() == 64);
  CHECK(c.vocab == 48);
  CHECK(c.blocks.ffn.at(0) == 40);
  CHECK(c.blocks.dense_ffn == 0);
  CHECK(c.experts() == 8);
  CHECK(c.experts_per_token() == 2);
  CHECK(c.blocks.router.score == moe::Score::softmax_of_picked);
  CHECK(c.heads == 4);
  CHECK(c.kv_heads == 2);
  CHECK(c.head_dim == 16);
  CHECK(c.qk_norm == QkNorm::none);
  CHECK_FALSE(c.attention_bias);
  CHECK_FALSE(c.clip_qkv);
  CHECK_FALSE(c.sliding_window);
  CHECK(c.rope_theta == 1e6);
  CHECK(c.rms_norm_eps == 1e-5f);
  CHECK(c.max_positions == 64);
  CHECK_FALSE(c.tied_embeddings);
  CHECK(c.bos_ids == std::vector<int>{1});
  CHECK(c.eos_ids == std::vector<int>{2});
  CHECK(c.is_moe_layer(0));
  CHECK(c.is_moe_layer(1));
}

TEST_CASE("Qwen3-MoE's config is read") {
  const ModelConfig c = parse(golden("qwen3_moe"));
  CHECK(c.blocks.family == "qwen3_moe");
  CHECK(c.blocks.ffn.at(0) == 24);
  CHECK(c.blocks.dense_ffn == 80);
  CHECK(c.experts() == 12);
  CHECK(c.experts_per_token() == 8);
  CHECK(c.blocks.router.score == moe::Score::softmax_of_picked);
  CHECK(c.head_dim == 16);
  CHECK(c.qk_norm == QkNorm::per_head);
  CHECK(c.rms_norm_eps == 1e-6f);
}

TEST_CASE("OLMoE's config is read") {
  const ModelConfig c = parse(golden("olmoe"));
  CHECK(c.blocks.family == "olmoe");
  CHECK(c.blocks.ffn.at(0) == 24);
  CHECK(c.blocks.router.score == moe::Score::softmax);
  CHECK(c.kv_heads == 4);
  CHECK(c.qk_norm == QkNorm::whole_row);
  CHECK(parse(with("olmoe", "clip_qkv", "8")).clip_qkv == 8.0f);
  CHECK(parse(with("olmoe", "attention_bias", "true")).attention_bias);
}

TEST_CASE("which layers have experts follows the step and the list") {
  Json config = with("qwen3_moe", "decoder_sparse_step", "2");
  config["num_hidden_layers"] = 6;
  config["mlp_only_layers"] = {5, 3};
  const ModelConfig c = parse(config);
  const std::vector<bool> expected{false, true, false, false, false, false};
  for (int layer = 0; layer < 6; ++layer) CHECK(c.is_moe_layer(layer) == expected[static_cast<std::size_t>(layer)]);
}

TEST_CASE("a window counts for Qwen3 only if it is switched on") {
  CHECK_FALSE(parse(with("qwen3_moe", "sliding_window", "4096")).sliding_window);
  Json config = with("qwen3_moe", "sliding_window", "4096");
  config["use_sliding_window"] = true;
  CHECK(parse(config).sliding_window == 4096);
  CHECK(parse(with("mixtral", "sliding_window", "4096")).sliding_window == 4096);
}

TEST_CASE("the rotation's base is found in each of its places") {
  Json config = with("mixtral", "rope_parameters", "");
  CHECK(parse(config).rope_theta == 1e6);
  config["rope_scaling"] = nullptr;
  CHECK(parse(config).rope_theta == 1e6);
  config.erase("rope_theta");
  CHECK(contains(message(config), "key \"rope_theta\": value: expected a number from 1 to 1e12, here or in"));
  config["rope_scaling"] = {{"type", "default"}, {"rope_theta", 5e5}};
  CHECK(parse(config).rope_theta == 5e5);
  config.erase("rope_scaling");
  config["rope_parameters"] = {{"rope_theta", 10000}};
  CHECK(parse(config).rope_theta == 1e4);
}

TEST_CASE("token ids may be absent, one or several") {
  CHECK(parse(with("mixtral", "eos_token_id", "null")).eos_ids.empty());
  CHECK(parse(with("mixtral", "eos_token_id", "[2,3]")).eos_ids == std::vector<int>{2, 3});
  CHECK(parse(with("mixtral", "bos_token_id", "")).bos_ids.empty());
}

TEST_CASE("a head width of its own need not match the hidden size") {
  const ModelConfig c = parse(with("qwen3_moe", "head_dim", "128"));
  CHECK(c.head_dim == 128);
  CHECK(c.heads * c.head_dim == 512);
}

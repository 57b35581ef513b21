// What the engine's tests share: where the golden cases lie, tensors as vectors, and how results are compared.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <moe/io/json.hpp>
#include <moe/io/safetensors.hpp>
#include <span>
#include <string>
#include <vector>

#include "../io/support.hpp"
#include "sampling.hpp"
#include "sequence.hpp"

namespace engine_test {

inline const std::filesystem::path golden = std::filesystem::path(MOE_TEST_DATA) / "golden";

template <class T>
std::vector<T> tensor(const moe::io::SafetensorsFile& file, const std::string& name) {
  const moe::io::TensorInfo& info = file.at(name);
  REQUIRE(info.dtype == (sizeof(T) == 8 ? moe::io::Dtype::I64 : moe::io::Dtype::F32));
  std::vector<T> values(static_cast<std::size_t>(info.bytes) / sizeof(T));
  file.read(info, std::as_writable_bytes(std::span(values)));
  return values;
}

inline std::vector<int> token_ids(const moe::io::SafetensorsFile& file) {
  std::vector<int> ids;
  for (const std::int64_t id : tensor<std::int64_t>(file, "token_ids")) ids.push_back(static_cast<int>(id));
  return ids;
}

inline std::vector<float> copy(engine::ConstRows rows) {
  std::vector<float> values;
  for (int t = 0; t < rows.rows; ++t) values.insert(values.end(), rows.row(t).begin(), rows.row(t).end());
  return values;
}

/// Largest |difference| over the largest magnitude that was expected, as golden/README.md bounds it.
inline double difference(std::span<const float> found, std::span<const float> expected) {
  REQUIRE(found.size() == expected.size());
  double largest = 0, magnitude = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    REQUIRE(std::isfinite(found[i]));
    largest = std::max(largest, std::abs(double{found[i]} - double{expected[i]}));
    magnitude = std::max(magnitude, std::abs(double{expected[i]}));
  }
  return largest / magnitude;
}

/// Equal bit for bit.
inline bool same(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

/// The logits of all tokens, fed in pieces of `step` tokens.
inline std::vector<float> logits_in_steps(engine::Sequence& sequence, std::span<const int> tokens, std::size_t step) {
  sequence.restart();
  std::vector<float> all;
  for (std::size_t at = 0; at < tokens.size(); at += step) {
    const std::span<const int> piece = tokens.subspan(at, std::min(step, tokens.size() - at));
    const std::vector<float> part = copy(sequence.append(piece, engine::LogitsOf::every_token));
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}
inline std::vector<float> logits_of(const engine::Model& model, std::span<const int> tokens) {
  engine::Sequence sequence(model);
  return logits_in_steps(sequence, tokens, tokens.size());
}

/// Random weights under the names and shapes that a Hugging Face directory of this config has, written to `folder`.
/// All weights are small, all norms near one.
class RandomModel {
 public:
  RandomModel(const std::filesystem::path& folder, const moe::io::Json& config) : config_(config) {
    std::ofstream(folder / "config.json") << config.dump(1);
    const moe::io::ModelConfig c = moe::io::parse_model_config(config.dump(), "config.json");
    add_decoder(c);
    for (int layer = 0; layer < c.layers(); ++layer) add_layer(c, layer);
    moe::io::write_safetensors(folder / "model.safetensors", tensors_);
  }

 private:
  void add(const std::string& name, int rows, int cols = 0) {
    auto& values = values_.emplace_back(static_cast<std::size_t>(rows) * static_cast<std::size_t>(std::max(cols, 1)));
    const bool gain = name.ends_with("norm.weight");
    for (float& value : values) value = static_cast<float>(random_.uniform() - 0.5) * 0.5f + (gain ? 1.0f : 0.0f);
    std::vector<std::uint64_t> shape{static_cast<std::uint64_t>(rows)};
    if (cols > 0) shape.push_back(static_cast<std::uint64_t>(cols));
    tensors_.push_back({name, moe::io::Dtype::F32, shape, std::as_bytes(std::span(values))});
  }
  void add_decoder(const moe::io::ModelConfig& c) {
    add("model.embed_tokens.weight", c.vocab, c.hidden());
    add("model.norm.weight", c.hidden());
    if (!c.tied_embeddings) add("lm_head.weight", c.vocab, c.hidden());
  }
  void add_layer(const moe::io::ModelConfig& c, int layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", c.hidden());
    add(prefix + "post_attention_layernorm.weight", c.hidden());
    add_attention(c, prefix + "self_attn.");
    const moe::io::NetworkTensors &dense = c.blocks.dense, &experts = c.blocks.experts.front();
    const int dense_ffn = c.blocks.dense_ffn, ffn = c.blocks.ffn.at(layer);
    const auto name = [&](const std::string& pattern, int e) {
      return moe::io::detail::tensor_name(prefix + pattern, layer, e);
    };
    if (!c.is_moe_layer(layer)) {
      add(name(dense.gate, 0), dense_ffn, c.hidden());
      add(name(dense.up, 0), dense_ffn, c.hidden());
      add(name(dense.down, 0), c.hidden(), dense_ffn);
      return;
    }
    add(name(c.blocks.gate.weight.front(), 0), c.experts(), c.hidden());
    for (int e = 0; e < c.experts(); ++e) {
      add(name(experts.gate, e), ffn, c.hidden());
      add(name(experts.up, e), ffn, c.hidden());
      add(name(experts.down, e), c.hidden(), ffn);
    }
  }
  void add_attention(const moe::io::ModelConfig& c, const std::string& prefix) {
    const int queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
    for (const auto& [name, rows, cols] : {std::tuple{"q_proj", queries, c.hidden()},
                                           {"k_proj", keys, c.hidden()},
                                           {"v_proj", keys, c.hidden()},
                                           {"o_proj", c.hidden(), queries}}) {
      add(prefix + name + ".weight", rows, cols);
      if (c.attention_bias) add(prefix + name + ".bias", rows);
    }
    if (c.qk_norm == moe::io::QkNorm::none) return;
    const bool per_head = c.qk_norm == moe::io::QkNorm::per_head;
    add(prefix + "q_norm.weight", per_head ? c.head_dim : queries);
    add(prefix + "k_norm.weight", per_head ? c.head_dim : keys);
  }

  moe::io::Json config_;
  engine::SplitMix64 random_{1};
  std::vector<std::vector<float>> values_;
  std::vector<moe::io::TensorData> tensors_;
};

/// A config of `family` with two layers, 32 wide, and a vocabulary of 40.
inline moe::io::Json small_config(const std::string& family) {
  return {{"model_type", family},
          {"num_hidden_layers", 2},
          {"hidden_size", 32},
          {"vocab_size", 40},
          {"intermediate_size", 24},
          {"moe_intermediate_size", 16},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"rope_theta", 10000.0},
          {"rms_norm_eps", 1e-5},
          {"num_experts", 6},
          {"num_experts_per_tok", 2},
          {"max_position_embeddings", 64}};
}

}  // namespace engine_test

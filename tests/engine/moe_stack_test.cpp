// Feed-forwards of layers without experts, options as text, and checkpoints that lack something.
#include "moe_stack.hpp"

#include "support.hpp"

using namespace engine_test;

namespace {

/// down(silu(gate x) * up x) in double precision.
std::vector<float> dense_oracle(const moe::ExpertMatrices& m, moe::Row<const float> x) {
  std::vector<double> inner;
  for (int f = 0; f < m.gate.rows; ++f) {
    double gate = 0, up = 0;
    for (int i = 0; i < x.size(); ++i) {
      gate += double{m.gate.at(f, i)} * double{x[i]};
      up += double{m.up.at(f, i)} * double{x[i]};
    }
    inner.push_back(gate / (1 + std::exp(-gate)) * up);
  }
  std::vector<float> out;
  for (int h = 0; h < m.down.rows; ++h) {
    double sum = 0;
    for (int f = 0; f < m.down.cols; ++f) sum += double{m.down.at(h, f)} * inner[static_cast<std::size_t>(f)];
    out.push_back(static_cast<float>(sum));
  }
  return out;
}

}  // namespace

TEST_CASE("a layer without experts is an MoE layer of one expert") {
  const TemporaryFolder folder;
  moe::io::Json config = small_config("qwen3_moe");
  config["num_hidden_layers"] = 4;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};  // which leaves layer 1 alone with experts
  const RandomModel written(folder.path(), config);
  for (const char* storage : {"resident", "cached:100K"}) {
    const engine::Options options{engine::storage_from_text(storage), {}, moe::Cpu{.threads = 2}};
    const engine::Model model(folder.path(), options);
    moe::Workspace<> workspace{model.experts().workspace(3)};
    engine::Matrix x(3, 32), y(3, 32);
    engine::SplitMix64 random(2);
    for (int t = 0; t < 3; ++t) {
      for (float& value : x.view().row(t)) value = static_cast<float>(random.uniform() - 0.5);
    }
    model.experts().forward(2, x.view(), y.view(), workspace);
    const moe::io::ExpertTensors dense = model.checkpoint().dense(2);
    for (int t = 0; t < 3; ++t) {
      const moe::Row<float> row = y.view().row(t);
      CHECK(difference(std::span(row.data(), 32), dense_oracle(dense.matrices(), x.view().row(t))) <= 2e-6);
    }
    CHECK(model.experts().loads().size() == 1);
    CHECK(model.experts().loads()[0].layer == 1);
    const std::vector<int> tokens{1, 2, 3};
    engine::Sequence sequence(model);
    CHECK(std::isfinite(sequence.append(tokens, engine::LogitsOf::last_token).row(0)[0]));
    CHECK(model.experts().loads()[0].tokens == 3);
  }
}

TEST_CASE("formats as text") {
  for (const char* name : {"f32", "bf16", "f16", "q8_0", "mxfp4", "q4_0"}) {
    CHECK(engine::format_name(engine::format_from_name(name)) == name);
  }
  CHECK_THROWS_WITH_AS(engine::format_from_name("q4_1"), doctest::Contains("f32, bf16, f16, q8_0, mxfp4 or q4_0"),
                       moe::Error);
}

TEST_CASE("what the engine needs beside the experts is checked before anything is read") {
  const TemporaryFolder folder;
  moe::io::Json config = small_config("mixtral");
  const RandomModel written(folder.path(), config);
  const auto message = [&](const char* key, const moe::io::Json& value) {
    moe::io::Json changed = config;
    changed[key] = value;
    std::ofstream(folder.path() / "config.json") << changed.dump();
    return io_test::message_of([&] { engine::Model model(folder.path(), {}); });
  };
  CHECK(message("hidden_act", "silu").empty());
  CHECK(io_test::contains(message("vocab_size", 41), "model.embed_tokens.weight"));
  CHECK(io_test::contains(message("num_attention_heads", 2), "self_attn.k_proj.weight"));
  CHECK(io_test::contains(message("num_hidden_layers", 3), "model.layers.2."));
  CHECK(message("tie_word_embeddings", true).empty());
}

// The whole engine against logits and hidden states that transformers computed (tests/data/golden).
#include <array>
#include <fstream>
#include <moe/io/tensor_set.hpp>
#include <nlohmann/json.hpp>

#include "cpu/isas.hpp"
#include "support.hpp"

using namespace engine_test;

namespace {

constexpr double bound = 2e-5;  // golden/README.md
const std::vector<std::string> families{"mixtral", "qwen3_moe", "olmoe"};

engine::Options with(engine::Format format, const std::string& storage = "resident", int threads = 2) {
  return {engine::storage_from_text(storage), format, moe::Cpu{.threads = threads}};
}

struct Case {
  explicit Case(const std::string& family)
      : folder(golden / family),
        full(folder / "full.safetensors"),
        tokens(token_ids(full)),
        logits(tensor<float>(full, "logits")) {}
  std::filesystem::path folder;
  moe::io::SafetensorsFile full;
  std::vector<int> tokens;
  std::vector<float> logits;
};

}  // namespace

TEST_CASE("logits agree with the reference, for a prompt at once and token by token") {
  for (const std::string& family : families) {
    CAPTURE(family);
    const Case golden_case(family);
    const engine::Model model(golden_case.folder, {});
    engine::Sequence sequence(model);
    const std::vector<float> prefill = logits_in_steps(sequence, golden_case.tokens, golden_case.tokens.size());
    const std::vector<float> decode = logits_in_steps(sequence, golden_case.tokens, 1);
    const double found = difference(prefill, golden_case.logits);
    MESSAGE(family, ": logits differ by ", found);
    CHECK(found <= bound);
    CHECK(same(prefill, decode));
  }
}

TEST_CASE("hidden states agree with the reference layer by layer") {
  for (const std::string& family : families) {
    CAPTURE(family);
    const Case golden_case(family);
    const engine::Model model(golden_case.folder, {});
    engine::Sequence sequence(model);
    int seen = 0;
    sequence.observe([&](int index, engine::ConstRows hidden) {
      CAPTURE(index);
      CHECK(index == seen++);
      const std::string name = "hidden_" + std::to_string(index);
      CHECK(difference(copy(hidden), tensor<float>(golden_case.full, name)) <= bound);
    });
    sequence.append(golden_case.tokens, engine::LogitsOf::last_token);
    CHECK(seen == model.config().layers() + 1);
  }
}

TEST_CASE("results do not depend on how a text is cut, on threads, or on the instruction set") {
  for (const std::string& family : families) {
    CAPTURE(family);
    const Case golden_case(family);
    const engine::Model model(golden_case.folder, with(engine::Format::bf16));
    const std::vector<float> whole = logits_of(model, golden_case.tokens);
    engine::Sequence sequence(model);
    for (const std::size_t step : {1u, 2u, 5u, 7u, 23u}) {
      CAPTURE(step);
      CHECK(same(logits_in_steps(sequence, golden_case.tokens, step), whole));
    }
    for (const moe::Isa isa : available_isas()) {
      for (const int threads : {1, 3}) {
        engine::Options options = with(engine::Format::bf16);
        options.cpu = moe::Cpu{.threads = threads, .isa = isa};
        const engine::Model other(golden_case.folder, options);
        CHECK(same(logits_of(other, golden_case.tokens), whole));
      }
    }
  }
}

TEST_CASE("the last token's logits are the same alone") {
  const Case golden_case("mixtral");
  const engine::Model model(golden_case.folder, {});
  engine::Sequence all(model), last(model);
  const std::vector<float> expected = copy(all.append(golden_case.tokens, engine::LogitsOf::every_token));
  const std::vector<float> found = copy(last.append(golden_case.tokens, engine::LogitsOf::last_token));
  CHECK(same(found, std::span(expected).last(found.size())));
  CHECK(found.size() == static_cast<std::size_t>(model.config().vocab));
}

TEST_CASE("narrow formats stay close, and bf16 weights as bf16 lose nothing") {
  for (const std::string& family : families) {
    CAPTURE(family);
    const Case golden_case(family);
    const auto error = [&](engine::Format format) {
      const engine::Model model(golden_case.folder, with(format));
      return difference(logits_of(model, golden_case.tokens), golden_case.logits);
    };
    CHECK(error(engine::Format::f16) <= 2e-3);
    CHECK(error(engine::Format::bf16) <= 2e-2);
    CHECK(error(engine::Format::q8_0) <= 2e-2);
  }
}

TEST_CASE("a cache of any size gives the same bits as experts in memory") {
  for (const std::string& family : families) {
    const Case golden_case(family);
    for (const engine::Format format : {engine::Format::f32, engine::Format::q8_0}) {
      const engine::Model resident(golden_case.folder, with(format));
      const std::vector<float> expected = logits_of(resident, golden_case.tokens);
      for (const std::string storage : {"cached:44K", "cached:100K", "cached:1M"}) {
        CAPTURE(family);
        CAPTURE(storage);
        const engine::Model cached(golden_case.folder, with(format, storage));
        engine::Sequence sequence(cached);
        CHECK(same(logits_in_steps(sequence, golden_case.tokens, 24), expected));
        CHECK(same(logits_in_steps(sequence, golden_case.tokens, 1), expected));
        const engine::StorageFigures figures = cached.experts().storage_figures();
        CHECK(figures.cache.misses > 0);
        CHECK(figures.bytes_read > 0);
        CHECK(figures.bytes_held <= engine::storage_from_text(storage).bytes);
      }
    }
  }
}

TEST_CASE("a budget that holds no expert is refused") {
  CHECK_THROWS_WITH_AS(engine::Model(golden / "mixtral", with(engine::Format::f32, "cached:4K")),
                       doctest::Contains("at least 1 of "), moe::Error);
}

TEST_CASE("loads of the experts are counted") {
  const Case golden_case("qwen3_moe");
  engine::Model model(golden_case.folder, {});
  engine::Sequence sequence(model);
  sequence.append(golden_case.tokens, engine::LogitsOf::last_token);
  CHECK(model.experts().experts_per_token() == 8);
  CHECK(model.experts().loads().size() == 2);
  for (const engine::LayerLoad& load : model.experts().loads()) {
    CHECK(load.tokens == 24);
    std::int64_t picks = 0;
    for (const std::int64_t n : load.picks) picks += n;
    CHECK(picks == 24 * 8);
  }
  model.experts().reset_loads();
  CHECK(model.experts().experts_per_token() == 0);
}

TEST_CASE("a checkpoint in two shards gives the logits of the whole one") {
  const TemporaryFolder folder;
  const Case golden_case("qwen3_moe");
  const moe::io::TensorSet whole(golden_case.folder);
  std::filesystem::copy(golden_case.folder / "config.json", folder.path() / "config.json");
  nlohmann::json index;
  const std::array<std::string, 2> names{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  std::array<std::vector<moe::io::TensorData>, 2> shards;
  std::vector<std::vector<std::byte>> contents(whole.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const moe::io::TensorInfo& tensor = whole[i];
    contents[i].resize(static_cast<std::size_t>(tensor.bytes));
    whole.read(tensor, contents[i]);
    shards[i % 2].push_back({tensor.name, tensor.dtype, tensor.shape, contents[i]});
    index["weight_map"][tensor.name] = names[i % 2];
  }
  for (std::size_t s = 0; s < 2; ++s) moe::io::write_safetensors(folder.path() / names[s], shards[s]);
  std::ofstream(folder.path() / "model.safetensors.index.json") << index;
  const engine::Model sharded(folder.path(), {}), model(golden_case.folder, {});
  CHECK(same(logits_of(sharded, golden_case.tokens), logits_of(model, golden_case.tokens)));
}

TEST_CASE("a bf16 checkpoint is kept in bf16 and agrees with the float32 one to bf16's precision") {
  TemporaryFolder folder;
  const Case golden_case("mixtral");
  std::filesystem::copy(golden_case.folder / "config.json", folder.path() / "config.json");
  std::filesystem::copy(golden_case.folder / "model.bf16.safetensors", folder.path() / "model.safetensors");
  const engine::Model model(folder.path(), {});
  CHECK(model.experts().format() == engine::Format::bf16);
  CHECK(difference(logits_of(model, golden_case.tokens), golden_case.logits) <= 2e-2);
}

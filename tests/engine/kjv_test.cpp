// The model that is shipped with the project: its logits, its text, its quality.
#include "support.hpp"

using namespace engine_test;

namespace {

const std::filesystem::path kjv = MOE_MODEL_DIR;

engine::Options with(engine::Format format, const std::string& storage = "resident") {
  return {engine::storage_from_text(storage), format, moe::Cpu{}};
}

std::string continued(const engine::Model& model, const std::string& prompt, int count, engine::Sampler sampler) {
  engine::Sequence sequence(model);
  std::vector<int> tokens;
  for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
  std::string text;
  for (int i = 0; i < count; ++i) {
    const int token = sampler(sequence.append(tokens, engine::LogitsOf::last_token).row(0));
    text += static_cast<char>(static_cast<unsigned char>(token));
    tokens = {token};
  }
  return text;
}

/// Bits per byte of the tokens but the first.
double bits_per_byte(std::span<const float> logits, std::span<const int> tokens) {
  const std::size_t vocab = logits.size() / tokens.size();
  double bits = 0;
  for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
    double sum = 0;
    for (const float logit : logits.subspan(t * vocab, vocab)) sum += std::exp(double{logit});
    bits += std::log2(sum) - double{logits[t * vocab + static_cast<std::size_t>(tokens[t + 1])]} / std::log(2.0);
  }
  return bits / static_cast<double>(tokens.size() - 1);
}

}  // namespace

TEST_CASE("logits agree with transformers, beyond the sliding window too") {
  const moe::io::SafetensorsFile reference(kjv / "reference_logits.safetensors");
  const std::vector<int> tokens = token_ids(reference);
  const std::vector<float> expected = tensor<float>(reference, "logits");
  const engine::Model model(kjv, {});
  REQUIRE(model.config().sliding_window);
  REQUIRE(tokens.size() > static_cast<std::size_t>(*model.config().sliding_window));
  const std::vector<float> found = logits_of(model, tokens);
  const double off = difference(found, expected);
  MESSAGE("logits differ by ", off);
  CHECK(off <= 2e-5);
  CHECK(bits_per_byte(found, tokens) < 2.5);

  engine::Sequence sequence(model);
  CHECK(same(logits_in_steps(sequence, tokens, 1), found));
  CHECK(same(logits_in_steps(sequence, tokens, 77), found));
}

TEST_CASE("what the checkpoint stores as bf16 computes the same in f32 and from a cache") {
  const moe::io::SafetensorsFile reference(kjv / "reference_logits.safetensors");
  const std::vector<int> tokens = token_ids(reference);
  const engine::Model model(kjv, {});
  CHECK(model.experts().format() == engine::Format::bf16);
  const std::vector<float> stored = logits_of(model, tokens);
  CHECK(same(logits_of(engine::Model(kjv, with(engine::Format::f32)), tokens), stored));
  for (const char* budget : {"cached:400K", "cached:3M"}) {
    CAPTURE(budget);
    CHECK(same(logits_of(engine::Model(kjv, with(engine::Format::bf16, budget)), tokens), stored));
  }
  // Eight bits a weight may turn a close choice of experts, which moves single logits, but not what the model knows.
  const std::vector<float> coarse = logits_of(engine::Model(kjv, with(engine::Format::q8_0)), tokens);
  CHECK(std::abs(bits_per_byte(coarse, tokens) / bits_per_byte(stored, tokens) - 1) < 0.01);
}

TEST_CASE("text repeats with its seed, and goes on beyond the model's positions") {
  const engine::Model model(kjv, {});
  const std::string first = continued(model, "And God said", 700, engine::Sampler(0.7, 5));
  CHECK(first == continued(model, "And God said", 700, engine::Sampler(0.7, 5)));
  CHECK(first != continued(model, "And God said", 700, engine::Sampler(0.7, 6)));
  CHECK(model.config().max_positions < 700);
  std::size_t words = 0;
  for (const char* word : {" the ", " and ", " of ", " unto ", " that ", " he ", " LORD "}) {
    words += first.find(word) != std::string::npos ? 1 : 0;
  }
  CHECK(words >= 4);
}

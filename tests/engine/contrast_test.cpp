// Two routings of one model in one step, and what comes of contrasting them.
#include "contrast.hpp"

#include "support.hpp"

using namespace engine_test;

namespace {

const std::filesystem::path kjv = MOE_MODEL_DIR;

std::vector<int> bytes(const std::string& text) {
  std::vector<int> tokens;
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

engine::Model two_streams(moe::StreamRule weak = moe::StreamRule::rank(2)) {
  engine::Model model(kjv, {});
  model.experts().set_policy(engine::TwoStreams{.strong = {}, .weak = weak});
  return model;
}

/// Feeds `prompt` and then, one by one, `count` tokens of a text that no stream has chosen.
template <class Text, class See>
void feed(Text& text, const std::vector<int>& prompt, int count, const See& see) {
  see(text.append(prompt, engine::LogitsOf::last_token));
  for (int i = 0; i < count; ++i) {
    const int token = "the LORD spake unto "[i % 20];
    see(text.append(std::span(&token, 1), engine::LogitsOf::last_token));
  }
}

std::vector<std::vector<float>> logits_under(const engine::Model& model, std::vector<int> rules,
                                             const std::vector<int>& prompt, int count) {
  engine::Sequence sequence(model, std::move(rules));
  sequence.set_seed(7);
  std::vector<std::vector<float>> all;
  feed(sequence, prompt, count, [&](engine::ConstRows logits) { all.push_back(copy(logits)); });
  return all;
}

}  // namespace

TEST_CASE("one step of two streams gives the bits of two steps, over a prompt longer than a batch and 64 tokens") {
  std::string prompt = "And it came to pass ";
  while (prompt.size() < 300) prompt += prompt;
  for (const moe::StreamRule weak :
       {moe::StreamRule::rank(2), moe::StreamRule::rank(8), moe::StreamRule::top(1), moe::StreamRule::random_one()}) {
    CAPTURE(static_cast<int>(weak.by));
    CAPTURE(weak.count);
    const engine::Model model = two_streams(weak);
    const auto fused = logits_under(model, {0, 1}, bytes(prompt), 64);
    const auto strong = logits_under(model, {0}, bytes(prompt), 64),
               weaker = logits_under(model, {1}, bytes(prompt), 64);
    bool differ = false;
    for (std::size_t i = 0; i < fused.size(); ++i) {
      const std::size_t half = fused[i].size() / 2;
      REQUIRE(same(std::span(fused[i]).first(half), strong[i]));
      REQUIRE(same(std::span(fused[i]).subspan(half), weaker[i]));
      differ = differ || !same(strong[i], weaker[i]);
    }
    CHECK(differ);
  }
}

TEST_CASE("logits of every token come stream by stream, whatever the batches") {
  const engine::Model model = two_streams();
  const std::vector<int> tokens = bytes(std::string(300, 'a') + " and the waters");
  engine::Sequence both(model, {0, 1}), weak(model, {1});
  const std::vector<float> fused = copy(both.append(tokens, engine::LogitsOf::every_token));
  const std::vector<float> alone = copy(weak.append(tokens, engine::LogitsOf::every_token));
  REQUIRE(fused.size() == 2 * alone.size());
  CHECK(same(std::span(fused).subspan(alone.size()), alone));
}

TEST_CASE("the strong stream is the model as it was trained") {
  const engine::Model model = two_streams();
  const std::vector<int> tokens = bytes("In the beginning God created the heaven and the earth.");
  const std::vector<float> found = logits_of(model, tokens);
  CHECK(same(found, logits_of(engine::Model(kjv, {}), tokens)));
}

TEST_CASE("a poisoned cache of one stream does not reach the other") {
  const engine::Model model = two_streams();
  const std::vector<int> prompt = bytes("And God said, Let there be light");
  for (const int poisoned : {0, 1}) {
    engine::Sequence clean(model, {0, 1}), sick(model, {0, 1});
    clean.append(prompt, engine::LogitsOf::last_token);
    sick.append(prompt, engine::LogitsOf::last_token);
    const moe::io::ModelConfig& c = model.config();
    for (int layer = 0; layer < c.layers(); ++layer) {
      for (int position = 0; position < static_cast<int>(prompt.size()); ++position) {
        std::fill_n(sick.cache(layer, poisoned).value(position), c.kv_heads * c.head_dim, std::nanf(""));
      }
    }
    const int next = ':';
    const std::vector<float> expected = copy(clean.append(std::span(&next, 1), engine::LogitsOf::last_token));
    const std::vector<float> found = copy(sick.append(std::span(&next, 1), engine::LogitsOf::last_token));
    const auto half = [](const std::vector<float>& both, int stream) {
      return std::span(both).subspan(static_cast<std::size_t>(stream) * both.size() / 2, both.size() / 2);
    };
    CHECK(same(half(found, 1 - poisoned), half(expected, 1 - poisoned)));
    CHECK(std::isnan(half(found, poisoned)[0]));
  }
}

TEST_CASE("contrasted logits are (1 + beta) strong - beta weak, cut off below alpha of the likeliest") {
  const engine::Model model = two_streams();
  const std::vector<int> prompt = bytes("And the LORD");
  const auto both = logits_under(model, {0, 1}, prompt, 20);
  engine::ContrastSequence contrast(model, {.alpha = 0.1f, .beta = 0.7f});
  std::size_t step = 0, cut = 0;
  feed(contrast, prompt, 20, [&](engine::ConstRows logits) {
    const std::span<const float> strong = std::span(both[step]).first(256), weak = std::span(both[step]).subspan(256);
    const double best = *std::max_element(strong.begin(), strong.end());
    for (int i = 0; i < 256; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double expected = 1.7 * double{strong[at]} - 0.7 * double{weak[at]};
      const double above = double{strong[at]} - (best + std::log(0.1));
      if (std::abs(above) < 1e-5) continue;  // rounding may decide either way
      if (above < 0) {
        CHECK(logits.row(0)[i] == -HUGE_VALF);
        ++cut;
      } else {
        CHECK(std::abs(double{logits.row(0)[i]} - expected) <= 1e-5 * (1 + std::abs(expected)));
      }
    }
    ++step;
  });
  CHECK(cut > 0);
}

TEST_CASE("without beta, contrasted text is greedy text") {
  const auto text_of = [](auto& sequence) {
    std::vector<int> tokens = bytes("In the beginning"), text;
    for (int i = 0; i < 80; ++i) {
      text.push_back(engine::Sampler::greedy(sequence.append(tokens, engine::LogitsOf::last_token).row(0)));
      tokens = {text.back()};
    }
    return text;
  };
  const engine::Model model = two_streams(), trained(kjv, {});
  engine::Sequence greedy(trained);
  const std::vector<int> expected = text_of(greedy);
  engine::ContrastSequence none(model, {.beta = 0}), some(model, {.beta = 0.9f});
  CHECK(text_of(none) == expected);
  CHECK(text_of(some) != expected);
}

TEST_CASE("a random weak routing repeats with its seed, and draws anew in every layer") {
  engine::Model model = two_streams(moe::StreamRule::random_one());
  const auto drawn = [&](std::uint64_t seed) {
    std::vector<int> ids;
    model.experts().observe([&](int, const moe::Frame<>& frame) {
      for (int t = 0; t < frame.dims.tokens; ++t) ids.push_back(frame.table.slots.row(t)[0].expert);
    });
    engine::Sequence weak(model, {1});
    weak.set_seed(seed);
    weak.append(bytes("a text of some bytes"), engine::LogitsOf::last_token);
    model.experts().observe({});
    return ids;
  };
  const std::vector<int> ids = drawn(1);
  CHECK(ids == drawn(1));
  CHECK(ids != drawn(2));
  const auto layer = static_cast<std::ptrdiff_t>(ids.size()) / model.config().layers();
  CHECK(!std::equal(ids.begin(), ids.begin() + layer, ids.begin() + layer));
}

TEST_CASE("self-contrast refuses what it cannot do") {
  const engine::Model trained(kjv, {}), model = two_streams();
  CHECK_THROWS_WITH_AS(engine::ContrastSequence(trained, {}), doctest::Contains("TwoStreams"), moe::Error);
  CHECK_THROWS_WITH_AS(engine::ContrastSequence(model, {.alpha = 0}), doctest::Contains("alpha"), moe::Error);
  CHECK_THROWS_WITH_AS(engine::ContrastSequence(model, {.beta = -1}), doctest::Contains("beta"), moe::Error);
  CHECK_THROWS_WITH_AS(engine::Sequence(model, {}), doctest::Contains("streams"), moe::Error);
}

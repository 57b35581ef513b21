// The first-layer gate in the engine: how often it is right, when it is asked, and models that it does not fit.
#include <moe/io/first_gate.hpp>
#include <moe/predictors/routing_paths.hpp>
#include <numeric>

#include "offloading_support.hpp"

using namespace engine_test;

namespace {

constexpr int picks = 2;
const std::filesystem::path gate_file = kjv / "first_gate.safetensors";

/// What layer 0 picked for the tokens of a text, in order, and which of it the gate named when it saw the outputs for
/// the token before.
struct Comparison {
  std::vector<int> right;  // [T - 1] of `picks`

  Comparison(engine::Model& model, std::span<const int> tokens, std::size_t step) {
    moe::FirstLayerGate gate = moe::io::read_first_gate(gate_file);
    std::vector<moe::RoutingPaths> guesses;  // [call] for the tokens after its own
    std::vector<std::vector<moe::ExpertId>> picked;
    model.experts().observe([&](int layer, const moe::Frame<>& frame) {
      if (layer != 0) return;
      for (int t = 0; t < frame.dims.tokens; ++t)
        picked.push_back({frame.table.slots.row(t)[0].expert, frame.table.slots.row(t)[1].expert});
    });
    engine::Sequence sequence(model);
    sequence.observe([&](int index, engine::ConstRows outputs) {
      if (index == kjv_layers) guesses.push_back(moe::top_paths(gate.guess(model.cpu(), outputs), kjv_experts, picks));
    });
    logits_in_steps(sequence, tokens, step);
    model.experts().observe({});
    for (const moe::RoutingPaths& guess : guesses)
      for (int t = 0; t < guess.tokens() && right.size() + 1 < tokens.size(); ++t) {
        right.push_back(0);
        for (const moe::ExpertId e : picked[right.size()]) right.back() += guess.test(t, 0, e) ? 1 : 0;
      }
  }
  int from(std::size_t first) const {
    return std::accumulate(right.begin() + static_cast<long>(first), right.end(), 0);
  }
};

std::vector<int> held_out(std::size_t first, std::size_t bytes) {
  std::vector<int> tokens;
  for (const char c : read_file(kjv / "validation.txt").substr(first, bytes))
    tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

/// The engine's message for a small model of another config, with the shipped gate.
std::string refusal(moe::io::Json config, const std::filesystem::path& gate = gate_file) {
  const TemporaryFolder folder;
  const RandomModel written(folder.path(), config);
  engine::Options options{engine::storage_from_text("cached:100K"), {}, moe::Cpu{.threads = 1}};
  options.storage.prefetch = moe::Prefetch::observe;
  engine::set_predictor(options.storage, "first-gate:" + gate.string());
  try {
    const engine::Model model(folder.path(), options);
  } catch (const moe::Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("the shipped gate names two thirds of what layer 0 picks for the next token of held-out text") {
  engine::Model model(kjv, {{}, engine::Format::bf16, moe::Cpu{.threads = 2}});
  constexpr std::size_t windows = 12, length = 256, distance = 15800;  // over all six books
  int right = 0;
  for (std::size_t w = 0; w < windows; ++w) right += Comparison(model, held_out(w * distance, length), length).from(0);
  const double share = right / (windows * (length - 1.0) * picks);
  MESSAGE("named ", 100 * share, " % of the picks");
  CHECK(std::abs(share - 0.667) < 0.02);  // over all held-out books path_predictor.json says 0.667
}

TEST_CASE("before every step layer 0 is guessed from the outputs for the token before, later layers by their gates") {
  const Offloaded offloaded;
  Setting setting;
  setting.slots = 24;
  setting.prefetch = moe::Prefetch::observe;
  const auto figures = [&](const char* predictor) {
    setting.predictor = predictor;
    engine::StorageFigures f;
    CHECK(exact(offloaded, setting, &f));
    return f.cache;
  };
  const moe::CacheStatistics next = figures("next-gate"), first = figures("first-gate");
  engine::Model model(kjv, offloaded.options(setting));
  const Comparison expected(model, offloaded.tokens, 1);
  CHECK(first.needed - next.needed == Offloaded::steps * picks);
  CHECK(first.predicted - next.predicted == Offloaded::steps * picks);
  CHECK(first.predicted_right - next.predicted_right ==
        static_cast<std::uint64_t>(expected.from(Offloaded::prompt - 1)));
  CHECK(first.predicted_right > next.predicted_right);
  CHECK(first.loads == next.loads);
}

TEST_CASE("two streams of a text are guessed for, each from its own output") {
  const std::vector<int> tokens = held_out(0, 40);
  std::vector<std::vector<float>> logits;
  std::vector<moe::CacheStatistics> figures;
  for (const char* predictor : {"next-gate", "first-gate"}) {
    engine::Options options{engine::storage_from_text("cached:4M"), engine::Format::bf16, moe::Cpu{.threads = 1}};
    options.storage.prefetch = moe::Prefetch::enforce;
    engine::set_predictor(options.storage,
                          std::string(predictor) == "first-gate" ? "first-gate:" + gate_file.string() : predictor);
    engine::Model model(kjv, options);
    model.experts().set_policy(engine::TwoStreams{});
    engine::Sequence sequence(model, {0, 1});
    logits.push_back(logits_in_steps(sequence, tokens, 1));
    figures.push_back(model.experts().storage_figures().cache);
  }
  CHECK(same(logits[0], logits[1]));
  const std::uint64_t more = figures[1].predicted - figures[0].predicted;
  CHECK(more >= 39 * 2);  // the strong stream's two, and the weak one's second
  CHECK(more <= 39 * 3);
}

TEST_CASE("a gate for another model, and none, are refused") {
  moe::io::Json config = small_config("mixtral");
  CHECK(refusal(config) == "--predictor first-gate: experts a layer: expected 6, found 8");
  config["num_experts"] = 8;
  CHECK(refusal(config) == "--predictor first-gate: hidden width: expected 32, found 192");
  CHECK(io_test::contains(refusal(config, "nowhere"), "nowhere"));
  CHECK(io_test::contains(refusal(config, kjv / "path_predictor.safetensors"), "\"bias\": missing"));
  config = small_config("qwen3_moe");
  config["mlp_only_layers"] = {0};
  CHECK(refusal(config) == "--predictor first-gate: layer 0: expected one with experts, found one without");
}

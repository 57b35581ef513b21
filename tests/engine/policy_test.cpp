// Routing policies of a loaded model: what each gives against the router it stands for, their texts, their switching.
#include "policy.hpp"

#include <algorithm>
#include <functional>

#include "adamoe.hpp"
#include "calibration.hpp"
#include "loss.hpp"
#include "support.hpp"

using namespace engine_test;

namespace {

const std::filesystem::path kjv = MOE_MODEL_DIR;

engine::Options with_storage(const char* text) {
  engine::Options options;
  options.storage = engine::storage_from_text(text);
  return options;
}
engine::Options with_adamoe(const std::filesystem::path& folder) {
  engine::Options options;
  options.adamoe = folder;
  return options;
}

std::vector<int> text_tokens(std::size_t count) {
  std::ifstream file(kjv / "validation.txt", std::ios::binary);
  std::vector<int> tokens;
  for (char c = 0; tokens.size() < count && file.get(c);) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

std::vector<float> logits_under(engine::Model& model, const engine::Policy& policy, std::span<const int> tokens) {
  model.experts().set_policy(policy);
  return logits_of(model, tokens);
}

engine::PrunedExperts all_experts(const moe::io::ModelConfig& config) {
  return engine::random_experts(config, config.experts(), 1);
}

}  // namespace

TEST_CASE("policies that change nothing give the bits of the trained model, from memory and from a cache") {
  const std::vector<int> tokens = text_tokens(200);
  for (const char* storage : {"resident", "cached:2M"}) {
    CAPTURE(storage);
    engine::Model model(kjv, with_storage(storage));
    const std::vector<float> trained = logits_of(model, tokens);
    const std::vector<float> ones(6, 1.0f);
    CHECK(same(logits_under(model, engine::TopExperts{2}, tokens), trained));
    CHECK(same(logits_under(model, engine::SensitivityBudget{0, ones}, tokens), trained));
    CHECK(same(logits_under(model, engine::SkippedExperts{{0.0f}}, tokens), trained));
    CHECK(same(logits_under(model, all_experts(model.config()), tokens), trained));
    CHECK(same(logits_under(model, engine::TwoStreams{}, tokens), trained));
    CHECK(same(logits_under(model, engine::MovedWeight{3, 0}, tokens), trained));
    CHECK(!same(logits_under(model, engine::TopExperts{1}, tokens), trained));
    CHECK(same(logits_under(model, engine::AsTrained{}, tokens), trained));
  }
}

TEST_CASE("policies that leave one expert agree with top-1 bit for bit") {
  const std::vector<int> tokens = text_tokens(120);
  engine::Model model(kjv, {});
  const std::vector<float> one = logits_under(model, engine::TopExperts{1}, tokens);
  CHECK(same(logits_under(model, engine::SensitivityBudget{1, {1.0f}}, tokens), one));
  CHECK(same(logits_under(model, engine::SkippedExperts{{1.5f}}, tokens), one));
  CHECK(same(logits_under(model, engine::TwoStreams{.strong = moe::StreamRule::top(1)}, tokens), one));
  CHECK(same(logits_under(model, engine::TwoStreams{.strong = moe::StreamRule::rank(1)}, tokens), one));
}

TEST_CASE("policies switch without reading an expert again") {
  engine::Model model(kjv, {});
  const std::uint64_t read = model.experts().storage_figures().bytes_read;
  for (const int k : {1, 3, 8}) {
    model.experts().set_policy(engine::TopExperts{k});
    model.experts().reset_loads();
    logits_of(model, text_tokens(40));
    CHECK(model.experts().experts_per_token() == k);
  }
  CHECK(model.experts().storage_figures().bytes_read == read);
}

TEST_CASE("a stream of three experts is top-3, although the model was trained with two") {
  const std::vector<int> tokens = text_tokens(60);
  engine::Model model(kjv, {});
  const std::vector<float> three = logits_under(model, engine::TopExperts{3}, tokens);
  CHECK(same(logits_under(model, engine::TwoStreams{.strong = moe::StreamRule::top(3)}, tokens), three));
  const engine::TwoStreams weak_three{.strong = {}, .weak = moe::StreamRule::top(3)};
  CHECK(same(logits_under(model, weak_three, tokens), logits_under(model, engine::AsTrained{}, tokens)));
}

TEST_CASE("pruned layers choose among the kept experts alone, as if the other logits were minus infinity") {
  engine::Model model(kjv, {});
  const engine::PrunedExperts pruned = engine::random_experts(model.config(), 3, 5);
  model.experts().set_policy(pruned);
  int rows = 0;
  model.experts().observe([&](int layer, const moe::Frame<>& frame) {
    for (int t = 0; t < frame.dims.tokens; ++t, ++rows) {
      const moe::Row<const float> logits = frame.routing_logits.row(t);
      std::vector<moe::ExpertId> kept = pruned.kept[static_cast<std::size_t>(layer)];
      std::sort(kept.begin(), kept.end(), [&](int a, int b) { return logits[a] > logits[b]; });
      REQUIRE(frame.table.size(t) == 2);
      const moe::Row<moe::Slot> row = frame.table.slots.row(t);
      CHECK(row[0].expert == kept[0]);
      CHECK(row[1].expert == kept[1]);
      const double second = 1 / (1 + std::exp(double{logits[kept[0]]} - double{logits[kept[1]]}));
      CHECK(std::abs(double{row[1].weight} - second) < 1e-6);
    }
  });
  engine::Sequence(model).append(text_tokens(100), engine::LogitsOf::last_token);
  CHECK(rows == 600);
}

TEST_CASE("decode-only sensitivity leaves prompts alone") {
  const std::vector<int> tokens = text_tokens(50);
  engine::Model model(kjv, {});
  const engine::SensitivityBudget always{1, {1.0f}}, decode{1, {1.0f}, moe::When::decode_only};
  const auto experts_of = [&](const engine::Policy& policy, std::size_t step) {
    model.experts().set_policy(policy);
    model.experts().reset_loads();
    engine::Sequence sequence(model);
    logits_in_steps(sequence, tokens, step);
    return model.experts().experts_per_token();
  };
  CHECK(experts_of(always, 50) == 1);
  CHECK(experts_of(decode, 50) == 2);
  CHECK(experts_of(decode, 1) == 1);
}

TEST_CASE("the most picked experts are kept, ties to the lower id") {
  const engine::PrunedExperts pruned = engine::most_picked({{5, 9, 5, 5}, {0, 0, 1, 7}}, 2);
  CHECK(pruned.kept == std::vector<std::vector<moe::ExpertId>>{{0, 1}, {2, 3}});
  const moe::io::ModelConfig config = engine::Model(kjv, {}).config();
  CHECK(engine::random_experts(config, 4, 1).kept == engine::random_experts(config, 4, 1).kept);
  CHECK(engine::random_experts(config, 4, 1).kept != engine::random_experts(config, 4, 2).kept);
}

// ---- texts

TEST_CASE("policies as text") {
  const moe::io::ModelConfig config = engine::Model(kjv, {}).config();
  const auto parse = [&](const char* text) { return engine::policy_from_text(text, config); };
  CHECK(std::holds_alternative<engine::AsTrained>(parse("trained")));
  CHECK(std::get<engine::TopExperts>(parse("top3")).k == 3);
  CHECK(std::get<engine::ShiftedNulls>(parse("nulls:shift=-0.5")).shift == -0.5f);
  CHECK(std::get<engine::SkippedExperts>(parse("skip:beta=0.25")).betas == engine::PerLayer{0.25f});
  CHECK(std::get<engine::PrunedExperts>(parse("pruned:keep=4,seed=9")).kept ==
        engine::random_experts(config, 4, 9).kept);
  for (const char* wrong : {"", "top", "top0", "top9", "top2x", "topx", "nulls", "nulls:shift=", "nulls:shift=nan",
                            "nulls:shift=1,shift=1", "nulls:shift=1,more=2", "skip", "pruned:keep=0,seed=1",
                            "pruned:keep=9,seed=1", "pruned:seed=1", "trained:x", "trained:x=1", "sensitivity:T=1"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH_AS(parse(wrong), doctest::Contains("--policy"), moe::Error);
  }
  CHECK_THROWS_WITH_AS(parse("skip:file=nowhere.json"), doctest::Contains("nowhere.json"), moe::IoError);
}

TEST_CASE("rules of streams as text") {
  using By = moe::StreamRule::By;
  CHECK(engine::rule_from_text("rank2").by == By::rank);
  CHECK(engine::rule_from_text("rank2").count == 2);
  CHECK(engine::rule_from_text("top1").by == By::inner);
  CHECK(engine::rule_from_text("random").by == By::random);
  CHECK(engine::rule_from_text("p0.5").mass == 0.5f);
  for (const char* wrong : {"", "rank", "rank0", "rank-1", "top", "p", "p0", "p1.5", "weak"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(engine::rule_from_text(wrong), moe::Error);
  }
  engine::Model model(kjv, {});
  const engine::TwoStreams beyond{.strong = {}, .weak = moe::StreamRule::rank(9)};
  CHECK_THROWS_WITH_AS(model.experts().set_policy(beyond), doctest::Contains("rank"), moe::Error);
  CHECK(std::holds_alternative<engine::AsTrained>(model.experts().policy()));
}

TEST_CASE("policies that do not fit the model are refused") {
  engine::Model model(kjv, {});
  const auto refused = [&](const engine::Policy& policy, const char* why) {
    CHECK_THROWS_WITH_AS(model.experts().set_policy(policy), doctest::Contains(why), moe::Error);
  };
  refused(engine::ShiftedNulls{1}, "null experts");
  refused(engine::TopExperts{9}, "k");
  refused(engine::TopExperts{0}, "k");
  refused(engine::SensitivityBudget{1, {1, 1}}, "sensitivities");
  refused(engine::PrunedExperts{{{0}}}, "layers");
  refused(engine::PrunedExperts{std::vector<std::vector<moe::ExpertId>>(6, {8})}, "expert to keep");
}

// ---- calibration

TEST_CASE("the sensitivity is the mean square of derivatives along random signs, for each token") {
  engine::Model model(kjv, {});
  const std::vector<int> tokens = text_tokens(12);
  constexpr int layer = 4;
  constexpr float step = 0.02f;
  const auto loss = [&](float amount, std::uint64_t seed) {
    model.experts().set_policy(engine::MovedWeight{layer, amount});
    engine::Sequence sequence(model);
    sequence.set_seed(seed);
    const engine::ConstRows logits = sequence.append(std::span(tokens).first(11), engine::LogitsOf::every_token);
    double sum = 0;
    for (int t = 0; t < 11; ++t) sum += engine::nats(logits.row(t), tokens[static_cast<std::size_t>(t) + 1]);
    return sum;
  };
  std::vector<double> squares;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const double slope = (loss(step, seed) - loss(-step, seed)) / (2.0 * static_cast<double>(step));
    squares.push_back(slope * slope / 11);
  }
  double mean = 0;
  for (const double s : squares) mean += s / 40;
  const engine::Calibration found =
      engine::calibrate(model, tokens, {.window = 12, .probes = 40, .step = step, .seed = 0});
  CHECK(std::abs(static_cast<double>(found.layers[layer].sensitivity) - mean) < 1e-6 * mean);
  CHECK(mean > 0);
}

TEST_CASE("a calibration survives its file and makes the policies that name it") {
  engine::Model model(kjv, {});
  const std::vector<int> tokens = text_tokens(700);
  model.experts().set_policy(engine::TopExperts{1});
  const engine::Calibration made = engine::calibrate(model, tokens, {.probes = 1});
  CHECK(std::get<engine::TopExperts>(model.experts().policy()).k == 1);
  CHECK(made.tokens == 640);
  CHECK(made.layers.size() == 6);
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "S.json";
  std::ofstream(file) << engine::calibration_as_json(made).dump();
  const engine::Calibration read = engine::load_calibration(file, model.config());
  CHECK(read.sensitivities() == made.sensitivities());
  CHECK(read.betas() == made.betas());
  CHECK(read.picks() == made.picks());
  CHECK(read.budget == made.budget);

  const auto policy = [&](const std::string& text) {
    return engine::policy_from_text(text + "file=" + file.string(), model.config());
  };
  const auto singles = [&](const engine::Policy& p) {  // share of tokens with one expert on the calibrated windows
    model.experts().set_policy(p);
    model.experts().reset_loads();
    engine::Sequence sequence(model);
    for (std::size_t w = 0; w < 10; ++w) {
      sequence.restart();
      sequence.append(std::span(tokens).subspan(64 * w, 63), engine::LogitsOf::last_token);
    }
    return 2 - model.experts().experts_per_token();
  };
  // A skipped expert moves what later layers see, so the shares come near those of the trained model, not upon them.
  CHECK(singles(policy("sensitivity:")) == doctest::Approx(0.259).epsilon(0.1));
  CHECK(singles(policy("sensitivity:T=0,")) == 0);
  CHECK(singles(policy("sensitivity:T=1e5,")) == 1);
  CHECK(singles(policy("skip:")) == doctest::Approx(0.5).epsilon(0.1));
  CHECK(std::get<engine::PrunedExperts>(policy("pruned:keep=4,")).kept == engine::most_picked(made.picks(), 4).kept);
}

TEST_CASE("calibrations that are malformed or of another model are refused") {
  engine::Model model(kjv, {});
  const engine::Calibration made = engine::calibrate(model, text_tokens(64), {.probes = 1});
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "S.json";
  const auto message = [&](const std::function<void(moe::io::Json&)>& change) {
    moe::io::Json json = engine::calibration_as_json(made);
    change(json);
    std::ofstream(file) << json.dump();
    return io_test::message_of([&] { engine::load_calibration(file, model.config()); });
  };
  CHECK(message([](moe::io::Json&) {}).empty());
  CHECK(io_test::contains(message([](moe::io::Json& j) { j["experts"] = 9; }), "experts"));
  CHECK(io_test::contains(message([](moe::io::Json& j) { j["decoder_layers"] = 5; }), "decoder_layers"));
  CHECK(io_test::contains(message([](moe::io::Json& j) { j["layers"][1]["sensitivity"] = -1; }), "sensitivity"));
  CHECK(io_test::contains(message([](moe::io::Json& j) { j["layers"][1]["picks"].push_back(1); }), "picks"));
  CHECK(io_test::contains(message([](moe::io::Json& j) { j["layers"].erase(2); }), "layers"));
  CHECK(io_test::contains(message([](moe::io::Json& j) { j["layers"] = 1; }), "layers"));
  CHECK_THROWS_WITH_AS(engine::calibrate(model, text_tokens(20), {}), doctest::Contains("tokens"), moe::Error);
}

// ---- AdaMoE

TEST_CASE("an AdaMoE agrees with transformers") {
  const std::filesystem::path adamoe = kjv / "adamoe";
  const moe::io::SafetensorsFile reference(adamoe / "reference_logits.safetensors");
  const std::vector<int> tokens = token_ids(reference);
  engine::Model model(kjv, with_adamoe(adamoe));
  CHECK(model.experts().nulls().count == 8);
  const std::vector<float> found = logits_of(model, tokens), expected = tensor<float>(reference, "logits");
  const double off = difference(found, expected);
  MESSAGE("logits differ by ", off, ", load ", model.experts().experts_per_token());
  CHECK(off <= 2e-5);
  CHECK(same(logits_under(model, engine::ShiftedNulls{0}, tokens), found));
}

TEST_CASE("nulls that are out of reach leave the true experts alone, and nulls in front leave none") {
  const std::vector<int> tokens = text_tokens(64);
  engine::Model model(kjv, with_adamoe(kjv / "adamoe"));
  double before = 3;
  for (const float shift : {-1e5f, -2.0f, 0.0f, 2.0f, 1e5f}) {
    model.experts().set_policy(engine::ShiftedNulls{shift});
    model.experts().reset_loads();
    logits_of(model, tokens);
    const double load = model.experts().experts_per_token();
    CAPTURE(shift);
    CHECK(load <= before + 0.05);  // other experts below move what the layers above see
    before = load;
    if (shift == -1e5f) CHECK(load == 3);
    if (shift == 1e5f) CHECK(load == 0);
  }
  CHECK_THROWS_WITH_AS(model.experts().set_policy(engine::TopExperts{1}), doctest::Contains("null"), moe::Error);
}

namespace {

/// A directory of one changed tensor and the gates of two nulls a layer, over the small Mixtral of the tests.
struct Overlay {
  std::vector<float> gate2 = std::vector<float>(2 * 32, 0.0f), down = std::vector<float>(32 * 24, 0.25f);
  std::vector<moe::io::TensorData> tensors;

  Overlay() {
    for (int layer = 0; layer < 2; ++layer) add(layer, "gate2.weight", {2, 32}, gate2);
    add(1, "experts.3.w2.weight", {32, 24}, down);
  }
  void add(int layer, const std::string& name, std::vector<std::uint64_t> shape, std::span<const float> values) {
    tensors.push_back({"model.layers." + std::to_string(layer) + ".block_sparse_moe." + name, moe::io::Dtype::F32,
                       std::move(shape), std::as_bytes(values)});
  }
  std::string refusal(const std::filesystem::path& folder, int nulls = 2, int picks = 3) const {
    std::filesystem::create_directories(folder / "adamoe");
    moe::io::write_safetensors(folder / "adamoe/adamoe.safetensors", tensors);
    std::ofstream(folder / "adamoe/config.json")
        << moe::io::Json{{"num_null_experts", nulls}, {"num_experts_per_tok", picks}}.dump();
    return io_test::message_of([&] { engine::Model model(folder, with_adamoe(folder / "adamoe")); });
  }
};

}  // namespace

TEST_CASE("an overlay replaces tensors of the base and adds gates of nulls, and nothing else") {
  const TemporaryFolder folder;
  const RandomModel written(folder.path(), small_config("mixtral"));
  const Overlay overlay;
  CHECK(overlay.refusal(folder.path()).empty());
  const auto checkpoint = engine::open_adamoe(folder.path(), folder.path() / "adamoe");
  const std::string name = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
  CHECK(checkpoint->read_f32(name, {32, 24}) == overlay.down);
  const moe::io::TensorSet base(folder.path()), over(folder.path(), folder.path() / "adamoe/adamoe.safetensors");
  CHECK(over.size() == base.size() + 2);
  CHECK(over.bytes() == base.bytes() + 2 * 2 * 32 * 4);
  CHECK(over.file_of(over.at(name)).path().filename() == "adamoe.safetensors");
  CHECK(over.file_of(over.at("model.norm.weight")).path().filename() == "model.safetensors");
}

TEST_CASE("overlays that do not fit are refused by name") {
  const TemporaryFolder folder;
  const RandomModel written(folder.path(), small_config("mixtral"));
  const auto changed = [&](auto&& change, int nulls = 2, int picks = 3) {
    Overlay overlay;
    change(overlay);
    return overlay.refusal(folder.path(), nulls, picks);
  };
  CHECK(io_test::contains(changed([](Overlay& o) { o.tensors.back().shape = {24, 32}; }), "experts.3.w2"));
  CHECK(io_test::contains(changed([](Overlay& o) { o.tensors.erase(o.tensors.begin()); }), "layers.0"));
  CHECK(io_test::contains(changed([](Overlay& o) { o.add(0, "other", {2, 32}, o.gate2); }), "block_sparse_moe.other"));
  CHECK(io_test::contains(changed([](Overlay& o) { o.gate2[5] = std::nanf(""); }), "gate2"));
  CHECK(io_test::contains(changed([](Overlay&) {}, 3), "gate2"));
  CHECK(io_test::contains(changed([](Overlay&) {}, 0), "num_null_experts"));
  CHECK_THROWS_WITH_AS(changed([](Overlay&) {}, 2, 9), doctest::Contains("1 to the 8 experts"), moe::Error);
}

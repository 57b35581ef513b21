// compare_policies: quality and speed of one model under the routing policies of the papers, in one table.
#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <optional>
#include <span>

#include "calibration.hpp"
#include "command_line.hpp"
#include "comparison.hpp"
#include "progress.hpp"

namespace {

using namespace programs;

/// AdapMoE's T and the share of single experts that it came to, on Mixtral-8x7B-Instruct and MMLU (released log).
struct PaperBudget {
  double budget, single_share;
};
constexpr std::array<PaperBudget, 6> paper_budgets{
    {{.001, .082}, {.003, .184}, {.005, .259}, {.007, .308}, {.010, .364}, {.013, .409}}};
constexpr double default_budget = .005;
constexpr std::array<float, 5> betas{.1f, .3f, .5f, .7f, .9f};  // SCMoE's
constexpr double paper_load = 1.66;                             // of AdaMoE's Mixtral

/// What the papers report, with their settings; none of it can be expected of a model of this size.
constexpr const char* paper_figures =
    "AdaMoE (Zeng et al. 2024), Mixtral-8x7B fine-tuned on each of 6 tasks, 8 nulls, k=3: load 1.66, FLOPs -15.2 %, "
    "mean accuracy 84.64 (top-2) to 85.35\n"
    "AdapMoE (Zhong et al. 2024), Mixtral-8x7B-Instruct, MMLU: T=.005 leaves 25.9 % single experts (1.74 a token), "
    "accuracy .6777 to .6768; 1.35 x faster with offloaded experts\n"
    "SCMoE (Shi et al. 2024), Mixtral-8x7B, strong top-2, weak rank-2: GSM8K 61.79 to 66.94 at beta .5 (.1: 62.62, .9: "
    "64.29); 1.30 x the time per token on 4 A100; 46.2 % of the weak picks are not among the strong\n"
    "expert skipping (Lu et al. 2024): beta is the median of second to first weight, so about half the tokens use "
    "one\n";

struct Arguments {
  ModelOptions model;
  std::string text, sensitivity;
  int tokens = 16384, calibration_tokens = 4096, decode = 128, rounds = 7;
  std::uint64_t seed = 0;
  float alpha = 0.1f;

  void add_to(CLI::App& app) {
    model.add_without_policy(app);
    const auto count = CLI::Range(2, 1 << 30);
    app.add_option("--text", text, "File whose first half calibrates and whose second half is scored")->required();
    app.add_option("--sensitivity", sensitivity, "What calibrate_sensitivity wrote (default: measured here)");
    app.add_option("--tokens", tokens, "Tokens scored, at most half of the text")->check(count)->capture_default_str();
    app.add_option("--calibration-tokens", calibration_tokens, "Tokens that calibrate, at most half of the text")
        ->check(count)
        ->capture_default_str();
    app.add_option("--decode", decode, "Tokens decoded by every policy in a round")
        ->check(count)
        ->capture_default_str();
    app.add_option("--rounds", rounds, "Rounds of decoding, of which the median counts")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--alpha", alpha, "SCMoE's cut")->check(CLI::Range(1e-6, 1.0))->capture_default_str();
    app.add_option("--seed", seed, "Of random pruning and of the calibration")->capture_default_str();
  }
};

/// One line of the table.
struct Line {
  std::string name;
  Quality quality;
  double tokens_per_second = 0;
  Json setting = Json::object();
};

class Comparison {
 public:
  Comparison(const Arguments& arguments, engine::Model& model, engine::Model* adamoe, std::span<const int> text)
      : arguments_(arguments),
        model_(model),
        adamoe_(adamoe),
        calibration_text_(text.first(std::min(text.size() / 2, std::size_t(arguments.calibration_tokens)))),
        text_(text.subspan(text.size() / 2)
                  .first(std::min(text.size() - text.size() / 2, std::size_t(arguments.tokens)))),
        window_(std::min(model.config().max_positions, 512)) {
    const std::int64_t lines = adamoe == nullptr ? 11 : 13, halvings = adamoe == nullptr ? 0 : shift_halvings;
    total_ = static_cast<std::int64_t>(text_.size()) * (lines + 1) +
             static_cast<std::int64_t>(calibration_text_.size()) * halvings +
             std::int64_t{arguments.decode} * arguments.rounds * (lines + 2);
  }

  void run() {
    calibrate();
    add("top-" + std::to_string(model_.config().experts_per_token()) + ", as trained", engine::AsTrained{});
    add("top-1", engine::TopExperts{1});
    if (adamoe_ != nullptr) add_adamoe();
    for (const PaperBudget& paper : paper_budgets) add_sensitivity(paper);
    add("expert skipping", engine::SkippedExperts{calibration_.betas()});
    const int half = std::max(1, model_.config().experts() / 2);
    const std::string pruned = "pruned to " + std::to_string(half) + " experts, ";
    add(pruned + "most picked", engine::most_picked(calibration_.picks(), half));
    add(pruned + "random", engine::random_experts(model_.config(), half, arguments_.seed));
    add_contrast();
    decode();
  }

  void print_text() const {
    std::printf("%-34s %10s %8s %8s %8s %9s %8s\n", "policy", "bits/byte", "against", "right", "experts", "FLOPs of",
                "decode");
    std::printf("%-34s %10s %8s %8s %8s %9s %8s\n", "", "", "trained", "%", "a token", "experts", "tokens/s");
    for (const Line& line : lines_) {
      std::printf("%-34s %10.4f %+7.2f%% %8.2f %8.3f %9.3f %8.0f\n", line.name.c_str(), line.quality.bits_per_byte(),
                  100 * (line.quality.bits_per_byte() / lines_[0].quality.bits_per_byte() - 1),
                  100 * line.quality.share_right(), line.quality.experts_per_token, flops(line),
                  line.tokens_per_second);
    }
    std::printf(
        "\nself-contrast: %.2f %% of the text's bytes lie outside the cut at alpha %.2f (bits are without the "
        "cut);\n%.1f %% of the weak picks are not among the strong; a fused step takes %.2f of a greedy one and "
        "%.2f of two passes\n",
        100 * lines_.back().quality.share_outside(), static_cast<double>(arguments_.alpha), 100 * fresh_share_,
        fused_to_greedy_, fused_to_two_passes_);
    std::printf("%zu bytes scored in windows of %d, %zu bytes calibrated\n\nthe papers' own figures:\n%s", text_.size(),
                window_, calibration_text_.size(), paper_figures);
  }
  Json json() const {
    Json all = Json::array();
    for (const Line& line : lines_) {
      Json one = line.setting;
      one["policy"] = line.name;
      one["bits_per_byte"] = line.quality.bits_per_byte();
      one["share_right"] = line.quality.share_right();
      one["experts_per_token"] = line.quality.experts_per_token;
      one["expert_flops_to_trained"] = flops(line);
      one["tokens_per_second"] = line.tokens_per_second;
      if (line.setting.contains("beta")) one["share_outside_cut"] = line.quality.share_outside();
      all.push_back(std::move(one));
    }
    return {{"model", arguments_.model.model},
            {"text", arguments_.text},
            {"scored_bytes", text_.size()},
            {"calibration_bytes", calibration_text_.size()},
            {"window", window_},
            {"threads", model_.cpu().pool->size()},
            {"isa", moe::isa_name(model_.cpu().isa)},
            {"calibration", engine::calibration_as_json(calibration_)},
            {"self_contrast",
             {{"alpha", arguments_.alpha},
              {"fresh_weak_picks", fresh_share_},
              {"fused_step_to_greedy", fused_to_greedy_},
              {"fused_step_to_two_passes", fused_to_two_passes_}}},
            {"policies", all},
            {"papers", paper_figures}};
  }

 private:
  void calibrate() {
    if (!arguments_.sensitivity.empty()) {
      calibration_ = engine::load_calibration(arguments_.sensitivity, model_.config());
      return;
    }
    Progress bar("calibrating");
    calibration_ = engine::calibrate(model_, calibration_text_, {.seed = arguments_.seed},
                                     [&](std::int64_t done, std::int64_t total) { bar.show(done, total); });
  }

  void add(const std::string& name, const engine::Policy& policy, Json setting = Json::object()) {
    add(model_, name, policy, std::move(setting));
  }
  void add(engine::Model& model, const std::string& name, const engine::Policy& policy, Json setting) {
    model.experts().set_policy(policy);
    lines_.push_back({name, score(model, text_, window_, done_), 0, std::move(setting)});
    contestants_.emplace_back(model, policy, Contestant::How::one_stream);
  }

  void add_adamoe() {
    add(*adamoe_, "AdaMoE at its own load", engine::AsTrained{}, {{"shift", 0}});
    const float shift = shift_for_load(*adamoe_, calibration_text_, window_, paper_load, done_);
    add(*adamoe_, "AdaMoE shifted to load 1.66", engine::ShiftedNulls{shift}, {{"shift", shift}});
  }

  /// T in the units of this model: the paper's default leaves the paper's share of single experts.
  void add_sensitivity(const PaperBudget& paper) {
    const auto budget = static_cast<float>(static_cast<double>(calibration_.budget) * paper.budget / default_budget);
    add("AdapMoE, paper's T=" + number_text(paper.budget, 3),
        engine::SensitivityBudget{budget, calibration_.sensitivities()},
        {{"T", budget}, {"paper_T", paper.budget}, {"paper_single_share", paper.single_share}});
  }

  void add_contrast() {
    model_.experts().set_policy(engine::TwoStreams{});
    const ContrastQuality quality = score_contrast(model_, text_, window_, arguments_.alpha, betas, done_);
    fresh_share_ = quality.fresh_share;
    for (std::size_t i = 0; i < betas.size(); ++i) {
      lines_.push_back({"SCMoE, beta=" + number_text(static_cast<double>(betas[i]), 1),
                        quality.by_beta[i],
                        0,
                        {{"beta", betas[i]}}});
    }
  }

  /// The last two contestants contrast two streams: in one step, and in two passes.
  void decode() {
    contestants_.emplace_back(model_, engine::TwoStreams{}, Contestant::How::fused_streams);
    contestants_.emplace_back(model_, engine::TwoStreams{}, Contestant::How::two_passes);
    const std::size_t prompt = std::min<std::size_t>(64, text_.size() / 2);
    const auto count = std::min(text_.size() - prompt, static_cast<std::size_t>(arguments_.decode));
    const std::vector<double> rates =
        race(contestants_, text_.first(prompt), text_.subspan(prompt, count), arguments_.rounds, done_);
    const double fused = rates[rates.size() - 2], two_passes = rates.back();
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      lines_[i].tokens_per_second = i + 2 < rates.size() ? rates[i] : fused;
    }
    fused_to_greedy_ = rates[0] / fused;
    fused_to_two_passes_ = two_passes / fused;
  }

  double flops(const Line& line) const { return line.quality.experts_per_token / model_.config().experts_per_token(); }

  const Arguments& arguments_;
  engine::Model& model_;
  engine::Model* adamoe_;
  std::span<const int> calibration_text_, text_;
  int window_;
  engine::Calibration calibration_;
  std::vector<Line> lines_;
  std::vector<Contestant> contestants_;
  double fresh_share_ = 0, fused_to_greedy_ = 0, fused_to_two_passes_ = 0;
  Progress bar_{"comparing"};
  std::int64_t worked_ = 0, total_ = 0;
  Done done_ = [this](std::int64_t tokens) { bar_.show(std::min(worked_ += tokens, total_), total_); };
};

void compare(const Arguments& arguments) {
  const std::vector<int> text = read_tokens(arguments.text, 512);
  ModelOptions plain = arguments.model;
  plain.adamoe.clear();
  engine::Model model = plain.load();
  require_bytes_as_tokens(model.config(), "bits per byte cannot be measured");
  std::optional<engine::Model> adamoe;
  if (!arguments.model.adamoe.empty()) adamoe.emplace(arguments.model.load());
  Comparison comparison(arguments, model, adamoe ? &*adamoe : nullptr, text);
  comparison.run();
  if (arguments.model.json) {
    std::cout << json_text(comparison.json()) << "\n";
  } else {
    comparison.print_text();
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Bits per byte, experts per token and decoding speed of a model under the routing policies of the papers.",
      "compare_policies");
  Arguments arguments;
  arguments.add_to(app);
  return programs::run(app, argc, argv, [&] { compare(arguments); });
}

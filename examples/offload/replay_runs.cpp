#include "replay_runs.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <moe/io/text.hpp>
#include <moe/offline/belady.hpp>
#include <moe/offline/cache_allocation.hpp>
#include <moe/offline/replay_mixed.hpp>
#include <moe/offline/replay_plan.hpp>
#include <utility>

#include "command_line.hpp"

namespace programs {

namespace {

/// AdapMoE's sensitivities of Mixtral-8x7B, from the first layer to the last (released with the paper, rounded).
constexpr std::array<double, 32> mixtral_sensitivities{
    46.7, 17.3, 13.0, 7.64, 4.17, 2.23,  1.26,  .844,  .684,  .560,  .513,  .478,  .445,  .436,  .384,  .310,
    .233, .176, .138, .114, .105, .0954, .0862, .0771, .0694, .0611, .0502, .0426, .0335, .0253, .0207, .0229};
constexpr double default_threshold = 0.005;

/// A number and what follows it. Throws moe::Error.
std::pair<double, std::string> number_and_unit(const char* option, const std::string& text, const char* expected) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !(value >= 0) || value > 0x1p53)
    moe::raise(moe::Error(option, "value", expected, moe::io::in_quotes(text)));
  return {value, std::string(end, text.data() + text.size())};
}

/// 1024 for "K", "KB" and "KiB"; 1 for "B"; nothing for what is no unit.
std::optional<double> bytes_of_unit(std::string unit) {
  if (unit.size() > 1 && unit.back() == 'B') unit.pop_back();
  if (unit.size() == 2 && unit.back() == 'i') unit.pop_back();
  constexpr std::string_view units = "BKMGT";
  const std::size_t at = unit.size() == 1 ? units.find(unit[0]) : std::string_view::npos;
  if (at == std::string_view::npos) return std::nullopt;
  return std::ldexp(1.0, 10 * static_cast<int>(at));
}

double record_bytes(const char* option, const std::string& text) {
  constexpr const char* expected = "bytes above 0, as in 4096 or 1.5M";
  const auto [value, unit] = number_and_unit(option, text, expected);
  const std::optional<double> factor = unit.empty() ? 1.0 : bytes_of_unit(unit);
  if (!factor || value == 0) moe::raise(moe::Error(option, "value", expected, moe::io::in_quotes(text)));
  return value * *factor;
}

moe::CacheScope scope_from_text(const std::string& text) {
  if (text != "layer" && text != "global") moe::raise(moe::Error("--scope", "value", "layer or global", text));
  return text == "layer" ? moe::CacheScope::layer : moe::CacheScope::global;
}

/// The table of Mixtral, stretched over `layers` layers, between its entries by the logarithm.
std::vector<double> stretched_sensitivities(int layers) {
  std::vector<double> all;
  for (int l = 0; l < layers; ++l) {
    const double at = layers > 1 ? 31.0 * l / (layers - 1) : 0;
    const auto below = static_cast<std::size_t>(std::min(30.0, std::floor(at)));
    const double share = at - static_cast<double>(below);
    all.push_back(std::exp((1 - share) * std::log(mixtral_sensitivities[below]) +
                           share * std::log(mixtral_sensitivities[below + 1])));
  }
  return all;
}

/// What calibrate_sensitivity writes: T, and S of the layers with experts. Infinite S, no gate, where there is none.
std::pair<double, std::vector<double>> read_sensitivities(const std::string& path, int layers) {
  const Json root = moe::io::parse_json(read_file(path), path);
  const auto refuse = [&](const char* what, const char* expected) {
    moe::raise(moe::IoError(path, what, expected, "something else"));
  };
  std::vector<double> all(static_cast<std::size_t>(layers), std::numeric_limits<double>::infinity());
  if (!root.contains("layers") || !root["layers"].is_array()) refuse("layers", "a list");
  for (const Json& entry : root["layers"]) {
    const bool whole = entry.is_object() && entry.contains("layer") && entry["layer"].is_number_integer() &&
                       entry.contains("sensitivity") && entry["sensitivity"].is_number();
    if (!whole) refuse("layers", "objects with numbers \"layer\" and \"sensitivity\"");
    const auto layer = entry["layer"].get<std::int64_t>();
    const auto value = entry["sensitivity"].get<double>();
    if (layer < 0 || layer >= layers) refuse("layers", "layers of the trace");
    if (!(value > 0)) refuse("sensitivity", "a number above 0");
    all[static_cast<std::size_t>(layer)] = value;
  }
  const bool has_budget = root.contains("budget") && root["budget"].is_number();
  return {has_budget ? root["budget"].get<double>() : default_threshold, std::move(all)};
}

moe::Multidimensional weights_from_text(const std::string& text) {
  const std::vector<double> w = engine::numbers_from_text("--weights", text);
  if (w.size() != 4 || *std::min_element(w.begin(), w.end()) < 0)
    moe::raise(moe::Error("--weights", "value", "four numbers from 0, or auto", text));
  return {w[0], w[1], w[2], w[3]};
}

}  // namespace

ReplayRuns::ReplayRuns(const moe::RoutingTrace& trace, const ReplaySettings& settings)
    : trace_(trace),
      settings_(settings),
      scope_(scope_from_text(settings.scope)),
      expert_bytes_(record_bytes("--expert-bytes", settings.expert_bytes)),
      low_bytes_(settings.low_bytes.empty() ? expert_bytes_ / 4 : record_bytes("--low-bytes", settings.low_bytes)) {
  if (settings.weights != "auto") weights_from_text(settings.weights);
}

const std::vector<std::string>& ReplayRuns::policies() {
  static const std::vector<std::string> all{"lru", "lfu", "fld", "hobbit", "apex", "adapmoe", "plan", "skip", "min"};
  return all;
}

int ReplayRuns::slots(const std::string& capacity) const {
  constexpr const char* expected = "slots (24), bytes (1.5G, 4096B) or a share of the experts (25%)";
  const double pool = static_cast<double>(trace_.experts()) * (scope_ == moe::CacheScope::layer ? 1 : trace_.layers());
  const auto [value, unit] = number_and_unit("--capacity", capacity, expected);
  double slots = value;
  if (unit == "%") {
    slots = std::round(value / 100 * pool);
  } else if (!unit.empty()) {
    const std::optional<double> factor = bytes_of_unit(unit);
    if (!factor) moe::raise(moe::Error("--capacity", "value", expected, moe::io::in_quotes(capacity)));
    if (settings_.expert_bytes == ReplaySettings{}.expert_bytes)
      moe::raise(moe::Error("--capacity", capacity, "--expert-bytes with a capacity in bytes", "none"));
    slots = std::floor(value * *factor / expert_bytes_);
  } else if (slots != std::floor(slots)) {
    moe::raise(moe::Error("--capacity", "value", expected, moe::io::in_quotes(capacity)));
  }
  return static_cast<int>(std::min(slots, pool));  // more slots than experts are never used
}

std::string ReplayRuns::capacity_of_pools() const {
  const Pools p = pools(0);
  return std::to_string(static_cast<int>(std::floor(p.high + p.low * low_bytes_ / expert_bytes_)));
}

/// A quarter as many low slots as the capacity has slots, and the rest of its bytes for high ones.
ReplayRuns::Pools ReplayRuns::pools(int slots) const {
  if (settings_.high || settings_.low) return {settings_.high.value_or(0), settings_.low.value_or(0)};
  const int low = slots / 4;
  return {std::max(0, slots - static_cast<int>(std::ceil(low * low_bytes_ / expert_bytes_))), low};
}

std::vector<double> ReplayRuns::gate() const {
  double threshold = default_threshold;
  std::vector<double> gate;
  if (settings_.sensitivity == "auto") {
    gate = stretched_sensitivities(trace_.layers());
  } else {
    std::tie(threshold, gate) = read_sensitivities(settings_.sensitivity, trace_.layers());
  }
  threshold = settings_.threshold.value_or(threshold);
  if (threshold == 0) return {};
  for (double& value : gate) value = std::sqrt(threshold / value);
  return gate;
}

std::vector<double> ReplayRuns::betas() const {
  const char* const unless_given = settings_.allocation == "paper" ? "0.84" : "0";  // this replay prefetches nothing
  const std::string text = settings_.beta.empty() ? unless_given : settings_.beta;
  std::vector<double> beta = engine::numbers_from_text("--beta", text);
  const auto layers = static_cast<std::size_t>(trace_.layers());
  if (beta.size() == 1) beta.assign(layers, beta[0]);
  const bool shares = std::all_of(beta.begin(), beta.end(), [](double b) { return b >= 0 && b <= 1; });
  if (beta.size() != layers || !shares)
    moe::raise(moe::Error("--beta", "value", "a number from 0 to 1, or one for each layer", text));
  return beta;
}

void ReplayRuns::run_mixed(ReplayRun& run) const {
  const Pools p = pools(run.slots);
  const moe::MixedReplay rule{scope_, p.high, p.low, settings_.t1, settings_.t2};
  run.setting = {{"high_slots", p.high}, {"low_slots", p.low}, {"t1", rule.high_up_to}, {"t2", rule.low_up_to}};
  if (run.policy == "apex") {
    run.counts = moe::replay_mixed(trace_, rule, moe::MissCost{low_bytes_ / expert_bytes_});
    return;
  }
  const moe::Multidimensional w = settings_.weights == "auto"
                                      ? moe::best_eviction_weights(trace_, rule, expert_bytes_, low_bytes_)
                                      : weights_from_text(settings_.weights);
  run.setting["weights"] = {w.recency, w.frequency, w.high_frequency, w.nearness};
  run.counts = moe::replay_mixed(trace_, rule, w);
}

std::vector<int> ReplayRuns::allocate(const std::vector<double>& thresholds, int total) const {
  const int least = settings_.least_slots;
  if (settings_.allocation == "paper") return moe::allocate_cache(trace_, thresholds, betas(), total, least);
  if (settings_.allocation == "curves") return moe::allocate_by_reuse(trace_, thresholds, betas(), total, least);
  moe::raise(moe::Error("--allocation", "value", "curves or paper", moe::io::in_quotes(settings_.allocation)));
}

/// The slots of all layers together, however they were given, are shared out.
void ReplayRuns::run_adapmoe(ReplayRun& run) const {
  const std::vector<double> thresholds = gate();
  if (!thresholds.empty() && !trace_.has_weights())
    moe::raise(moe::Error("--policy adapmoe", "trace", "weights, or --threshold 0", "none"));
  const std::int64_t total = std::int64_t{run.slots} * (scope_ == moe::CacheScope::layer ? trace_.layers() : 1);
  const std::vector<int> slots = allocate(thresholds, static_cast<int>(total));
  const std::vector<double> alpha = moe::single_expert_shares(trace_, thresholds);
  double sum = 0;
  for (const double a : alpha) sum += a;
  run.setting = {{"slots_by_layer", slots}, {"single_expert_share", sum / static_cast<double>(alpha.size())}};
  run.counts = moe::replay(trace_, {moe::CacheScope::layer, 0, slots}, moe::Lru{}, {.gate = thresholds});
}

ReplayRun ReplayRuns::run(const std::string& policy, const std::string& capacity) const {
  ReplayRun run;
  run.policy = policy;
  run.capacity = capacity;
  run.slots = slots(capacity);
  const moe::ReplaySlots cache{scope_, run.slots};
  if (policy == "lru") {
    run.counts = moe::replay(trace_, cache, moe::Lru{});
  } else if (policy == "lfu") {
    run.counts = moe::replay(trace_, cache, moe::Lfu{settings_.decay, static_cast<std::uint64_t>(settings_.period)});
  } else if (policy == "fld") {
    run.counts = moe::replay(trace_, cache, moe::FurthestLayer{});
  } else if (policy == "hobbit" || policy == "apex") {
    run_mixed(run);
  } else if (policy == "adapmoe") {
    run_adapmoe(run);
  } else if (policy == "plan") {
    run.setting = {{"accuracy", settings_.accuracy}, {"seed", settings_.seed}};
    run.counts = moe::replay_plan(trace_, cache, {settings_.accuracy, settings_.seed});
  } else if (policy == "skip") {
    run.setting = {{"skip_below", settings_.skip_below}};
    run.counts = moe::replay(trace_, cache, moe::Lru{}, {.skip_below = settings_.skip_below});
  } else if (policy == "min") {
    run.counts = moe::replay_min(trace_, cache);
  } else {
    std::string names;
    for (const std::string& name : policies()) names += name + ", ";
    moe::raise(moe::Error("--policy", "value", names + "or all", moe::io::in_quotes(policy)));
  }
  run.bytes = run.counts.bytes(expert_bytes_, low_bytes_);
  return run;
}

}  // namespace programs

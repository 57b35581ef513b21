#include "policy.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <moe/io/text.hpp>
#include <numeric>
#include <optional>

#include "calibration.hpp"
#include "sampling.hpp"

namespace engine {

namespace {

[[noreturn]] void refuse(const std::string& expected, std::string_view found) {
  moe::raise(moe::Error("--policy", "policy", expected, moe::io::in_quotes(found)));
}

// ---- routers

float at(const PerLayer& values, int layer, const char* what) {
  if (values.size() == 1) return values[0];
  if (static_cast<std::size_t>(layer) < values.size()) return values[static_cast<std::size_t>(layer)];
  moe::raise(moe::Error("engine::router_for", what, moe::concat("one, or one for each layer up to ", layer),
                        std::to_string(values.size())));
}

moe::TopK with_k(moe::TopK router, int k) {
  router.k = k;
  return router;
}

/// The router inside makes as many choices as either rule asks for.
moe::SelfContrast<moe::TopK> two_streams(const TwoStreams& streams, const moe::TopK& trained) {
  using By = moe::StreamRule::By;
  moe::SelfContrast<moe::TopK> router{trained, {streams.strong, streams.weak}};
  for (moe::StreamRule& rule : router.rules) {
    if (rule.by == By::inner && rule.count == 0) rule.count = trained.k;
    if (rule.by == By::inner) router.inner.k = std::max(router.inner.k, rule.count);
    if (rule.by == By::probability) router.inner.k = trained.experts;
  }
  return router;
}

moe::NullExperts<moe::TopK> with_nulls(const moe::TopK& trained, const TrainedNulls& nulls, float shift) {
  const int k = std::min(nulls.picks, trained.experts);
  return {.inner = with_k(trained, k), .nulls = nulls.count, .k = nulls.picks, .shift = shift};
}

struct MakeRouter {
  const moe::TopK& trained;
  int layer;

  PolicyRouter operator()(const AsTrained&) const { return trained; }
  PolicyRouter operator()(const TopExperts& p) const { return with_k(trained, p.k); }
  PolicyRouter operator()(const ShiftedNulls&) const { refuse("a model with null experts for it", "nulls"); }
  PolicyRouter operator()(const SensitivityBudget& p) const {
    const float sensitivity = at(p.sensitivities, layer, "sensitivities");
    return moe::SensitivitySkip<moe::TopK>{trained, moe::sensitivity_threshold(p.budget, sensitivity), p.when};
  }
  PolicyRouter operator()(const SkippedExperts& p) const {
    return moe::ExpertSkip<moe::TopK>{trained, at(p.betas, layer, "betas")};
  }
  PolicyRouter operator()(const PrunedExperts&) const { return trained; }
  PolicyRouter operator()(const TwoStreams& p) const { return two_streams(p, trained); }
  PolicyRouter operator()(const MovedWeight& p) const {
    if (p.layer != layer) return trained;
    return WeightMover{trained, p.amount};
  }
};

}  // namespace

PolicyRouter router_for(const Policy& policy, const moe::TopK& trained, const TrainedNulls& nulls, int layer) {
  if (nulls.count == 0) return std::visit(MakeRouter{trained, layer}, policy);
  const auto* const shifted = std::get_if<ShiftedNulls>(&policy);
  if (shifted == nullptr && !std::holds_alternative<AsTrained>(policy)) {
    refuse("trained or nulls:shift=X, for a model with null experts", "another");
  }
  return with_nulls(trained, nulls, shifted == nullptr ? 0 : shifted->shift);
}

std::vector<std::uint32_t> allowed_experts(const Policy& policy, const moe::io::ModelConfig& config, int layer) {
  const auto* const pruned = std::get_if<PrunedExperts>(&policy);
  if (pruned == nullptr) return {};
  moe::require_equal("engine::allowed_experts", "layers", config.layers(), static_cast<int>(pruned->kept.size()));
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(moe::pieces(config.experts(), 32)));
  for (const moe::ExpertId e : pruned->kept[static_cast<std::size_t>(layer)]) {
    if (e < 0 || e >= config.experts()) {
      moe::raise(moe::Error("engine::allowed_experts", "expert to keep", moe::concat("0 to ", config.experts() - 1),
                            std::to_string(e)));
    }
    bits[static_cast<std::size_t>(e) / 32] |= 1u << (e % 32);
  }
  return bits;
}

// ---- pruning

PrunedExperts most_picked(const std::vector<std::vector<std::int64_t>>& picks, int keep) {
  PrunedExperts pruned;
  for (const std::vector<std::int64_t>& layer : picks) {
    std::vector<moe::ExpertId> ids(layer.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](moe::ExpertId a, moe::ExpertId b) {
      return layer[static_cast<std::size_t>(a)] > layer[static_cast<std::size_t>(b)];
    });
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(keep)));
    std::sort(ids.begin(), ids.end());
    pruned.kept.push_back(std::move(ids));
  }
  return pruned;
}

PrunedExperts random_experts(const moe::io::ModelConfig& config, int keep, std::uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<std::vector<std::int64_t>> draws(static_cast<std::size_t>(config.layers()));
  for (std::vector<std::int64_t>& layer : draws) {
    for (int e = 0; e < config.experts(); ++e) layer.push_back(static_cast<std::int64_t>(random.next() >> 1));
  }
  return most_picked(draws, keep);
}

// ---- text

namespace {

template <class Number>
std::optional<Number> number(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// `NAME:key=value,key=value`
class PolicyText {
 public:
  explicit PolicyText(std::string_view text) : text_(text) {
    const std::size_t colon = text.find(':');
    name = text.substr(0, colon);
    std::string_view rest = colon == std::string_view::npos ? std::string_view{} : text.substr(colon + 1);
    while (!rest.empty()) {
      const std::string_view pair = rest.substr(0, rest.find(','));
      const std::size_t equals = pair.find('=');
      if (equals == std::string_view::npos) refuse("key=value after the colon", text_);
      if (!values_.emplace(pair.substr(0, equals), pair.substr(equals + 1)).second) refuse("each key once", text_);
      rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    }
  }

  std::optional<std::string> find(const std::string& key) {
    const auto at = values_.find(key);
    if (at == values_.end()) return std::nullopt;
    return std::move(values_.extract(at).mapped());
  }
  std::string at(const std::string& key) {
    std::optional<std::string> value = find(key);
    if (!value) refuse(key + "=...", text_);
    return *value;
  }
  float real(const std::string& key, const std::string& value) const {
    const std::optional<float> parsed = number<float>(value);
    if (!parsed || !(*parsed > -1e6f && *parsed < 1e6f)) refuse("a number as " + key, text_);
    return *parsed;
  }
  int integer(const std::string& key, const std::string& value, int least, int most) const {
    const std::optional<int> parsed = number<int>(value);
    if (!parsed || *parsed < least || *parsed > most) {
      refuse(moe::concat(least, " to ", most, " as ", key), text_);
    }
    return *parsed;
  }
  /// Whatever was not asked for is a mistake.
  void finish() const {
    if (!values_.empty()) refuse(moe::concat("no key ", moe::io::in_quotes(values_.begin()->first)), text_);
  }

  std::string name;

 private:
  std::string_view text_;
  std::map<std::string, std::string> values_;
};

Policy sensitivity_from(PolicyText& text, const moe::io::ModelConfig& config) {
  const Calibration calibration = load_calibration(text.at("file"), config);
  SensitivityBudget policy{calibration.budget, calibration.sensitivities()};
  if (const auto budget = text.find("T")) policy.budget = text.real("T", *budget);
  if (policy.budget < 0) refuse("T of at least 0", std::to_string(policy.budget));
  const std::string when = text.find("when").value_or("always");
  if (when != "always" && when != "decode") refuse("when=always or when=decode", when);
  if (when == "decode") policy.when = moe::When::decode_only;
  return policy;
}

Policy skip_from(PolicyText& text, const moe::io::ModelConfig& config) {
  if (const auto beta = text.find("beta")) return SkippedExperts{{text.real("beta", *beta)}};
  return SkippedExperts{load_calibration(text.at("file"), config).betas()};
}

Policy pruned_from(PolicyText& text, const moe::io::ModelConfig& config) {
  const int keep = text.integer("keep", text.at("keep"), 1, config.experts());
  if (const auto seed = text.find("seed")) {
    return random_experts(config, keep, static_cast<std::uint64_t>(text.integer("seed", *seed, 0, 1 << 30)));
  }
  return most_picked(load_calibration(text.at("file"), config).picks(), keep);
}

Policy named_policy(PolicyText& text, std::string_view whole, const moe::io::ModelConfig& config) {
  if (text.name == "trained") return AsTrained{};
  if (text.name == "nulls") return ShiftedNulls{text.real("shift", text.at("shift"))};
  if (text.name == "sensitivity") return sensitivity_from(text, config);
  if (text.name == "skip") return skip_from(text, config);
  if (text.name == "pruned") return pruned_from(text, config);
  if (text.name.starts_with("top")) return TopExperts{text.integer("k", text.name.substr(3), 1, config.experts())};
  refuse("trained, topK, nulls:shift=X, sensitivity:file=S.json, skip:file=S.json or pruned:keep=N,file=S.json", whole);
}

}  // namespace

Policy policy_from_text(std::string_view whole, const moe::io::ModelConfig& config) {
  PolicyText text(whole);
  Policy policy = named_policy(text, whole, config);
  text.finish();
  return policy;
}

moe::StreamRule rule_from_text(std::string_view text) {
  const auto count = [&](std::size_t skip) { return number<int>(text.substr(skip)).value_or(0); };
  if (text == "random") return moe::StreamRule::random_one();
  if (text.starts_with("top") && count(3) > 0) return moe::StreamRule::top(count(3));
  if (text.starts_with("rank") && count(4) > 0) return moe::StreamRule::rank(count(4));
  if (text.starts_with("p")) {
    if (const auto mass = number<float>(text.substr(1)); mass && *mass > 0 && *mass <= 1) {
      return moe::StreamRule::top_p(*mass);
    }
  }
  moe::raise(moe::Error("engine", "rule of a stream", "topK, rankR, random, or pX with X above 0 and at most 1",
                        moe::io::in_quotes(text)));
}

}  // namespace engine

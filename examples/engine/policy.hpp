// Policy: how many and which experts the tokens of a model get, chosen when a program runs.
#pragma once

#include <moe/any_policy.hpp>
#include <moe/io/model_config.hpp>
#include <moe/routers/expert_skip.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/self_contrast.hpp>
#include <moe/routers/sensitivity_skip.hpp>
#include <moe/routers/top_k.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace engine {

/// The null experts that an AdaMoE was trained with; `count` 0 is any other model.
struct TrainedNulls {
  int count = 0;
  int picks = 0;  // per token, among true and null experts
};

/// Numbers of the layers, [layer] or one for all.
using PerLayer = std::vector<float>;

/// What the model was trained with.
struct AsTrained {};
/// Another number of experts.
struct TopExperts {
  int k = 1;
};
/// For models with null experts: a larger shift of their logits means fewer true experts.
struct ShiftedNulls {
  float shift = 0;
};
/// moe::SensitivitySkip with tau = sqrt(budget / sensitivity) of the layer.
struct SensitivityBudget {
  float budget = 0;
  PerLayer sensitivities;
  moe::When when = moe::When::always;
};
/// moe::ExpertSkip
struct SkippedExperts {
  PerLayer betas;
};
/// The router chooses among these experts alone, as in a checkpoint whose other gate rows were cut.
struct PrunedExperts {
  std::vector<std::vector<moe::ExpertId>> kept;  // [layer]
};
/// Rows follow the rule that their call names: 0 strong, 1 weak.
struct TwoStreams {
  moe::StreamRule strong{}, weak = moe::StreamRule::rank(2);
};
/// For measuring derivatives: in one layer every token moves `amount` of weight from its first expert to its second,
/// or the other way, by a coin thrown with the call's seed.
struct MovedWeight {
  int layer = 0;
  float amount = 0;
};
using Policy = std::variant<AsTrained, TopExperts, ShiftedNulls, SensitivityBudget, SkippedExperts, PrunedExperts,
                            TwoStreams, MovedWeight>;

/// Adds `amount` to the second weight of each row and takes it from the first, with a sign that is a coin's.
struct WeightMover {
  moe::TopK inner;
  float amount = 0;

  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    constexpr std::uint32_t salt = 2050;
    const int picked = inner.select(row, out);
    if (picked < 2) return picked;
    const float moved = row.random(salt) < 0.5f ? -amount : amount;
    out[0].weight -= moved;
    out[1].weight += moved;
    return picked;
  }
};

/// One type of layer for every policy.
using PolicyRouter = moe::AnyRouter<moe::TopK, moe::NullExperts<moe::TopK>, moe::SensitivitySkip<moe::TopK>,
                                    moe::ExpertSkip<moe::TopK>, moe::SelfContrast<moe::TopK>, WeightMover>;

/// The router of one layer. `trained` is the family's. Throws moe::Error for a policy that does not fit the model.
PolicyRouter router_for(const Policy& policy, const moe::TopK& trained, const TrainedNulls& nulls, int layer);

/// The ids that a layer may use under this policy, a bit for each; empty: all.
std::vector<std::uint32_t> allowed_experts(const Policy& policy, const moe::io::ModelConfig& config, int layer);

/// The `keep` most picked experts of every layer, or, without counts, `keep` random ones; ascending.
PrunedExperts most_picked(const std::vector<std::vector<std::int64_t>>& picks, int keep);
PrunedExperts random_experts(const moe::io::ModelConfig& config, int keep, std::uint64_t seed);

/// `trained`, `topK`, `nulls:shift=X`, `sensitivity:file=S.json[,T=X][,when=decode]`, `skip:file=S.json`,
/// `skip:beta=X`, `pruned:keep=N,file=S.json` or `pruned:keep=N,seed=N`, where S.json is what calibrate_sensitivity
/// writes. Throws moe::Error for anything else, and moe::IoError for the file.
Policy policy_from_text(std::string_view text, const moe::io::ModelConfig& config);

/// `topK`, `rankR`, `random`, `pX` (top-p). Throws moe::Error for anything else.
moe::StreamRule rule_from_text(std::string_view text);

}  // namespace engine

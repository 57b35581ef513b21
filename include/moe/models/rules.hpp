// The rules of model families: how logits become weights, as each family publishes it, whatever the sizes of its
// models.
#pragma once

#include <moe/expert.hpp>
#include <moe/scores.hpp>

namespace moe::models {

/// What all models of a family have in common. Specs (`models.hpp`) and the readers of published configurations
/// (`io/families/`) start from it.
struct Rule {
  Score score = Score::softmax;
  Normalisation normalise = Normalisation::none();
  GroupLimit::By groups_by = GroupLimit::By::maximum;  // where a model has groups
  GroupLimit::Others other_groups = GroupLimit::Others::excluded;
  WeightOn weight_on = WeightOn::output;
};

namespace rules {

/// Softmax over all experts, the picked weights as they are.
inline constexpr Rule olmoe{};
/// The same; a sigmoid-gated shared expert.
inline constexpr Rule qwen2_moe{};
/// Softmax over all experts, the picked weights divided by their sum.
inline constexpr Rule mixtral{.score = Score::softmax_of_picked};
/// The same where `norm_topk_prob` holds (all shipped models).
inline constexpr Rule qwen3_moe = mixtral;
/// Softmax over the picked logits, which is the same. Granite-MoE and Aria too.
inline constexpr Rule gpt_oss = mixtral;
/// Softmax; experts of the groups with the best single expert; scaled, not renormalised.
inline constexpr Rule deepseek_v2{.groups_by = GroupLimit::By::maximum, .other_groups = GroupLimit::Others::zero};
/// Sigmoid with a selection bias; experts of the groups with the two best; divided by the sum and scaled. Kimi-K2,
/// GLM-4.5, dots1, EXAONE-MoE, Nemotron-H; without groups AFMoE, Hunyuan v3.
inline constexpr Rule deepseek_v3{
    .score = Score::sigmoid, .normalise = Normalisation::by_sum(1e-20f), .groups_by = GroupLimit::By::two_best};
/// sqrt(softplus) with a selection bias; the first layers take their experts from a table by token id.
inline constexpr Rule deepseek_v4{
    .score = Score::sqrt_softplus, .normalise = Normalisation::by_sum(1e-20f), .groups_by = GroupLimit::By::two_best};
/// Softmax; experts of the groups with the two best; divided by the sum and scaled.
inline constexpr Rule mistral4{.normalise = Normalisation::by_sum(1e-20f),
                               .groups_by = GroupLimit::By::two_best,
                               .other_groups = GroupLimit::Others::zero};
/// Sigmoid with a selection bias, divided by the sum.
inline constexpr Rule minimax_m2{.score = Score::sigmoid, .normalise = Normalisation::by_sum()};
/// The same, the routed output scaled. Step-3.5 and Laguna too.
inline constexpr Rule minimax_m3 = minimax_m2;
/// Sigmoid with a selection bias, divided by the sum plus an epsilon of its own.
inline constexpr Rule lfm2_moe{.score = Score::sigmoid, .normalise = Normalisation::by_sum(1e-6f)};
/// The sigmoid of the picked logit multiplies the expert's input.
inline constexpr Rule llama4{.score = Score::sigmoid, .weight_on = WeightOn::input};
/// Softmax, divided by the L_p norm of the picked.
inline constexpr Rule dbrx{.normalise = Normalisation::by_norm(1)};
/// Softmax with a selection bias, divided by the sum, which has a least value.
inline constexpr Rule ernie4_5{.normalise = Normalisation::by_sum(0, 1e-12f)};
/// Softmax with a selection bias over experts and identities; scaled, not renormalised.
inline constexpr Rule longcat{};
/// Softmax with a selection bias over experts and one class that adds nothing.
inline constexpr Rule zaya{};
/// Softmax, the best expert, its probability as the weight.
inline constexpr Rule switch_transformer{};
/// Softmax, two experts divided by their sum, the output scaled for the dropout of training.
inline constexpr Rule nllb{.normalise = Normalisation::by_sum(0, 0x1p-23f)};
/// Softmax, the picked weights as they are, beside a dense network (PR-MoE).
inline constexpr Rule pr_moe{};

}  // namespace rules

}  // namespace moe::models

// TopK: the K best experts by score, with the options by which published families differ.
#pragma once

#include <string>

#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/routers/largest.hpp>
#include <moe/scores.hpp>

namespace moe {

/// The K best ids for each token in order of choice, ties to the lower id; O(E + picks * K), twice that with groups.
///
/// Choosable are E experts and, behind them, `identities` ids that return their input (LongCat's zero-computation
/// experts), and `nulls` ids that add nothing (Zaya's skip class). NaN ranks below every number and infinities count as
/// the largest finite value, so that K distinct ids with finite weights come out whatever the logits are. Experts that
/// the call's mask excludes are not picked: a row may get fewer than K choices, or none. Without a selection bias
/// weights descend. Shazeer et al. 2017 (softmax of the picked), Fedus et al. 2021, DeepSeek-V2 (groups), DeepSeek-V3
/// (sigmoid, bias), LongCat-Flash (identities).
struct TopK {
  int experts = 0;
  int k = 1;
  Score score = Score::softmax_of_picked;
  Normalisation normalise = Normalisation::none();
  float scale = 1;  // multiplies every weight, after normalising
  LogitMap logits{};
  SelectionBias bias{};
  GroupLimit groups{};
  Row<const float> expert_scale{};  // one per choosable id, multiplies the weight of its expert (Gemma-4); empty: none
  int identities = 0;
  int nulls = 0;
  int shared = 0;  // logits behind the others: scores of shared experts that share the normalisation (Inkling)

  MOE_HD int num_logits() const noexcept { return choosable() + shared; }
  MOE_HD int num_experts() const noexcept { return experts; }
  MOE_HD int max_slots() const noexcept { return k < choosable() ? k : choosable(); }
  constexpr IdMap ids() const noexcept { return {experts, identities}; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const RowScores scores = scores_of(row);
    const int picked = pick(row, scores, out);
    weigh(scores, out.first(picked));
    return picked;
  }

  /// Weights of ids that were chosen by other means (a table, an outside list).
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept { weigh(scores_of(row), picked); }

  /// Weights [shared] of the shared experts of a row whose choices are `picked`: their scores, normalised with the
  /// picked ones'.
  MOE_HD void weigh_shared(const RowContext& row, Row<const Slot> picked, Row<float> out) const noexcept {
    const RowScores scores = scores_of(row);
    float total = shared_sum(scores);
    for (const Slot& s : picked) total += scores(s.expert);
    const float divisor = normalise.by == Normalisation::By::nothing ? 1.0f : normalise.bounded(total);
    for (int i = 0; i < shared; ++i) {
      out[i] = scores(choosable() + i) * scale;
      if (divisor > 0) out[i] /= divisor;
    }
  }

  /// Throws Error for options that contradict each other.
  void check() const {
    constexpr const char* where = "moe::TopK";
    const auto at_least = [&](const char* what, int least, int found) {
      if (found < least) raise(Error(where, what, concat("at least ", least), std::to_string(found)));
    };
    at_least("experts", 1, experts);
    at_least("k", 1, k);
    at_least("identities", 0, identities);
    at_least("nulls", 0, nulls);
    at_least("shared", 0, shared);
    if (k > choosable()) raise(Error(where, "k", concat("at most the ", choosable(), " experts"), std::to_string(k)));
    if (!bias.values.empty()) require_equal(where, "selection biases", choosable(), bias.values.size());
    if (!expert_scale.empty()) require_equal(where, "scales of the experts", choosable(), expert_scale.size());
    if (groups.count == 1) return;
    if (groups.count < 1 || groups.count > GroupLimit::most || experts % groups.count != 0)
      raise(Error(where, "groups", concat("a divisor of the ", experts, " experts, at most ", GroupLimit::most),
                  std::to_string(groups.count)));
    if (groups.kept < 1 || groups.kept > groups.count)
      raise(Error(where, "kept groups", concat("1 to ", groups.count), std::to_string(groups.kept)));
    if (choosable() != experts)
      raise(Error(where, "identities and nulls", "none, with groups", std::to_string(choosable() - experts)));
    if (groups.others == GroupLimit::Others::excluded)
      at_least("experts of the kept groups", k, experts / groups.count * groups.kept);
  }

 private:
  MOE_HD int choosable() const noexcept { return experts + identities + nulls; }
  MOE_HD RowScores scores_of(const RowContext& row) const noexcept { return {row, choosable(), score, logits}; }
  MOE_HD float shared_sum(const RowScores& scores) const noexcept {
    float sum = 0;
    for (int i = 0; i < shared; ++i) sum += scores(choosable() + i);
    return sum;
  }

  MOE_HD void weigh(RowScores scores, Row<Slot> picked) const noexcept {
    scores.weigh(picked);
    normalise.apply(picked, shared_sum(scores));
    if (!expert_scale.empty())
      for (Slot& s : picked) s.weight *= s.expert >= 0 && s.expert < choosable() ? expert_scale[s.expert] : 0.0f;
    if (scale != 1)
      for (Slot& s : picked) s.weight *= scale;
  }

  /// What experts are compared by: the logit where nothing is added to the score, because equal scores of different
  /// logits (a saturated sigmoid) would be ties.
  MOE_HD float key(const RowScores& scores, ExpertId e) const noexcept {
    const float logit = scores.logit(e);
    if (logit < -largest_float) return logit;
    const float added = bias.values.empty() ? 0.0f : bias.values[e];
    if (bias.on == BiasOn::score && (!bias.values.empty() || groups.count > 1)) return scores(e) + added;
    return logit + added;
  }

  /// Insertion into a sorted list of at most out.size(); weights hold keys meanwhile.
  MOE_HD int pick(const RowContext& row, const RowScores& scores, Row<Slot> out) const noexcept {
    const std::uint64_t open = groups.count > 1 ? best_groups(row, scores) : ~std::uint64_t{0};
    int n = 0;
    for (ExpertId e = 0; e < choosable(); ++e) {
      if (!row.may_use(e)) continue;
      const bool inside = groups.count == 1 || ((open >> (e / (experts / groups.count))) & 1u) != 0;
      if (!inside && groups.others == GroupLimit::Others::excluded) continue;
      n = detail::insert_largest(out, n, {e, inside ? key(scores, e) : 0.0f});
    }
    return n;
  }
  /// A bit for each of the `kept` groups with the best scores, ties to the lower group.
  MOE_HD std::uint64_t best_groups(const RowContext& row, const RowScores& scores) const noexcept {
    float group_score[GroupLimit::most];
    for (int g = 0; g < groups.count; ++g) group_score[g] = score_of_group(row, scores, g);
    std::uint64_t open = 0;
    for (int n = 0; n < groups.kept; ++n) {
      int best = -1;
      for (int g = 0; g < groups.count; ++g)
        if (((open >> g) & 1u) == 0 && (best < 0 || group_score[g] > group_score[best])) best = g;
      open |= std::uint64_t{1} << best;
    }
    return open;
  }
  MOE_HD float score_of_group(const RowContext& row, const RowScores& scores, int group) const noexcept {
    const int size = experts / groups.count;
    float best = -HUGE_VALF, second = -HUGE_VALF;
    for (ExpertId e = group * size; e < (group + 1) * size; ++e) {
      if (!row.may_use(e)) continue;
      const float value = key(scores, e);
      if (value > best) {
        second = best;
        best = value;
      } else if (value > second) {
        second = value;
      }
    }
    const bool alone = second < -largest_float;
    return groups.by == GroupLimit::By::two_best && !alone ? best + second : best;
  }
};

/// TopK for numbers that are known when the program is compiled: `top_k<8, 2>({.score = Score::softmax})`.
template <int Experts, int K>
constexpr TopK top_k(TopK options = {}) noexcept {
  static_assert(Experts >= 1 && K >= 1, "moe::top_k<Experts, K>: needs at least one expert and one pick");
  static_assert(K <= Experts, "moe::top_k<Experts, K>: more picks than experts; K is at most Experts");
  options.experts = Experts;
  options.k = K;
  return options;
}

}  // namespace moe

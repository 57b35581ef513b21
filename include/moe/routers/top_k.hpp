// TopK: the K best experts by score, with the options by which published families differ.
#pragma once

#include <cstdint>
#include <string>

#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/routers/largest.hpp>
#include <moe/scores.hpp>

namespace moe {

namespace detail {

/// What TopK compares the ids of one row by. `row` outlives it.
template <class R>
class TopKKeys {
 public:
  MOE_HD TopKKeys(const R& row, const RowScores<R>& scores, const SelectionBias& bias, const GroupLimit& groups,
                  int experts) noexcept
      : row_(row),
        scores_(scores),
        bias_(bias.of(row.modality)),
        by_score_(bias.on == BiasOn::score && (!bias_.empty() || groups.count > 1)),
        groups_(groups),
        group_size_(groups.count > 1 ? experts / groups.count : experts) {
    if (groups.count > 1) open_best_groups();
  }

  /// False for ids that are not to be picked.
  MOE_HD bool operator()(ExpertId e, float& key) const noexcept {
    if (!row_.may_use(e)) return false;
    const bool inside = groups_.count == 1 || is_open(e / group_size_);
    if (!inside && groups_.others == GroupLimit::Others::excluded) return false;
    key = inside ? compared(e) : 0.0f;
    return true;
  }

 private:
  static constexpr int kept_scores = 64;  // of groups; what lies behind is computed again when asked for

  /// The logit where nothing is added to the score, because equal scores of different logits (a saturated sigmoid)
  /// would be ties.
  MOE_HD float compared(ExpertId e) const noexcept {
    const float logit = scores_.logit(e);
    if (logit < -largest_float) return logit;
    const float added = bias_.empty() ? 0.0f : bias_[e];
    return (by_score_ ? scores_(e) : logit) + added;
  }

  /// The `kept` groups with the best scores, ties to the lower group: those that are no worse than the last of them.
  MOE_HD void open_best_groups() noexcept {
    float score[kept_scores];
    for (int g = 0; g < groups_.count && g < kept_scores; ++g) score[g] = score_of_group(g);
    for (int n = 0; n < groups_.kept; ++n) {
      int best = -1;
      float best_score = 0;
      for (int g = 0; g < groups_.count; ++g) {
        const float s = g < kept_scores ? score[g] : score_of_group(g);
        if ((n == 0 || behind_last(s, g)) && (best < 0 || s > best_score)) {
          best = g;
          best_score = s;
        }
      }
      last_ = best;
      last_score_ = best_score;
      if (best < kept_scores) open_ |= std::uint64_t{1} << best;
    }
  }
  MOE_HD bool behind_last(float score, int group) const noexcept {
    return score < last_score_ || (score == last_score_ && group > last_);
  }
  MOE_HD bool is_open(int group) const noexcept {
    if (group < kept_scores) return ((open_ >> group) & 1u) != 0;
    return !behind_last(score_of_group(group), group);
  }
  MOE_HD float score_of_group(int group) const noexcept {
    float best = -HUGE_VALF, second = -HUGE_VALF;
    for (ExpertId e = group * group_size_; e < (group + 1) * group_size_; ++e) {
      if (!row_.may_use(e)) continue;
      const float value = compared(e);
      if (value > best) {
        second = best;
        best = value;
      } else if (value > second) {
        second = value;
      }
    }
    const bool alone = second < -largest_float;
    return groups_.by == GroupLimit::By::two_best && !alone ? best + second : best;
  }

  const R& row_;
  RowScores<R> scores_;
  Row<const float> bias_;
  bool by_score_;
  GroupLimit groups_;
  int group_size_;
  std::uint64_t open_ = 0;  // a bit for each of the first groups
  int last_ = -1;           // the worst group that is open
  float last_score_ = 0;
};

}  // namespace detail

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
    if (row.is_plain()) [[likely]]
      return select_of(PlainRow{row.logits.values(), row.modality}, out);
    return select_of(row, out);
  }

  /// What ids are compared by (see KeyRouter). With groups O(E kept), and O(E / groups) for each id in groups beyond
  /// the first 64.
  MOE_HD detail::TopKKeys<RowContext> keys(const RowContext& row) const noexcept {
    return {row, scores_of(row), bias, groups, experts};
  }
  /// Weights of ids that were chosen by other means (a table, an outside list).
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept { weigh(scores_of(row), picked); }

  /// Weights [shared] of the shared experts of a row whose choices are `picked`: their scores, normalised with the
  /// picked ones'.
  MOE_HD void weigh_shared(const RowContext& row, Row<const Slot> picked, Row<float> out) const noexcept {
    const RowScores<> scores = scores_of(row);
    float total = shared_sum(scores);
    for (const Slot& s : picked) total += scores(s.expert);
    const float divisor = normalise.by == Normalisation::By::nothing ? 1.0f : normalise.bounded(total);
    for (int i = 0; i < shared; ++i) {
      out[i] = scores(choosable() + i) * scale;
      if (divisor > 0) out[i] /= divisor;
    }
  }

  template <class F>
  void tables(F&& f) {
    f(bias.values);
    f(bias.by_modality);
    f(expert_scale);
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
    if (bias.by_modality.rows > 0)
      require_equal(where, "selection biases of a modality", choosable(), bias.by_modality.cols);
    if (!expert_scale.empty()) require_equal(where, "scales of the experts", choosable(), expert_scale.size());
    if (groups.count == 1) return;
    if (groups.count < 1 || experts % groups.count != 0)
      raise(Error(where, "groups", concat("a divisor of the ", experts, " experts"), std::to_string(groups.count)));
    if (groups.kept < 1 || groups.kept > groups.count)
      raise(Error(where, "kept groups", concat("1 to ", groups.count), std::to_string(groups.kept)));
    if (choosable() != experts)
      raise(Error(where, "identities and nulls", "none, with groups", std::to_string(choosable() - experts)));
    if (groups.others == GroupLimit::Others::excluded)
      at_least("experts of the kept groups", k, experts / groups.count * groups.kept);
  }

 private:
  MOE_HD int choosable() const noexcept { return experts + identities + nulls; }
  template <class R>
  MOE_HD RowScores<R> scores_of(const R& row) const noexcept {
    return {row, choosable(), score, logits};
  }
  template <class R>
  MOE_HD int select_of(const R& row, Row<Slot> out) const noexcept {
    const RowScores<R> scores = scores_of(row);
    const detail::TopKKeys<R> key_of(row, scores, bias, groups, experts);
    int picked = 0;  // insertion into a sorted list of at most out.size(); weights hold keys meanwhile
    for (ExpertId e = 0; e < choosable(); ++e)
      if (float key; key_of(e, key)) picked = detail::insert_largest(out, picked, {e, key});
    weigh(scores, out.first(picked));
    return picked;
  }
  template <class R>
  MOE_HD float shared_sum(const RowScores<R>& scores) const noexcept {
    float sum = 0;
    for (int i = 0; i < shared; ++i) sum += scores(choosable() + i);
    return sum;
  }

  template <class R>
  MOE_HD void weigh(RowScores<R> scores, Row<Slot> picked) const noexcept {
    scores.weigh(picked);
    normalise.apply(picked, shared_sum(scores));
    if (!expert_scale.empty())
      for (Slot& s : picked) s.weight *= s.expert >= 0 && s.expert < choosable() ? expert_scale[s.expert] : 0.0f;
    if (scale != 1)
      for (Slot& s : picked) s.weight *= scale;
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

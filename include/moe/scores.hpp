// How logits become scores and scores weights: the parts that routers are put together from.
#pragma once

#include <cmath>
#include <cstdint>

#include <moe/math.hpp>
#include <moe/routing.hpp>

namespace moe {

/// How a logit becomes a score, which becomes a weight. All are monotone: without a bias the same experts are picked.
enum class Score {
  softmax_of_picked,  // softmax over the K picked logits: Granite, GPT-OSS; equals `softmax` then `by_sum()`, cheaper
  softmax,            // softmax over all E logits: Mixtral, Qwen, OLMoE
  sigmoid,            // each logit on its own: DeepSeek-V3 and its line
  sqrt_softplus,      // sqrt(log(1 + e^l)): DeepSeek-V4
  logit               // the logit itself
};

/// What happens to logits before anything else: l * scale, then cap * tanh(l / cap) if there is a cap
/// (Muse-Spark, Laguna).
struct LogitMap {
  float scale = 1;
  float softcap = 0;  // 0: none

  MOE_HD float operator()(float logit) const noexcept {
    if (scale != 1) logit *= scale;
    if (softcap > 0) logit = softcap * tanh(logit / softcap);
    return finite_logit(logit);
  }
};

/// Moves the choice, not the weight: balancing without a loss (Wang et al. 2024).
enum class BiasOn {
  score,  // DeepSeek-V3, ERNIE, LongCat
  logit   // Kolibri
};
struct SelectionBias {
  Row<const float> values{};  // one per choosable id; empty: none. The host application keeps them alive
  BiasOn on = BiasOn::score;
  View<const float> by_modality{};  // [modalities, ids] instead, by RowContext::modality (DeepSeek-V4.1-Flash)

  /// A modality that is none of the model's is the first, text.
  MOE_HD Row<const float> of(int modality) const noexcept {
    if (by_modality.rows == 0) return values;
    return by_modality.row(modality >= 0 && modality < by_modality.rows ? modality : 0);
  }
};

/// Only experts of the best groups can be chosen (DeepSeek-V2, V3). Group g holds the ids from g * E / count on.
struct GroupLimit {
  enum class By {
    maximum,  // of the biased scores of its experts: DeepSeek-V2
    two_best  // their sum: DeepSeek-V3
  };
  enum class Others {
    excluded,  // as if at minus infinity: DeepSeek-V3
    zero       // compete with a score of 0, which beats a negative biased score: DeepSeek-V2, A.X-K2
  };

  int count = 1;  // of groups; 1: no limit
  int kept = 1;
  By by = By::maximum;
  Others others = Others::excluded;
};

/// What picked weights are divided by.
struct Normalisation {
  enum class By { nothing, sum, norm };
  By by = By::nothing;
  float epsilon = 0;  // added to the sum
  float floor = 0;    // the sum is at least this
  float power = 1;    // of the norm

  static constexpr Normalisation none() { return {}; }
  /// w / max(sum w + epsilon, floor). A sum of zero leaves the weights as they are.
  static constexpr Normalisation by_sum(float epsilon = 0, float floor = 0) { return {By::sum, epsilon, floor, 1}; }
  /// w / (sum |w|^power)^(1/power) (DBRX).
  static constexpr Normalisation by_norm(float power) { return {By::norm, 0, 0, power}; }

  /// `more` is added to the sum: scores that share the normalisation without being among the picked.
  MOE_HD float divisor(Row<const Slot> picked, float more = 0) const noexcept {
    float total = 0;
    for (const Slot& s : picked)
      total += by == By::norm && power != 1 ? std::pow(std::fabs(s.weight), power) : s.weight;
    if (by == By::norm && power != 1) total = std::pow(total, 1 / power);
    return bounded(total + more);
  }
  /// What a sum of weights comes to as a divisor.
  MOE_HD float bounded(float sum) const noexcept {
    sum += epsilon;
    return sum < floor ? floor : sum;
  }
  MOE_HD void apply(Row<Slot> picked, float more = 0) const noexcept {
    if (by == By::nothing) return;
    if (const float total = divisor(picked, more); total > 0)
      for (Slot& s : picked) s.weight /= total;
  }
};

/// The scores of one row, a RowContext or a PlainRow, by id. Softmax needs the largest logit and the sum once:
/// O(choosable ids); no memory.
template <class R = RowContext>
class RowScores {
 public:
  /// Over the ids in [0, choosable) that the row may use.
  MOE_HD RowScores(const R& row, int choosable, Score score, LogitMap map) noexcept
      : logits_(row.logits), score_(score), map_(map) {
    if (score != Score::softmax) return;
    for (ExpertId e = 0; e < choosable; ++e)
      if (const float l = logit(e); row.may_use(e) && l > best_) best_ = l;
    for (ExpertId e = 0; e < choosable; ++e)
      if (row.may_use(e)) sum_ += relative(logit(e));
  }

  /// Mapped and finite; minus infinity for NaN.
  MOE_HD float logit(ExpertId e) const noexcept { return map_(logits_[e]); }
  MOE_HD float operator()(ExpertId e) const noexcept { return of(logit(e)); }

  /// Scores of chosen ids become their weights; ids beyond the logits get none.
  MOE_HD void weigh(Row<Slot> picked) noexcept {
    if (score_ == Score::softmax_of_picked) over(picked);
    for (Slot& s : picked) s.weight = has(s.expert) ? (*this)(s.expert) : 0.0f;
  }

 private:
  MOE_HD bool has(ExpertId e) const noexcept { return e >= 0 && e < logits_.size(); }
  MOE_HD void over(Row<const Slot> picked) noexcept {
    best_ = -HUGE_VALF;
    sum_ = 0;
    for (const Slot& s : picked)
      if (has(s.expert) && logit(s.expert) > best_) best_ = logit(s.expert);
    for (const Slot& s : picked)
      if (has(s.expert)) sum_ += relative(logit(s.expert));
  }
  MOE_HD float of(float logit) const noexcept {
    switch (score_) {
      case Score::sigmoid:
        return sigmoid(logit);
      case Score::sqrt_softplus:
        return std::sqrt(softplus(logit));
      case Score::logit:
        return logit < -largest_float ? 0.0f : logit;
      default:
        return sum_ > 0 ? relative(logit) / sum_ : 0.0f;
    }
  }
  /// e^(logit - best), and zero where even the best logit is NaN.
  MOE_HD float relative(float logit) const noexcept { return best_ < -largest_float ? 0.0f : exp(logit - best_); }

  decltype(R::logits) logits_;
  Score score_;
  LogitMap map_;
  float best_ = -HUGE_VALF, sum_ = 0;
};

}  // namespace moe

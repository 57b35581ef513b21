// TopK: the K best experts by softmax or sigmoid score, and how their weights are normalised.
#pragma once

#include <cmath>

#include <moe/expert.hpp>
#include <moe/math.hpp>
#include <moe/routing.hpp>

namespace moe {

/// How a logit becomes a weight. All three are monotone, so the same experts are picked.
enum class Score {
  softmax_of_picked,  // softmax over the K picked logits: Granite, GPT-OSS; equals `softmax` then `by_sum()`, cheaper
  softmax,            // softmax over all E logits: Mixtral, Qwen, OLMoE
  sigmoid             // each logit on its own: DeepSeek-V3 and its line
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

  MOE_HD float divisor(Row<const Slot> picked) const noexcept {
    float total = 0;
    for (const Slot& s : picked)
      total += by == By::norm && power != 1 ? std::pow(std::fabs(s.weight), power) : s.weight;
    if (by == By::norm && power != 1) total = std::pow(total, 1 / power);
    total += epsilon;
    return total < floor ? floor : total;
  }
};

/// The K best of E experts for each token, in descending order, ties to the lower id; O(E + picks * K).
///
/// NaN ranks below every number and infinities count as the largest finite value, so that K distinct ids with finite
/// weights come out whatever the logits are. Experts that the call's mask excludes are not picked: a row may get fewer
/// than K choices, or none. Shazeer et al. 2017 (softmax of the picked), Fedus et al. 2021, DeepSeek-V3 (sigmoid).
struct TopK {
  int experts = 0;
  int k = 1;
  Score score = Score::softmax_of_picked;
  Normalisation normalise = Normalisation::none();
  float scale = 1;  // multiplies every weight, after normalising

  MOE_HD int num_logits() const noexcept { return experts; }
  MOE_HD int num_experts() const noexcept { return experts; }
  MOE_HD int max_slots() const noexcept { return k < experts ? k : experts; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const int picked = pick(row, out);
    const Row<Slot> slots = out.first(picked);
    weigh(row, slots);
    if (normalise.by != Normalisation::By::nothing)
      if (const float divisor = normalise.divisor(slots); divisor > 0)
        for (Slot& s : slots) s.weight /= divisor;
    if (scale != 1)
      for (Slot& s : slots) s.weight *= scale;
    return picked;
  }

 private:
  /// Insertion into a sorted list of at most out.size(); afterwards `weight` holds the finite logit.
  MOE_HD int pick(const RowContext& row, Row<Slot> out) const noexcept {
    int n = 0;
    for (ExpertId e = 0; e < row.logits.size(); ++e) {
      if (!row.may_use(e)) continue;
      const float logit = finite_logit(row.logits[e]);
      if (n == out.size() && (n == 0 || !(logit > out[n - 1].weight))) continue;
      int at = n < out.size() ? n++ : n - 1;
      for (; at > 0 && logit > out[at - 1].weight; --at) out[at] = out[at - 1];
      out[at] = {e, logit};
    }
    return n;
  }

  /// Logits of the picked become scores. A row of nothing but NaN gets weights of zero.
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept {
    if (score == Score::sigmoid) {
      for (Slot& s : picked) s.weight = sigmoid(s.weight);
      return;
    }
    if (picked.empty()) return;
    const float best = picked[0].weight;
    const float sum = score == Score::softmax ? sum_over_all(row, best) : sum_over(picked, best);
    for (Slot& s : picked) s.weight = sum > 0 ? relative(s.weight, best) / sum : 0.0f;
  }
  MOE_HD static float sum_over_all(const RowContext& row, float best) noexcept {
    float sum = 0;
    for (ExpertId e = 0; e < row.logits.size(); ++e)
      if (row.may_use(e)) sum += relative(finite_logit(row.logits[e]), best);
    return sum;
  }
  MOE_HD static float sum_over(Row<const Slot> picked, float best) noexcept {
    float sum = 0;
    for (const Slot& s : picked) sum += relative(s.weight, best);
    return sum;
  }
  /// e^(logit - best), and zero where even the best logit is NaN.
  MOE_HD static float relative(float logit, float best) noexcept {
    return best < -largest_float ? 0.0f : exp(logit - best);
  }
};

}  // namespace moe

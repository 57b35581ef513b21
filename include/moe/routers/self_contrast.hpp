// SelfContrast: a rule per row, so that a strong and a weak stream share one batch; and the contrast of their logits.
#pragma once

#include <cmath>
#include <string>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>

namespace moe {

/// How one stream is routed.
struct StreamRule {
  enum class By {
    inner,       // the router inside, with at most `count` choices
    rank,        // the expert with the `count`-th largest logit alone, weight exactly 1
    random,      // any expert the row may use, alone, weight exactly 1
    probability  // the router inside, with as many choices as reach `mass` of the softmax over all experts
  };
  By by = By::inner;
  int count = 0;  // 0: as many as the router inside makes
  float mass = 1;

  static constexpr StreamRule top(int k) { return {By::inner, k, 1}; }
  static constexpr StreamRule rank(int r) { return {By::rank, r, 1}; }
  static constexpr StreamRule random_one() { return {By::random, 1, 1}; }
  static constexpr StreamRule top_p(float mass) { return {By::probability, 0, mass}; }
};

/// Routes row t by rules[context.rules[t]]: SCMoE (Shi et al., NeurIPS 2024, section 2.2) runs a strong and a weak
/// routing of one model, here as rows of one call, so that an expert that both want is read once. O(E) per row for
/// `inner`'s own cost, O(r E) for rank r.
///
/// A rank beyond the experts that a row may use means the last of them; a rule number outside [0, Rules) means rule 0.
/// Ranks go by logits, ties to the lower id: `inner`'s selection bias does not move them.
template <class Inner, int Rules = 2>
struct SelfContrast {
  Inner inner;
  StreamRule rules[Rules] = {};

  static constexpr Uses uses = Uses::rules | uses_of<Inner>();

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const StreamRule& rule = rules[row.rule >= 0 && row.rule < Rules ? row.rule : 0];
    switch (rule.by) {
      case StreamRule::By::rank:
        return alone(ranked(row, rule.count), out);
      case StreamRule::By::random:
        return alone(random_one(row), out);
      case StreamRule::By::probability:
        return moe::select(inner, row, out.first(reaching(row, moe::select(inner, row, out), out, rule.mass)));
      default:
        return moe::select(inner, row, rule.count > 0 && rule.count < out.size() ? out.first(rule.count) : out);
    }
  }

  /// Throws Error for a rank that is none.
  void check() const {
    for (const StreamRule& rule : rules) {
      if (rule.by == StreamRule::By::rank && (rule.count < 1 || rule.count > num_experts(inner)))
        raise(Error("moe::SelfContrast", "rank", concat("1 to ", num_experts(inner)), std::to_string(rule.count)));
      if (rule.count < 0) raise(Error("moe::SelfContrast", "count", "0 or more", std::to_string(rule.count)));
    }
  }

 private:
  static constexpr std::uint32_t salt = 2048;

  MOE_HD static int alone(ExpertId e, Row<Slot> out) noexcept {
    if (e < 0 || out.empty()) return 0;
    out[0] = {e, 1};
    return 1;
  }

  /// The next one after (logit, id) in descending order, -1 behind the last.
  MOE_HD ExpertId next(const RowContext& row, ExpertId after) const noexcept {
    ExpertId best = -1;
    const float limit = after < 0 ? HUGE_VALF : finite_logit(row.logits[after]);
    for (ExpertId e = 0; e < num_experts(inner); ++e) {
      if (!row.may_use(e)) continue;
      const float logit = finite_logit(row.logits[e]);
      if (logit > limit || (logit == limit && e <= after)) continue;
      if (best < 0 || logit > finite_logit(row.logits[best])) best = e;
    }
    return best;
  }
  MOE_HD ExpertId ranked(const RowContext& row, int rank) const noexcept {
    ExpertId found = next(row, -1);
    for (int r = 1; r < rank && found >= 0; ++r) {
      const ExpertId e = next(row, found);
      if (e < 0) break;
      found = e;
    }
    return found;
  }

  MOE_HD ExpertId random_one(const RowContext& row) const noexcept {
    int usable = 0;
    for (ExpertId e = 0; e < num_experts(inner); ++e) usable += row.may_use(e) ? 1 : 0;
    int at = static_cast<int>(row.random(salt) * static_cast<float>(usable));
    if (at >= usable) at = usable - 1;  // the product may round up
    for (ExpertId e = 0; e < num_experts(inner); ++e)
      if (row.may_use(e) && at-- == 0) return e;
    return -1;
  }

  /// How many of the picked, in order, have `mass` of the softmax over what the row may use; all if they have less.
  MOE_HD int reaching(const RowContext& row, int picked, Row<const Slot> slots, float mass) const noexcept {
    const ExpertId first = next(row, -1);
    if (first < 0 || picked == 0) return 0;
    const float best = finite_logit(row.logits[first]);
    if (best < -largest_float) return 1;  // nothing but NaN
    float total = 0, sum = 0;
    for (ExpertId e = 0; e < num_experts(inner); ++e)
      if (row.may_use(e)) total += exp(finite_logit(row.logits[e]) - best);
    for (int n = 0; n < picked; ++n) {
      sum += exp(finite_logit(row.logits[slots[n].expert]) - best);
      if (sum >= mass * total) return n + 1;
    }
    return picked;
  }
};

/// out [V] = (1 + beta) strong - beta weak where strong >= log(alpha) + max(strong), else minus infinity: the
/// next-token logits of SCMoE (section 2.3). alpha in (0, 1], beta >= 0. Equal streams give `strong` back, bit for bit.
inline void contrast_logits(Row<const float> strong, Row<const float> weak, float alpha, float beta,
                            Row<float> out) noexcept {
  float best = -HUGE_VALF;
  for (const float l : strong)
    if (l > best) best = l;
  const float least = best + std::log(alpha);
  for (int i = 0; i < out.size(); ++i)
    out[i] = strong[i] >= least ? fma(beta, strong[i] - weak[i], strong[i]) : -HUGE_VALF;
}

}  // namespace moe

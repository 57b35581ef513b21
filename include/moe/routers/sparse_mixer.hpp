// SparseMixer: two rounds of argmax, each weighed by a softmax over the experts that are nearly as good.
#pragma once

#include <moe/math.hpp>
#include <moe/routing.hpp>

namespace moe {

/// Round r picks the best of the experts that are left, with largest logit m; its weight is its softmax over those with
/// (m - l) / max(|l|, m) <= 2 * jitter. The weights are not normalised together: two sum to anything up to 2.
/// SparseMixer-v2 (Liu et al. 2024, GRIN, appendix) as Phi-3.5-MoE evaluates it: `sparsemixer` of transformers'
/// `modeling_phimoe`, k = 2, jitter 0.01; round 1 alone is SparseMixer (Liu et al. 2023). O(k E) and an exponential for
/// each expert near the best.
struct SparseMixer {
  int experts = 0;
  int k = 2;
  float jitter = 0.01f;

  MOE_HD int num_logits() const noexcept { return experts; }
  MOE_HD int num_experts() const noexcept { return experts; }
  MOE_HD int max_slots() const noexcept { return k < experts ? k : experts; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    int n = 0;
    for (; n < out.size(); ++n) {
      const ExpertId e = best(row, out.first(n));
      if (e < 0) break;
      out[n] = {e, weight(row, out.first(n), finite_logit(row.logits[e]))};
    }
    return n;
  }

 private:
  MOE_HD bool left(const RowContext& row, Row<const Slot> before, ExpertId e) const noexcept {
    for (const Slot& s : before)
      if (s.expert == e) return false;
    return row.may_use(e);
  }
  MOE_HD ExpertId best(const RowContext& row, Row<const Slot> before) const noexcept {
    ExpertId found = -1;
    for (ExpertId e = 0; e < experts; ++e)
      if (left(row, before, e) && (found < 0 || finite_logit(row.logits[e]) > finite_logit(row.logits[found])))
        found = e;
    return found;
  }
  MOE_HD float weight(const RowContext& row, Row<const Slot> before, float most) const noexcept {
    if (most < -largest_float) return 0;  // nothing but NaN is left
    float sum = 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (const float l = finite_logit(row.logits[e]); left(row, before, e) && near(l, most)) sum += exp(l - most);
    return 1 / sum;
  }
  /// Zero by zero is near, as it is in the reference.
  MOE_HD bool near(float logit, float most) const noexcept {
    if (logit < -largest_float) return false;
    const float magnitude = logit < 0 ? -logit : logit;
    return !((most - logit) / (magnitude < most ? most : magnitude) > 2 * jitter);
  }
};

}  // namespace moe

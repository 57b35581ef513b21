// ExitRouter: tokens that say so get no expert.
#pragma once

#include <moe/routers/slots.hpp>

namespace moe {

/// A token whose exit score, the sigmoid of the last logit, exceeds `threshold` gets no choice; the others are routed
/// by `inner`, which sees the logits before it. The layer's part of DyTrack's early exits (Zhu et al. 2024): the
/// residual carries the token past the layer. NaN does not exit. O(`inner`).
template <class Inner>
struct ExitRouter {
  Inner inner;
  float threshold = 0.5f;

  MOE_HD int num_logits() const noexcept { return moe::num_logits(inner) + 1; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    if (sigmoid(row.logits[moe::num_logits(inner)]) > threshold) return 0;
    return moe::select(inner, of_experts(row), out);
  }
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept requires Weighs<Inner> {
    inner.weigh(of_experts(row), picked);
  }

 private:
  MOE_HD RowContext of_experts(RowContext row) const noexcept {
    row.logits = row.logits.first(moe::num_logits(inner));
    return row;
  }
};

}  // namespace moe

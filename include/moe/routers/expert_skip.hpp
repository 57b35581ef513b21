// ExpertSkip: leaves out experts that weigh little beside the first.
#pragma once

#include <moe/routers/slots.hpp>

namespace moe {

/// Drops choice i > 0 if w_i < beta * w_0, and weighs the rest as if `inner` had picked them alone: dynamic expert
/// skipping of NAEE (Lu et al., ACL 2024, section 3.3, two experts). Its beta is the median of w_1 / w_0 over
/// calibration tokens of the layer, so that half of them use one expert. beta = 0 changes nothing, bit for bit.
/// O(`inner`) + O(picks).
template <class Inner>
struct ExpertSkip {
  Inner inner;
  float beta = 0;

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const int picked = moe::select(inner, row, out);
    const float total = total_weight(out.first(picked));
    const float least = picked > 0 ? beta * out[0].weight : 0.0f;
    int kept = 0;
    for (int i = 0; i < picked; ++i)
      if (i == 0 || !(out[i].weight < least)) out[kept++] = out[i];
    if (kept < picked) weigh_kept(inner, row, out.first(kept), total);
    return kept;
  }
};

}  // namespace moe

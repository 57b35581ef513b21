// MixedExperts: networks beside experts that compute next to nothing.
#pragma once

#include <string>

#include <moe/error.hpp>
#include <moe/routers/slots.hpp>

namespace moe {

/// The choices of `inner` among four ranges of ids, in this order: networks, copies (which return their input),
/// constants, zeros: MoE++ (Jin et al., ICLR 2025, section 3.1; its code orders them networks, constants, copies,
/// zeros). O(`inner`) + O(picks).
///
/// Zeros leave the row, and the others are weighed without them, so a zero's partner of two gets 1. Copies are identity
/// ids of `ids()`. Constants stay in the table as ids from `first_constant()` on, which no expert computes: what adds
/// them to the output reads them there. `inner` chooses among all ids, with a logit for each.
template <class Inner>
struct MixedExperts {
  Inner inner;
  int copies = 0, constants = 0, zeros = 0;

  MOE_HD int num_experts() const noexcept { return moe::num_logits(inner) - copies - constants - zeros; }
  constexpr IdMap ids() const noexcept { return {num_experts(), copies}; }
  MOE_HD ExpertId first_constant() const noexcept { return num_experts() + copies; }
  MOE_HD ExpertId first_zero() const noexcept { return first_constant() + constants; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const int picked = moe::select(inner, row, out);
    const float total = total_weight(out.first(picked));
    int kept = 0;
    for (int i = 0; i < picked; ++i)
      if (out[i].expert < first_zero()) out[kept++] = out[i];
    if (kept < picked) weigh_kept(inner, row, out.first(kept), total);
    return kept;
  }
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept requires Weighs<Inner> {
    inner.weigh(row, picked);
  }

  /// Throws Error unless there is a network and no range is negative.
  void check() const {
    if (copies < 0 || constants < 0 || zeros < 0)
      raise(Error("moe::MixedExperts", "copies, constants, zeros", "0 or more of each",
                  concat(copies, ", ", constants, ", ", zeros)));
    if (num_experts() < 1) raise(Error("moe::MixedExperts", "networks", "at least 1", std::to_string(num_experts())));
  }
};

}  // namespace moe

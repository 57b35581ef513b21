// SensitivitySkip: drops the last experts of a token where the layer can stand it.
#pragma once

#include <cmath>

#include <moe/routers/slots.hpp>

namespace moe {

/// When a rule is applied.
enum class When {
  always,
  decode_only  // rows of calls whose context says decode: AdapMoE's speed path
};

/// tau = sqrt(T / S) of a layer with sensitivity S (Fisher diagonal of the second expert's weight, measured offline),
/// for one T of the whole model (AdapMoE's default: 0.005). Above 1/2 a top-2 layer is always top-1.
inline float sensitivity_threshold(float budget, float sensitivity) noexcept { return std::sqrt(budget / sensitivity); }

/// Keeps the fewest first choices, at least one, such that the share of the others in the row's weight is below
/// `threshold`, and weighs them as if `inner` had picked no more: AdapMoE (Zhong et al., ICCAD 2024; the rule of its
/// code for two experts, g_1 < tau; for more, the dropped tail's sum). O(`inner`) + O(picks).
///
/// The loss grows by about (dropped share)^2 * S, so this drops while that is below T. One threshold per layer: each
/// layer has its own router. A threshold of 0 changes nothing, bit for bit.
template <class Inner>
struct SensitivitySkip {
  Inner inner;
  float threshold = 0;
  When when = When::always;

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const int picked = moe::select(inner, row, out);
    if (when == When::decode_only && !row.decode) return picked;
    const float total = total_weight(out.first(picked));
    const int kept = needed(out.first(picked), threshold * total);
    if (kept < picked) weigh_kept(inner, row, out.first(kept), total);
    return kept;
  }

 private:
  MOE_HD static int needed(Row<const Slot> picked, float limit) noexcept {
    int kept = picked.size();
    for (float tail = 0; kept > 1; --kept) {
      tail += picked[kept - 1].weight;
      if (!(tail < limit)) break;
    }
    return kept;
  }
};

}  // namespace moe

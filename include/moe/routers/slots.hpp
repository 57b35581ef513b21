// What decorators do with the slots of one row: keep some, and weigh what is left.
#pragma once

#include <moe/router_hooks.hpp>

namespace moe {

MOE_HD inline float total_weight(Row<const Slot> slots) noexcept {
  float total = 0;
  for (const Slot& s : slots) total += s.weight;
  return total;
}

/// Weights of what is kept of a row that `inner` chose: those that `inner` gives to these ids alone, if it can weigh
/// chosen ids (a softmax of the picked, or a normalisation by the sum, is then over the kept). A router that cannot
/// weigh gets its weights scaled up to `total`, what the row summed to before.
template <class Inner>
MOE_HD inline void weigh_kept(const Inner& inner, const RowContext& row, Row<Slot> kept, float total) noexcept {
  if constexpr (Weighs<Inner>) {
    inner.weigh(row, kept);
  } else if (const float left = total_weight(kept); left > 0) {
    for (Slot& s : kept) s.weight = s.weight / left * total;
  }
}

}  // namespace moe

// TopAny: every expert whose score exceeds its own threshold.
#pragma once

#include <moe/error.hpp>
#include <moe/math.hpp>
#include <moe/routers/largest.hpp>

namespace moe {

/// The experts with sigmoid(l_e) > sigmoid(G_e), which is l_e > G_e; the best one if there is none. All weigh the same
/// and sum to 1. DynMoE (Guo et al., ICLR 2025, top-any gating), where the logits are cosines of x and the experts'
/// vectors. O(E + picks^2).
///
/// At most `most` experts (0: all), those with the largest logits; in descending order of logits, ties to the lower id.
struct TopAny {
  int experts = 0;
  Row<const float> thresholds{};  // [E] G, before the sigmoid; the host application keeps them alive
  int most = 0;

  MOE_HD int num_logits() const noexcept { return experts; }
  MOE_HD int num_experts() const noexcept { return experts; }
  MOE_HD int max_slots() const noexcept { return most > 0 && most < experts ? most : experts; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    int n = 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (const float l = finite_logit(row.logits[e]); row.may_use(e) && l > thresholds[e])
        n = detail::insert_largest(out, n, {e, l});
    if (n == 0 && !out.empty()) n = best(row, out);
    for (Slot& s : out.first(n)) s.weight = 1.0f / static_cast<float>(n);
    return n;
  }

  template <class F>
  void tables(F&& f) {
    f(thresholds);
  }

  /// Throws Error unless there is a threshold for each expert.
  void check() const { require_equal("moe::TopAny", "thresholds", experts, thresholds.size()); }

 private:
  MOE_HD int best(const RowContext& row, Row<Slot> out) const noexcept {
    int n = 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (row.may_use(e)) n = detail::insert_largest(out.first(1), n, {e, finite_logit(row.logits[e])});
    return n;
  }
};

}  // namespace moe

// ReluRouter: experts with a positive logit, weighed by it.
#pragma once

#include <moe/math.hpp>
#include <moe/routers/largest.hpp>

namespace moe {

/// log(1 + y) for y >= 0, within 3 ulp.
/// 1 + y = m * 2^n with m in [1, 2), so n log 2 + log m; the rounding of 1 + y is relative, and log is at least 0.69.
MOE_HD inline float log1p_positive(float y) noexcept {
  if (!(y > 1)) return log1p_unit(y);
  if (y > largest_float) return y;
  const auto bits = bit_cast<std::int32_t>(1.0f + y);
  const auto exponent = static_cast<float>((bits >> 23) - 127);
  const float mantissa = bit_cast<float>((bits & 0x7fffff) | 0x3f800000);
  return fma(exponent, ExpConstants::ln2_high, fma(exponent, ExpConstants::ln2_low, log1p_unit(mantissa - 1.0f)));
}

/// Every expert with a positive logit z, weight relu(z), not normalised: ReMoE (Wang et al., ICLR 2025, section 3.1).
/// With `logarithm` the weight is log(1 + relu(z)), the saturating activation of SPLADE (Formal et al. 2021, equation
/// 1). A token gets 0 to `most` experts (0: all), the largest, in descending order, ties to the lower id; NaN is not
/// positive. O(E + picks^2).
struct ReluRouter {
  int experts = 0;
  int most = 0;
  bool logarithm = false;

  MOE_HD int num_logits() const noexcept { return experts; }
  MOE_HD int num_experts() const noexcept { return experts; }
  MOE_HD int max_slots() const noexcept { return most > 0 && most < experts ? most : experts; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    int n = 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (const float z = finite_logit(row.logits[e]); z > 0 && row.may_use(e))
        n = detail::insert_largest(out, n, {e, z});
    if (logarithm)
      for (Slot& s : out.first(n)) s.weight = log1p_positive(s.weight);
    return n;
  }
};

}  // namespace moe

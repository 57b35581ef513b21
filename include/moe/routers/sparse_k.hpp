// SparseK: weights are the projection of the logits on {0 <= p <= 1, sum p = k}.
#pragma once

#include <cstdint>
#include <string>

#include <moe/error.hpp>
#include <moe/routers/largest.hpp>
#include <moe/scores.hpp>

namespace moe {

/// Experts with p > 0, weight p * scale, where p = clip(z - tau, 0, 1) and tau makes them sum to k: the point of
/// {0 <= p <= 1, sum p = k} nearest to the logits z (SparseK attention, Lou et al. 2024, as a router). At least k
/// experts, about k, more the closer the logits are; `logits.scale` (an inverse temperature) moves that. With most = k
/// they are the k largest, weighed by p. In descending order of logits, ties to the lower id.
///
/// Where no more than k experts can be used, all of them have p = 1; NaN never has any. `scale` = 1 / k makes the
/// weights of an untruncated row sum to 1.
///
/// O(passes * E + E + picks^2) without memory of its own. A pass halves the interval of tau until no breakpoint (a
/// logit, or a logit less 1) is inside it, then p is linear there and exact up to rounding: 10 to 20 passes for usual
/// logits, at most 66: 1 us for 8 experts, 60 us for 512.
struct SparseK {
  int experts = 0;
  int k = 1;
  int most = 0;  // choices per token; 0: all
  float scale = 1;
  LogitMap logits{};

  MOE_HD int num_logits() const noexcept { return experts; }
  MOE_HD int num_experts() const noexcept { return experts; }
  MOE_HD int max_slots() const noexcept { return most > 0 && most < experts ? most : experts; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const Projection p = project(row);
    int n = 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (const float z = logit(row, e); p(z) > 0) n = detail::insert_largest(out, n, {e, z});
    for (Slot& s : out.first(n)) s.weight = p(s.weight) * scale;
    return n;
  }

  /// Throws Error unless 1 <= k <= experts.
  void check() const {
    if (k < 1 || k > experts)
      raise(Error("moe::SparseK", "k", concat("1 to the ", experts, " experts"), std::to_string(k)));
  }

 private:
  /// p(z) of one row. Below `low` it is 0, one above `high` it is 1; between them, z - high + offset.
  struct Projection {
    float low = 0, high = 0, offset = 0;
    MOE_HD float operator()(float z) const noexcept {
      if (!(z > low)) return 0;
      if (z - high >= 1) return 1;
      const float p = z - high + offset;
      return p < 0 ? 0.0f : (p > 1 ? 1.0f : p);
    }
  };
  /// What one pass over the row says of tau = middle: sum of p, and the breakpoints left on each side.
  struct Pass {
    float sum = 0;
    int below = 0, above = 0;
  };

  MOE_HD float logit(const RowContext& row, ExpertId e) const noexcept {
    return row.may_use(e) ? logits(row.logits[e]) : -HUGE_VALF;
  }
  MOE_HD static bool inside(float z, float low, float high) noexcept {
    return (z > low && z < high) || (z - low > 1 && z - high < 1);
  }
  MOE_HD Pass pass(const RowContext& row, float low, float middle, float high) const noexcept {
    Pass found;
    for (ExpertId e = 0; e < experts; ++e) {
      const float z = logit(row, e), over = z - middle;
      found.sum += over <= 0 ? 0.0f : (over < 1 ? over : 1.0f);
      found.below += inside(z, low, middle) ? 1 : 0;
      found.above += inside(z, middle, high) ? 1 : 0;
    }
    return found;
  }

  MOE_HD Projection project(const RowContext& row) const noexcept {
    int usable = 0;
    float least = HUGE_VALF, high = -HUGE_VALF;
    for (ExpertId e = 0; e < experts; ++e) {
      const float z = logit(row, e);
      if (z < -largest_float) continue;
      ++usable;
      least = z < least ? z : least;
      high = z > high ? z : high;
    }
    if (usable <= k) return {-HUGE_VALF, -HUGE_VALF, 1};
    float low = least - 1;
    if (!(least - low >= 1)) low = -HUGE_VALF;  // 1 is below the spacing of floats there
    // At `low` the sum of p is more than k, at `high` it is 0.
    for (int turn = 0, left = 1; left > 0; ++turn) {
      const float middle = between(low, high, turn % 2 == 0);
      if (!(middle > low && middle < high)) break;
      const Pass found = pass(row, low, middle, high);
      const bool more = found.sum >= static_cast<float>(k);
      (more ? low : high) = middle;
      left = more ? found.above : found.below;
    }
    return solve(row, low, high);
  }
  /// Of numbers, or of floats in their order: the first ends soon for usual logits, the second for any.
  MOE_HD static float between(float low, float high, bool of_numbers) noexcept {
    const float middle = fma(0.5f, low, 0.5f * high);
    if (of_numbers && middle > low && middle < high) return middle;
    const std::int64_t sum = std::int64_t{ordered(bit_cast<std::int32_t>(low))} + ordered(bit_cast<std::int32_t>(high));
    return bit_cast<float>(ordered(static_cast<std::int32_t>(sum >> 1)));
  }
  /// Bits of a float to an integer in the same order, and back.
  MOE_HD static std::int32_t ordered(std::int32_t bits) noexcept { return bits ^ ((bits >> 31) & 0x7fffffff); }

  /// Between `low` and `high` p of the free experts is z - tau: their mean is what the full ones leave of k.
  MOE_HD Projection solve(const RowContext& row, float low, float high) const noexcept {
    int full = 0, open = 0;
    float sum = 0;
    for (ExpertId e = 0; e < experts; ++e) {
      const float z = logit(row, e);
      if (!(z > low)) continue;
      if (z - high >= 1) {
        ++full;
      } else {
        ++open;
        sum += z - high;
      }
    }
    return {low, high, (static_cast<float>(k - full) - sum) / static_cast<float>(open)};
  }
};

}  // namespace moe

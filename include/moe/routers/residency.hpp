// Routers that ask what is resident: SkipAbsent (leaves out what is neither here nor important), PreferResident.
#pragma once

#include <cmath>
#include <string>
#include <type_traits>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>
#include <moe/routers/slots.hpp>

namespace moe {

namespace detail {
/// Whether an id costs no read: its expert is here, it is none (identities, nulls), or nobody knows.
MOE_HD inline bool costs_no_read(const RowContext& row, ExpertId e, int experts) noexcept {
  return e < 0 || e >= experts || row.is_resident(e);
}

/// Whether every router of a chain reads its logits from the row context, where they may be lowered.
template <class R>
constexpr bool reads_context() {
  if constexpr (Decorator<R>)
    return ContextSelect<R> && reads_context<inner_of<R>>();
  else
    return ContextSelect<R>;
}
template <class R>
concept LowersLogits = R::lowers_logits;
template <class R>
struct has_lowered_logits : std::bool_constant<LowersLogits<R>> {};
}  // namespace detail

/// Drops choice i > 0 of `inner` if its expert is not resident and w_i < below * (w_0 + ... + w_i), so that its share
/// of the row's weight is below `below` too (the same for the last choice): skipping on a miss only, which users of
/// engines ask for (Helldez/BigMoeOnEdge#94). The first choice always stays. O(`inner`) + O(picks).
///
/// `renormalise`: the rest is weighed as if `inner` had picked it alone; else weights stay as they are. below = 0
/// and a call in which everything is resident change nothing, bit for bit. What is resident differs from call to call,
/// so outputs do: with 1 every absent choice but the first goes. The sum is over the choices so far, not over the row,
/// so that a call with fewer slots chooses a prefix.
template <class Inner>
struct SkipAbsent {
  Inner inner;
  float below = 0;
  bool renormalise = true;

  static constexpr Uses uses = uses_of<Inner>() | Uses::residency;

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const int picked = moe::select(inner, row, out);
    int kept = 0;
    float total = 0;
    for (int i = 0; i < picked; ++i) {
      total += out[i].weight;
      const bool light = out[i].weight < below * total;
      if (i == 0 || !light || detail::costs_no_read(row, out[i].expert, num_experts(inner))) out[kept++] = out[i];
    }
    if (kept < picked && renormalise) weigh_kept(inner, row, out.first(kept), total);
    return kept;
  }
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept requires Weighs<Inner> {
    inner.weigh(row, picked);
  }
};

/// Chooses as if the logits of experts that are not resident were lower by `bonus` + `share` * (largest - smallest
/// logit of the row), and weighs what was chosen by the logits as they are: cache-aware routing, the cache prior of
/// Skliar et al. 2024 (Mixture of Cache-Conditional Experts, lambda = `share`). O(`inner`) + O(E).
///
/// The `always` first choices of `inner` are as good as resident, so they stay among the choices. With everything
/// resident this is `inner`, bit for bit: that is why absent experts lose, instead of resident ones gaining. Choices
/// come in the order of the changed logits, so weights need not descend. `inner` weighs chosen ids (TopK with any of
/// its options, and decorators of it that say so).
template <class Inner>
struct PreferResident {
  static_assert(Weighs<Inner>, "moe::PreferResident: the router inside must be able to weigh chosen ids");
  static_assert(detail::reads_context<Inner>(),
                "moe::PreferResident: the router inside must read logits from its row, so it needs `int select(const "
                "RowContext&, Row<Slot>) const noexcept` (docs/policies.md#router)");
  static_assert(!detail::Has<detail::has_lowered_logits, Inner>,
                "moe::PreferResident: there is one inside already; add up their losses");
  static constexpr int most_always = 16;  // because `select` may not allocate
  static constexpr bool lowers_logits = true;
  static constexpr Uses uses = uses_of<Inner>() | Uses::residency;

  Inner inner;
  float bonus = 0;
  float share = 0;
  int always = 0;

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const float loss = loss_of(row);
    if (row.resident_bits == nullptr || !(loss > 0)) return moe::select(inner, row, out);
    ExpertId spared[most_always];
    const int n = first_choices(row, out, spared);
    const LoweredLogits lowered{&row, loss, num_experts(inner), {spared, n}};
    RowContext changed = row;
    changed.logits = {row.logits, &lowered};
    const int picked = moe::select(inner, changed, out);
    inner.weigh(row, out.first(picked));
    return picked;
  }
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept { inner.weigh(row, picked); }

  /// Throws Error for a bonus, share or number of choices below zero, and for more choices than `most_always`.
  void check() const {
    constexpr const char* where = "moe::PreferResident";
    if (!(bonus >= 0)) raise(Error(where, "bonus", "0 or more", std::to_string(bonus)));
    if (!(share >= 0)) raise(Error(where, "share", "0 or more", std::to_string(share)));
    if (always < 0 || always > most_always)
      raise(Error(where, "always", concat("0 to ", most_always), std::to_string(always)));
  }

 private:
  /// The `always` first choices on the logits as they are; `out` is scratch.
  MOE_HD int first_choices(const RowContext& row, Row<Slot> out, ExpertId* ids) const noexcept {
    const int most = always < most_always ? always : most_always;
    const Row<Slot> first = out.first(most < out.size() ? most : out.size());
    const int picked = first.empty() ? 0 : moe::select(inner, row, first);
    for (int i = 0; i < picked; ++i) ids[i] = first[i].expert;
    return picked;
  }
  MOE_HD float loss_of(const RowContext& row) const noexcept {
    if (!(share > 0)) return bonus;
    float largest = -HUGE_VALF, smallest = HUGE_VALF;
    for (int e = 0; e < row.logits.size(); ++e) {
      const float l = finite_logit(row.logits[e]);
      if (l < -largest_float) continue;
      if (l > largest) largest = l;
      if (l < smallest) smallest = l;
    }
    return largest > smallest ? finite_logit(bonus + share * (largest - smallest)) : bonus;
  }
};

}  // namespace moe

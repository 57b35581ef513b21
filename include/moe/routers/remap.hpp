// Routers over other experts than their gate knows: RemapRouter (some removed, some merged) and PartRouter (two gates
// beside each other).
#pragma once

#include <string>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>

namespace moe {

/// A router for a layer whose experts were pruned or merged: `inner` decides among the experts that its gate was
/// trained for, and `to` says what became of each of them. Costs a look-up in `to` for each id that the inner router
/// asks about.
///
///   to[e] = -1         expert e is gone: masked before `inner` chooses, as if its logit were minus infinity, so that
///                      weights are those of a checkpoint whose gate rows were cut (Kim et al. 2021, pruning)
///   to[e] = to[f] = n  e and f were merged into n: chosen apart; if both are, n comes once, where the first of them
///                      stood, with the sum of their weights (MC-SMoE, Li et al. 2024)
///
/// Ids behind the experts (identities, nulls) move along: id networks + i becomes experts + i, and stays allowed
/// whatever the call's mask says. The call's masks speak of the new experts. A row may get fewer choices than it asks
/// for. A column rule goes around this router, not inside: it must see the new ids.
template <TokenRouter R>
struct RemapRouter {
  static_assert(!has_column_rule<R>(), "moe::RemapRouter: a column rule must be the outer router, not the inner one");

  R inner;
  Row<const ExpertId> to;  // [networks of inner]; the host application keeps it alive
  int experts = 0;         // new ids are [0, experts)

  MOE_HD int num_experts() const noexcept { return experts; }
  constexpr IdMap ids() const noexcept { return {experts, ids_of(inner).identities}; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const InnerIds ids{.to = to, .outer = row.ids};
    RowContext inside = row;
    inside.ids = &ids;
    const int chosen = moe::select(inner, inside, out);
    int n = 0;
    for (int k = 0; k < chosen; ++k) n = append(out, n, {renamed(out[k].expert), out[k].weight});
    return n;
  }

  template <class F>
  void tables(F&& f) {
    f(to);
  }

  /// Throws Error unless `to` has an entry in [-1, experts) for each expert of the inner router.
  void check() const {
    constexpr const char* where = "moe::RemapRouter";
    require_equal(where, "entries of `to`", ids_of(inner).networks, to.size());
    for (const ExpertId e : to)
      if (e < -1 || e >= experts)
        raise(Error(where, "an entry of `to`", concat("-1 to ", experts - 1), std::to_string(e)));
  }

 private:
  MOE_HD ExpertId renamed(ExpertId e) const noexcept {
    if (e < 0) return e;
    return e < to.size() ? to[e] : experts + (e - to.size());
  }
  /// Adds to the slot that has this expert already, if there is one. Slots [0, n) are merged; k >= n still are not.
  MOE_HD static int append(Row<Slot> out, int n, Slot slot) noexcept {
    if (slot.expert >= 0)
      for (int k = 0; k < n; ++k)
        if (out[k].expert == slot.expert) {
          out[k].weight += slot.weight;
          return n;
        }
    out[n] = slot;
    return n + 1;
  }
};
template <class R>
RemapRouter(R, Row<const ExpertId>, int) -> RemapRouter<R>;

/// A router for a layer that was put together from several trained ones (Aggregation of Experts, Kim et al. 2021):
/// each row keeps to the part of `part` consecutive experts in which its first choice lies, and its weights are those
/// of that part alone. Costs the inner router twice.
///
/// Without it, two equal halves share every probability, so that a top-1 softmax weight is halved, and a top-2 picks
/// both copies of one expert. With it the layer of two equal halves is the layer of one, bit for bit, which makes it
/// usable before fine-tuning. For the weights as the merged gate gives them use the inner router as it is.
template <TokenRouter R>
struct PartRouter {
  static_assert(!has_column_rule<R>(), "moe::PartRouter: a column rule must be the outer router, not the inner one");

  R inner;
  int part = 0;

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    if (out.empty() || moe::select(inner, row, out.first(1)) == 0) return 0;
    if (out[0].expert < 0) return moe::select(inner, row, out);
    const ExpertId first = out[0].expert / part * part;
    const InnerIds ids{.first = first, .end = first + part, .outer = row.ids};
    RowContext inside = row;
    inside.ids = &ids;
    return moe::select(inner, inside, out);
  }

  /// Throws Error unless the parts are equal and hold nothing but experts.
  void check() const {
    constexpr const char* where = "moe::PartRouter";
    require_equal(where, "ids that may be chosen", moe::num_experts(inner), moe::num_logits(inner));
    if (part < 1 || moe::num_experts(inner) % part != 0)
      raise(Error(where, "experts of a part", concat("a divisor of ", moe::num_experts(inner)), std::to_string(part)));
  }
};
template <class R>
PartRouter(R, int) -> PartRouter<R>;

}  // namespace moe

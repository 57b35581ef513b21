// TokenTable: ids from a frozen table by token id, weights from the gate.
#pragma once

#include <string>

#include <moe/error.hpp>
#include <moe/routers/slots.hpp>

namespace moe {

/// The experts of a token are a row of `experts_of_token`, in its order; `inner.weigh` turns their logits into weights:
/// the hash layers of DeepSeek-V4 (`tid2eid`). O(K^2) and what `inner.weigh` costs.
///
/// A token id outside the table gives no choice. Entries that are no expert, that stand twice in a row, or that the
/// call's mask excludes are left out, and the others weighed without them.
template <class Inner>
struct TokenTable {
  static_assert(Weighs<Inner>,
                "moe::TokenTable: `inner` needs `void weigh(const RowContext&, Row<Slot>) const noexcept`, as TopK has "
                "(docs/policies.md#decorator)");
  static constexpr Uses uses = Uses::tokens;

  Inner inner;
  View<const int> experts_of_token{};  // [V, K]; the host application keeps it alive
  bool text_only = false;              // rows of another modality are chosen by `inner` (DeepSeek-V4-Flash-Vision)

  MOE_HD int max_slots() const noexcept {
    const int others = text_only ? moe::max_slots(inner) : 0;
    return experts_of_token.cols > others ? experts_of_token.cols : others;
  }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    if (text_only && row.modality != 0) return moe::select(inner, row, out);
    if (row.token < 0 || row.token >= experts_of_token.rows) return 0;
    int n = 0;
    for (const int e : experts_of_token.row(row.token)) {
      if (n == out.size()) break;
      if (usable(row, out.first(n), e)) out[n++] = {e, 0};
    }
    inner.weigh(row, out.first(n));
    return n;
  }
  MOE_HD void weigh(const RowContext& row, Row<Slot> picked) const noexcept { inner.weigh(row, picked); }

  template <class F>
  void tables(F&& f) {
    f(experts_of_token);
  }

  /// Throws Error for a table without columns, or with more than there are experts.
  void check() const {
    if (experts_of_token.cols < 1 || experts_of_token.cols > moe::num_experts(inner))
      raise(Error("moe::TokenTable", "experts per token", concat("1 to ", moe::num_experts(inner)),
                  std::to_string(experts_of_token.cols)));
  }

 private:
  MOE_HD bool usable(const RowContext& row, Row<const Slot> before, ExpertId e) const noexcept {
    for (const Slot& s : before)
      if (s.expert == e) return false;
    return e >= 0 && e < moe::num_experts(inner) && row.may_use(e);
  }
};

}  // namespace moe

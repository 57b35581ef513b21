// NullExperts: some of a token's picks may be experts that compute nothing, so that tokens use as many as they need.
#pragma once

#include <string>
#include <vector>

#include <moe/error.hpp>
#include <moe/routers/largest.hpp>
#include <moe/routers/slots.hpp>

namespace moe {

/// What a null expert gives.
enum class Null {
  zero,     // nothing; such picks leave the table
  identity  // its input; such picks stay, as the ids behind the experts
};

/// `k` picks among the experts of `inner` and, behind them, `nulls` null experts: AdaMoE (Zeng et al., EMNLP Findings
/// 2024, section 3). A token gets 0 to min(k, experts) experts, in order of choice; equal logits go to experts before
/// nulls, then to the lower id. O(`inner`) + O(k * nulls).
///
/// Logits [experts + nulls]: those of `inner`, then one per null expert; a mask of allowed ids has a bit for each.
/// `inner` chooses by its logits (no selection bias, groups or shared logits) and makes min(k, experts) choices. It
/// weighs the experts that are left, so TopK's weights are the paper's: the softmax over them alone, whatever the
/// nulls' logits are.
///
/// `shift` is added to the nulls' logits: the mean number of experts per token never grows with it. With
/// `Null::identity`, which the paper names and does not specify, every pick weighs its softmax over all k picks.
template <class Inner>
struct NullExperts {
  Inner inner;
  int nulls = 0;
  int k = 1;
  float shift = 0;
  Null kind = Null::zero;

  MOE_HD int num_logits() const noexcept { return first_null() + nulls; }
  MOE_HD int max_slots() const noexcept {
    const int most = kind == Null::zero ? moe::max_slots(inner) : moe::max_slots(inner) + nulls;
    return k < most ? k : most;
  }
  constexpr IdMap ids() const noexcept {
    const IdMap own = ids_of(inner);
    return {own.networks, own.identities + (kind == Null::identity ? nulls : 0)};
  }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const int room = out.size() < k ? out.size() : k;
    const int picked =
        moe::select(inner, of_experts(row), out.first(room < moe::max_slots(inner) ? room : moe::max_slots(inner)));
    return kind == Null::zero ? without_nulls(row, out.first(picked)) : with_nulls(row, out.first(room), picked);
  }

  /// Throws Error for options that contradict each other.
  void check() const {
    constexpr const char* where = "moe::NullExperts";
    if (nulls < 0) raise(Error(where, "null experts", "0 or more", std::to_string(nulls)));
    const int all = moe::num_experts(inner) + nulls;
    if (k < 1 || k > all) raise(Error(where, "k", concat("1 to the ", all, " experts"), std::to_string(k)));
    const int most = k < moe::num_experts(inner) ? k : moe::num_experts(inner);
    if (moe::max_slots(inner) < most)
      raise(Error(where, "choices of the router inside", concat("at least ", most),
                  std::to_string(moe::max_slots(inner))));
  }

 private:
  MOE_HD ExpertId first_null() const noexcept { return moe::num_logits(inner); }
  MOE_HD RowContext of_experts(RowContext row) const noexcept {
    row.logits = row.logits.first(first_null());
    return row;
  }
  MOE_HD float logit(const RowContext& row, ExpertId e) const noexcept {
    const float l = finite_logit(row.logits[e]);
    return e < first_null() || l < -largest_float ? l : finite_logit(l + shift);  // NaN stays below every number
  }

  MOE_HD int nulls_before(const RowContext& row, ExpertId expert) const noexcept {
    const float mine = logit(row, expert);
    int before = 0;
    for (ExpertId e = first_null(); e < num_logits(); ++e) before += row.may_use(e) && logit(row, e) > mine ? 1 : 0;
    return before;
  }
  MOE_HD int without_nulls(const RowContext& row, Row<Slot> picked) const noexcept {
    const float total = total_weight(picked);
    int kept = 0;
    for (int i = 0; i < picked.size(); ++i)
      if (i + nulls_before(row, picked[i].expert) < k) picked[kept++] = picked[i];
    if (kept < picked.size()) weigh_kept(inner, of_experts(row), picked.first(kept), total);
    return kept;
  }

  /// Weights hold logits until the picks are known.
  MOE_HD int with_nulls(const RowContext& row, Row<Slot> out, int picked) const noexcept {
    for (Slot& s : out.first(picked)) s.weight = logit(row, s.expert);
    for (ExpertId e = first_null(); e < num_logits(); ++e)
      if (row.may_use(e)) picked = detail::insert_largest(out, picked, {e, logit(row, e)});
    softmax(out.first(picked));
    return picked;
  }
  MOE_HD static void softmax(Row<Slot> picked) noexcept {
    if (picked.empty()) return;
    const float best = picked[0].weight;
    float sum = 0;
    for (Slot& s : picked) sum += s.weight = best < -largest_float ? 0.0f : exp(s.weight - best);
    if (sum > 0)
      for (Slot& s : picked) s.weight /= sum;
  }
};

/// The gate [(copies + 1) * n, H] of a layer with `copies * n` null experts, row-major, made of a trained gate [n, H]:
/// the nulls' rows are copies of the experts' (AdaMoE, section 4.1). With k = null_picks(copies, k0) and distinct
/// logits it routes exactly as top-k0 does, so that fine-tuning begins at the model that there was.
inline std::vector<float> null_gate(View<const float> gate, int copies) {
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(copies + 1) * static_cast<std::size_t>(gate.rows) *
              static_cast<std::size_t>(gate.cols));
  for (int copy = 0; copy <= copies; ++copy)
    for (int e = 0; e < gate.rows; ++e) out.insert(out.end(), gate.row(e).begin(), gate.row(e).end());
  return out;
}
/// Picks that leave k0 experts to every token after `null_gate(gate, copies)`: 3, 4, 5 for 1, 2, 3 copies and k0 = 2.
constexpr int null_picks(int copies, int k0) { return (copies + 1) * (k0 - 1) + 1; }

/// The load: experts per token of a table, picks that compute nothing left out.
inline double mean_experts(const RoutingTable<>& table, IdMap ids) noexcept {
  int experts = 0;
  for (int t = 0; t < table.slots.rows; ++t)
    for (const Slot& s : table.slots.row(t).first(table.size(t))) experts += ids.network(s.expert) ? 1 : 0;
  return table.slots.rows == 0 ? 0.0 : static_cast<double>(experts) / table.slots.rows;
}

/// Experts per token if these logits [T, L] were routed.
template <class Router>
double load_of(const Router& router, View<const float> logits) {
  std::vector<Slot> slots(static_cast<std::size_t>(router.max_slots()));
  RoutingTable<> row{{slots.data(), 1, router.max_slots()}, nullptr};
  double sum = 0;
  for (int t = 0; t < logits.rows; ++t) {
    row.slots.cols = select(router, RouteContext<>{}.at(t, logits.row(t)), {slots.data(), router.max_slots()});
    sum += mean_experts(row, ids_of(router));
  }
  return logits.rows == 0 ? 0.0 : sum / logits.rows;
}

/// The shift of the nulls' logits for a load nearest below `load` on these logits [T, L], by bisection within
/// [-most, most]: 40 times the cost of routing them.
template <class Inner>
float shift_for_load(NullExperts<Inner> router, View<const float> logits, double load, float most = 64) {
  float low = -most, high = most;
  for (int i = 0; i < 40; ++i) {
    router.shift = low + (high - low) / 2;
    (load_of(router, logits) > load ? low : high) = router.shift;
  }
  return high;
}

}  // namespace moe

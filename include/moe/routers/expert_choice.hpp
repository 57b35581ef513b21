// ExpertChoice: experts choose rows, so that every expert computes the same number of them.
#pragma once

#include <cmath>
#include <string>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>
#include <moe/routers/capacity_factor.hpp>
#include <moe/routers/largest.hpp>

namespace moe {

/// Each expert takes the c = ceil(T factor / E) rows with the largest probability of it, softmax over experts; ties to
/// the earlier row. The weight is that probability. Zhou et al. 2022. O(T E); works in the table's memory.
///
/// Balanced by construction; a row gets 0 to E experts, in descending order of weight. What a row gets depends on the
/// other rows of the call, later ones too: for training and for encoders. With `most_per_row` a row that more experts
/// chose keeps its largest weights (the paper has a cap too, by another rule), and the workspace has room
/// for that many slots per row instead of E.
struct ExpertChoice {
  int experts = 0;
  CapacityFactor factor{2, 1};  // mean number of experts per row
  int most_per_row = 0;         // 0: no limit

  static constexpr bool causal = false;

  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return most_per_row > 0 && most_per_row < experts ? most_per_row : experts; }

  void check() const {
    if (experts < 1) raise(Error("moe::ExpertChoice", "experts", "at least 1", std::to_string(experts)));
    if (factor.numerator < 1 || factor.denominator < 1)
      raise(Error("moe::ExpertChoice", "factor", "above 0", concat(factor.numerator, "/", factor.denominator)));
  }

  void route(const RouteContext<>& context, View<const float> logits, RoutingTable<>& table) const {
    const int rows = logits.rows;
    for (int t = 0; t < rows; ++t) {
      for (Slot& s : table.slots.row(t)) s = {-1, 0};
      table.count[t] = bit_cast<int>(log_sum(context.at(t, logits.row(t))));  // counted below; this saves a buffer
    }
    const int kept = factor.capacity(rows, 1, experts, 1);
    const RowContext mask = context.at(0, {});
    for (ExpertId e = 0; e < experts && rows > 0; ++e)
      if (mask.may_use(e)) choose(e, kept, logits, table);
    for (int t = 0; t < rows; ++t) table.count[t] = filled(table.slots.row(t));
  }

 private:
  /// log sum e^l over what a row may use; zero where nothing has a weight.
  float log_sum(const RowContext& row) const noexcept {
    float best = -HUGE_VALF, sum = 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (const float l = finite_logit(row.logits[e]); row.may_use(e) && l > best) best = l;
    if (best < -largest_float) return 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (row.may_use(e)) sum += exp(finite_logit(row.logits[e]) - best);
    return best + std::log(sum);
  }

  struct Keys {  // logarithms of the probabilities of one expert
    ExpertId expert;
    View<const float> logits;
    const int* log_sums;
    MOE_HD float value(int t) const noexcept {
      return finite_logit(logits.row(t)[expert]) - bit_cast<float>(log_sums[t]);
    }
    MOE_HD std::uint32_t operator()(int t) const noexcept { return detail::ordered_key(value(t)); }
  };

  static int filled(Row<const Slot> row) noexcept {
    int n = 0;
    while (n < row.size() && row[n].expert >= 0) ++n;
    return n;
  }
  static void choose(ExpertId e, int kept, View<const float> logits, RoutingTable<>& table) noexcept {
    const Keys keys{e, logits, table.count};
    detail::Cut cut = detail::cut_at_largest(0, logits.rows, kept, keys);
    for (int t = 0; t < logits.rows; ++t)
      if (const Row<Slot> row = table.slots.row(t); cut.admits(keys(t)))
        detail::insert_largest(row, filled(row), {e, exp(keys.value(t))});
  }
};

}  // namespace moe

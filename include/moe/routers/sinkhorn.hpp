// Sinkhorn: the plan of entropic optimal transport between rows and experts decides who computes what.
#pragma once

#include <cmath>
#include <string>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>
#include <moe/routers/largest.hpp>

namespace moe {

/// The K largest entries of a row of the balanced plan diag(r) exp(Z) diag(c), whose rows sum to 1/T and columns to
/// 1/E; ties to the lower id. Weights come from the raw logits: sigmoid for K = 1, else softmax over all experts. For
/// training; evaluate with TopK of the same score. Clark et al. 2022 (S-BASE), Megatron-LM's `sinkhorn`.
///
/// exp(Z) is shifted by each row's maximum, which r absorbs, so no logit overflows. Ends when every expert's share is
/// within `tolerance` of 1/E, relatively, or after `most_rounds`: with experts that all rows shun it may never be.
/// O(rounds T E), 3 arrays of E doubles on the stack.
struct Sinkhorn {
  static constexpr int most_experts = 4096;

  int experts = 0;
  int k = 1;
  double tolerance = 1e-4;
  int most_rounds = 100;

  static constexpr bool causal = false;

  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return k < experts ? k : experts; }

  void check() const {
    if (experts < 1 || experts > most_experts)
      raise(Error("moe::Sinkhorn", "experts", concat("1 to ", most_experts), std::to_string(experts)));
    if (k < 1) raise(Error("moe::Sinkhorn", "k", "at least 1", std::to_string(k)));
  }

  void route(const RouteContext<>& context, View<const float> logits, RoutingTable<>& table) const {
    double columns[most_experts];
    balance(context, logits, {columns, experts});
    for (int t = 0; t < logits.rows; ++t) {
      const RowContext row = context.at(t, logits.row(t));
      const float best = largest(row);
      int n = 0;
      for (ExpertId e = 0; e < experts; ++e)
        if (row.may_use(e)) n = detail::insert_largest(table.slots.row(t), n, {e, log_plan(row, e, best, columns[e])});
      table.count[t] = n;
      weigh(row, best, table.slots.row(t).first(n));
    }
  }

  /// The factors c [E] of the plan's columns for logits that are shifted by their row's maximum; returns the rounds it
  /// took. A row's factor is 1 / (T sum_e exp(Z_te) c_e). Columns that cannot be used have factor 0.
  int balance(const RouteContext<>& context, View<const float> logits, Row<double> columns) const noexcept {
    const RowContext mask = context.at(0, {});
    int usable = 0;
    for (ExpertId e = 0; e < experts; ++e) {
      columns[e] = mask.may_use(e) ? 1 : 0;
      usable += mask.may_use(e) ? 1 : 0;
    }
    int round = 0;
    while (round < most_rounds && logits.rows > 0 && usable > 0) {
      ++round;
      if (correct(context, logits, usable, columns) <= tolerance) break;
    }
    return round;
  }

 private:
  static float largest(const RowContext& row) noexcept {
    float best = -HUGE_VALF;
    for (ExpertId e = 0; e < row.logits.size(); ++e)
      if (const float l = finite_logit(row.logits[e]); row.may_use(e) && l > best) best = l;
    return best;
  }
  static double shifted(const RowContext& row, ExpertId e, float best) noexcept {
    return best < -largest_float ? 0 : static_cast<double>(exp(finite_logit(row.logits[e]) - best));
  }

  /// One round: rows sum to 1/T, then columns to 1/E. Returns how far the columns were off before, relatively.
  double correct(const RouteContext<>& context, View<const float> logits, int usable,
                 Row<double> columns) const noexcept {
    double entry[most_experts], share[most_experts];  // of one row; of all rows
    for (ExpertId e = 0; e < experts; ++e) share[e] = 0;
    for (int t = 0; t < logits.rows; ++t) {
      const RowContext row = context.at(t, logits.row(t));
      const float best = largest(row);
      double sum = 0;
      for (ExpertId e = 0; e < experts; ++e) {
        entry[e] = shifted(row, e, best);
        sum = std::fma(entry[e], columns[e], sum);
      }
      if (sum > 0)
        for (ExpertId e = 0; e < experts; ++e) share[e] = std::fma(entry[e], columns[e] / sum, share[e]);
    }
    double off = 0, largest_factor = 0;
    for (ExpertId e = 0; e < experts; ++e) {
      if (share[e] > 0) {
        const double scaled = share[e] * usable / logits.rows;
        off = std::fmax(off, std::fabs(scaled - 1));
        columns[e] /= scaled;
      }
      largest_factor = std::fmax(largest_factor, columns[e]);
    }
    for (ExpertId e = 0; e < experts; ++e) columns[e] /= largest_factor;  // where no plan exists, factors grow for ever
    return off;
  }

  /// Compares entries of one row of the plan.
  static float log_plan(const RowContext& row, ExpertId e, float best, double column) noexcept {
    const double entry = static_cast<double>(finite_logit(row.logits[e])) - static_cast<double>(best);
    return best < -largest_float ? -HUGE_VALF : finite_logit(static_cast<float>(entry + std::log(column)));
  }

  void weigh(const RowContext& row, float best, Row<Slot> picked) const noexcept {
    double sum = 0;
    for (ExpertId e = 0; e < experts; ++e)
      if (row.may_use(e)) sum += shifted(row, e, best);
    for (Slot& s : picked) {
      const double softmax = sum > 0 ? shifted(row, s.expert, best) / sum : 0;
      s.weight = k == 1 ? sigmoid(finite_logit(row.logits[s.expert])) : static_cast<float>(softmax);
    }
  }
};

}  // namespace moe

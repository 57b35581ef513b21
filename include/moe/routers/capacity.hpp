// Capacity: at most so many rows per expert; which rows go when there are more.
#pragma once

#include <string>

#include <moe/error.hpp>
#include <moe/router_hooks.hpp>
#include <moe/routers/capacity_factor.hpp>
#include <moe/routers/largest.hpp>

namespace moe {

/// Whom a full expert turns away.
enum class Drop {
  by_position,  // the last rows: Switch, GShard, DeepSpeed's top-2
  at_random,    // any subset with the same probability: random token selection, Kim et al. 2021
  by_score,     // the smallest weights as `inner` gave them: DeepSpeed's "probs", V-MoE's batch priority
  nothing       // nobody: DeepSpeed's drop_tokens=false
};

/// A column rule around any token router: an expert computes at most C = max(ceil(T k factor / E), minimum) rows, and
/// never more than T. Fedus et al. 2021; DeepSpeed-MoE (`sharded_moe.py`); Lepikhin et al. 2020.
///
/// A dropped choice keeps its place in the row with id `dropped(expert)` and weight 0; the layer's output for a row
/// that lost all its choices is zero. A pure function of the call: neither threads nor the memory of the machine
/// matter. O(k T) by position, else O(T), for all experts together; no memory.
template <class Inner>
struct Capacity {
  Inner inner;
  CapacityFactor factor{};
  int minimum = 0;
  int fixed = 0;              // rows per expert, instead of the factor (Switch's expert_capacity); 0: the factor counts
  bool per_sequence = false;  // count every sequence on its own; one begins where context.positions do not ascend
  Drop drop = Drop::by_position;
  bool first_choices_first = true;  // by_position: every first choice precedes every second one (GShard); else by token
  bool renormalise = false;         // what is left of a row sums to 1: a lone survivor gets 1 (DeepSpeed, k > 1)

  static constexpr bool causal = false;

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept { return moe::select(inner, row, out); }

  /// Without a limit the layer skips both passes.
  bool has_columns() const noexcept { return drop != Drop::nothing || renormalise; }

  /// Throws Error for numbers that are no limit.
  void check() const {
    const auto at_least = [](const char* what, int least, int found) {
      if (found < least) raise(Error("moe::Capacity", what, concat("at least ", least), std::to_string(found)));
    };
    at_least("numerator of the factor", 0, factor.numerator);
    at_least("denominator of the factor", 1, factor.denominator);
    at_least("minimum", 0, minimum);
    at_least("fixed", 0, fixed);
  }

  /// Rows that an expert may have among `rows` rows of `per_row` choices.
  MOE_HD int capacity(int rows, int per_row) const noexcept {
    if (fixed > 0) return fixed < rows ? fixed : rows;
    return factor.capacity(rows, per_row, num_experts(inner), minimum);
  }

  MOE_HD void admit(const Column& column) const noexcept {
    if (drop == Drop::nothing) return;
    if (!per_sequence) {
      limit(column, 0, column.size(), column.tokens);
      return;
    }
    int begin = 0;
    for (int token = 0; token < column.tokens;) {
      const int next = end_of_sequence(column, token);
      int end = begin;
      while (end < column.size() && column.token(end) < next) ++end;
      limit(column, begin, end, next - token);
      begin = end;
      token = next;
    }
  }

  MOE_HD void finish(Row<Slot> row) const noexcept {
    moe::finish(inner, row);
    if (!renormalise) return;
    float left = 0;
    for (const Slot& s : row) left += s.weight;
    if (left > 0)
      for (Slot& s : row) s.weight /= left;
  }

 private:
  static constexpr std::uint32_t salt = 3072;  // with the expert: each one draws on its own

  struct RandomKeys {
    const Column& column;
    MOE_HD std::uint32_t operator()(int i) const noexcept {
      const auto expert = static_cast<std::uint32_t>(column.expert) % 1024u;
      return detail::ordered_key(counter_random(column.seed, column.first_row + column.token(i), salt + expert));
    }
  };
  struct ScoreKeys {
    const Column& column;
    MOE_HD std::uint32_t operator()(int i) const noexcept { return detail::ordered_key(column.slot(i).weight); }
  };

  MOE_HD static int end_of_sequence(const Column& column, int token) noexcept {
    int next = token + 1;
    if (column.positions == nullptr) return column.tokens;
    while (next < column.tokens && column.positions[next] > column.positions[next - 1]) ++next;
    return next;
  }

  /// Entries [begin, end) of the column belong to `rows` rows.
  MOE_HD void limit(const Column& column, int begin, int end, int rows) const noexcept {
    const int most = capacity(rows, column.slots_per_row);
    if (end - begin <= most) return;
    if (drop == Drop::by_position)
      keep_first(column, begin, end, most);
    else if (drop == Drop::at_random)
      keep_largest(column, begin, end, most, RandomKeys{column});
    else
      keep_largest(column, begin, end, most, ScoreKeys{column});
  }
  MOE_HD void keep_first(const Column& column, int begin, int end, int most) const noexcept {
    const int ranks = first_choices_first ? column.slots_per_row : 1;
    for (int rank = 0; rank < ranks; ++rank)
      for (int i = begin; i < end; ++i)
        if ((ranks == 1 || column.rank(i) == rank) && most-- <= 0) column.drop(i);
  }
  template <class Keys>
  MOE_HD static void keep_largest(const Column& column, int begin, int end, int most, const Keys& key) noexcept {
    detail::Cut cut{~std::uint32_t{0}, 0};  // nobody
    if (most > 0) cut = detail::cut_at_largest(begin, end, most, key);
    for (int i = begin; i < end; ++i)
      if (!cut.admits(key(i))) column.drop(i);
  }
};

}  // namespace moe

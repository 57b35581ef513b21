// HashRouter: the expert of a token is a function of its id alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <moe/error.hpp>
#include <moe/math.hpp>
#include <moe/routing.hpp>

namespace moe {

/// One expert per token, weight 1, known before the model runs: a hash of the token id, or what `table` says (Roller et
/// al., NeurIPS 2021, "Hash Layers", section 3). O(1). It has no logits, so the layer needs no gate.
///
/// A negative token id, one behind the table, a table entry that is no expert, and an expert that the call's mask
/// excludes give no choice: the row's result is zero.
struct HashRouter {
  static constexpr Uses uses = Uses::tokens;

  int experts = 0;
  std::uint64_t seed = 0;  // another in each layer
  Row<const int> table{};  // [V] expert of each token id; empty: hash. The host application keeps it alive

  MOE_HD int num_logits() const noexcept { return 0; }
  MOE_HD int num_experts() const noexcept { return experts; }
  MOE_HD int max_slots() const noexcept { return 1; }

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const ExpertId e = expert_of(row.token);
    if (out.empty() || e < 0 || e >= experts || !row.may_use(e)) return 0;
    out[0] = {e, 1};
    return 1;
  }

  template <class F>
  void tables(F&& f) {
    f(table);
  }

  /// -1: none. Every layer's experts of a token can be asked for ahead of time.
  MOE_HD ExpertId expert_of(int token) const noexcept {
    if (token < 0) return -1;
    if (!table.empty()) return token < table.size() ? table[token] : -1;
    const std::uint64_t random = random_at(seed, static_cast<std::uint64_t>(token));
    return static_cast<ExpertId>(((random >> 32) * static_cast<std::uint64_t>(experts)) >> 32);
  }
};

/// A table [V] for HashRouter that spreads the corpus evenly: token ids by descending frequency [V], each to the expert
/// with the least so far, ties to the lower id (Roller et al., "balanced assignment"). O(V log V + V E).
inline std::vector<int> balanced_hash(std::span<const std::uint64_t> frequency, int experts) {
  if (experts < 1) raise(Error("moe::balanced_hash", "experts", "at least 1", std::to_string(experts)));
  std::vector<std::size_t> order(frequency.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return frequency[a] > frequency[b]; });
  std::vector<std::uint64_t> load(static_cast<std::size_t>(experts));
  std::vector<int> table(frequency.size());
  for (const std::size_t token : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += frequency[token];
    table[token] = static_cast<int>(least - load.begin());
  }
  return table;
}

}  // namespace moe

// The two tables, by token and by expert, what a router may look at, and the host's grouping of one into the other.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include <moe/expert.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// One choice of one token.
struct Slot {
  ExpertId expert = -1;
  float weight = 0;
};

/// Choices by token: row t holds `count[t]` slots (all of them if `count` is null).
/// Ids may be any number: what `IdMap` does not know adds nothing.
template <class M = host_memory>
struct RoutingTable {
  View<Slot, M> slots;   // [T,K]
  int* count = nullptr;  // [T]
  MOE_HD int size(int t) const noexcept { return count != nullptr ? count[t] : slots.cols; }
  MOE_HD RoutingTable slice(int first, int n) const noexcept {
    return {slots.slice(first, n), count != nullptr ? count + first : nullptr};
  }
};

/// The same choices by expert: those of expert e are number offset[e] .. offset[e+1] of `entry` and `row`, in token
/// order. An entry is token * K + slot, the place of its slot in the table and the row of its partial output.
template <class M = host_memory>
struct Dispatch {
  int* offset = nullptr;  // [E+1]
  int* entry = nullptr;   // [T*K]
  int* row = nullptr;     // [T*K], the token of each entry: the row that its expert reads
  MOE_HD Row<const int> entries(ExpertId e) const noexcept { return {entry + offset[e], offset[e + 1] - offset[e]}; }
  MOE_HD Row<const int> rows(ExpertId e) const noexcept { return {row + offset[e], offset[e + 1] - offset[e]}; }
};

// ---- what a router may look at

/// Uniform in [0, 1) from (seed, position, salt) by splitmix64: no state, so threads and splits do not matter.
MOE_HD inline float counter_random(std::uint64_t seed, int position, std::uint32_t salt) noexcept {
  std::uint64_t z = seed + 0x9e3779b97f4a7c15ull * (static_cast<std::uint64_t>(position) * 4096u + salt + 1u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-24f;
}

/// One row as a router sees it. Pure data: the same for every batch split and device.
struct RowContext {
  Row<const float> logits;
  int row = 0, position = 0, token = -1, rule = 0;
  std::uint64_t seed = 0;
  bool decode = false;
  const std::uint32_t *resident = nullptr, *allowed = nullptr;  // a bit per expert; null: not known, all allowed

  /// Uniform in [0, 1): a pure function of the call's seed, the row's position and `salt`.
  MOE_HD float random(std::uint32_t salt) const noexcept { return counter_random(seed, position, salt); }
  MOE_HD bool may_use(ExpertId e) const noexcept {
    return allowed == nullptr || ((allowed[e / 32] >> (e % 32)) & 1u) != 0;
  }
};

/// What one call tells the router; every pointer is optional and lies in memory M.
template <class M = host_memory>
struct RouteContext {
  const int *tokens = nullptr, *rules = nullptr, *positions = nullptr;  // [T]
  std::uint64_t seed = 0;
  bool decode = false;
  const std::uint32_t *allowed = nullptr, *resident = nullptr;  // resident is filled by the layer
  int first_row = 0;                                            // of this chunk in the whole call

  MOE_HD RowContext at(int t, Row<const float> logits) const noexcept {
    const int row = first_row + t;
    return {logits,
            row,
            positions != nullptr ? positions[t] : row,
            tokens != nullptr ? tokens[t] : -1,
            rules != nullptr ? rules[t] : 0,
            seed,
            decode,
            resident,
            allowed};
  }
  /// The context of the rows from `first` on; they keep their numbers, so that randomness does not move.
  MOE_HD RouteContext slice(int first) const noexcept {
    RouteContext c = *this;
    c.first_row += first;
    if (c.tokens != nullptr) c.tokens += first;
    if (c.rules != nullptr) c.rules += first;
    if (c.positions != nullptr) c.positions += first;
    return c;
  }
};

/// One expert's choices as an admission rule sees them, in token order.
struct Column {
  ExpertId expert = -1;
  Row<const int> entries;
  Row<Slot> slots;  // of the whole table, by entry
  int slots_per_row = 1;
  int tokens = 0;  // of the call
  std::uint64_t seed = 0;
  const int* positions = nullptr;  // [T]

  MOE_HD int size() const noexcept { return entries.size(); }
  MOE_HD int token(int i) const noexcept { return entries[i] / slots_per_row; }
  /// 0 for a token's first choice, 1 for its second.
  MOE_HD int rank(int i) const noexcept { return entries[i] % slots_per_row; }
  MOE_HD Slot& slot(int i) const noexcept { return slots[entries[i]]; }
  /// The same number as RowContext::random of that token.
  MOE_HD float random(int i, std::uint32_t salt) const noexcept {
    return counter_random(seed, positions != nullptr ? positions[token(i)] : token(i), salt);
  }
  /// The token gets nothing from this expert.
  MOE_HD void drop(int i) const noexcept { slot(i) = {-1, 0}; }
};

/// What a router cannot do without: `static constexpr Uses uses = Uses::tokens | Uses::rules`.
enum class Uses : unsigned { nothing = 0, tokens = 1, rules = 2, residency = 4, positions = 8 };
MOE_HD constexpr Uses operator|(Uses a, Uses b) {
  return static_cast<Uses>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
MOE_HD constexpr bool contains(Uses set, Uses one) {
  return (static_cast<unsigned>(set) & static_cast<unsigned>(one)) != 0;
}

// ---- by token -> by expert, on the host

/// Stable counting sort of the table into `d`; entries that are no network expert are left out. O(T K + E).
inline void group_by_expert(const RoutingTable<host_memory>& table, IdMap ids, Dispatch<host_memory>& d) noexcept {
  const int tokens = table.slots.rows, slots = table.slots.cols;
  for (int e = 0; e <= ids.networks; ++e) d.offset[e] = 0;
  const auto for_each_entry = [&](auto&& visit) {
    for (int t = 0; t < tokens; ++t)
      for (int k = 0; k < table.size(t); ++k)
        if (const ExpertId e = table.slots.row(t)[k].expert; ids.network(e)) visit(e, t, k);
  };
  for_each_entry([&](ExpertId e, int, int) { ++d.offset[e + 1]; });
  for (int e = 0; e < ids.networks; ++e) d.offset[e + 1] += d.offset[e];
  for_each_entry([&](ExpertId e, int t, int k) {
    const int i = d.offset[e]++;
    d.entry[i] = t * slots + k;
    d.row[i] = t;
  });
  for (int e = ids.networks; e > 0; --e) d.offset[e] = d.offset[e - 1];
  d.offset[0] = 0;
}

/// Share of a row's weight that lies on slots of larger weight than one slot's (or as large, and chosen earlier): 0 for
/// the first choice. HOBBIT's unimportance score (Tang et al. 2024, section 3.2).
inline float mass_ahead(Row<const Slot> row, int slot) noexcept {
  float ahead = 0, total = 0;
  for (int k = 0; k < row.size(); ++k) {
    const bool larger = row[k].weight > row[slot].weight || (row[k].weight == row[slot].weight && k < slot);
    if (larger) ahead += row[k].weight;
    total += row[k].weight;
  }
  return total > 0 ? ahead / total : ahead;
}

/// The experts that have rows, by id, with what a storage may weigh them by. `needs` has room for E.
inline std::span<ExpertNeed> collect_needs(const RoutingTable<host_memory>& table, IdMap ids,
                                           const Dispatch<host_memory>& d, ExpertNeed* needs) noexcept {
  const int slots = table.slots.cols;
  std::size_t found = 0;
  for (ExpertId e = 0; e < ids.networks; ++e) {
    const Row<const int> entries = d.entries(e);
    if (entries.empty()) continue;
    ExpertNeed need{e, entries.size(), -HUGE_VALF, HUGE_VALF};
    for (const int entry : entries) {
      const int t = entry / slots;
      const float ahead = mass_ahead(table.slots.row(t).first(table.size(t)), entry % slots);
      const float weight = table.slots.row(t)[entry % slots].weight;
      if (ahead < need.mass_ahead) need.mass_ahead = ahead;
      if (weight > need.largest_weight) need.largest_weight = weight;
    }
    needs[found++] = need;
  }
  return {needs, found};
}

}  // namespace moe

// The two tables, by token and by expert, what a router may look at, and the host's grouping of one into the other.
#pragma once

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

/// The same choices by expert: those of expert e are entry[offset[e]] .. entry[offset[e+1]], in token order.
/// An entry is token * K + slot, which is also the row of its partial output.
template <class M = host_memory>
struct Dispatch {
  int* offset = nullptr;  // [E+1]
  int* entry = nullptr;   // [T*K]
};

// ---- what a router may look at

/// One row as a router sees it. Pure data: the same for every batch split and device.
struct RowContext {
  Row<const float> logits;
  int row = 0, position = 0, token = -1, rule = 0;
  std::uint64_t seed = 0;
  bool decode = false;
  const std::uint32_t *resident = nullptr, *allowed = nullptr;  // a bit per expert; null: not known, all allowed

  /// Uniform in [0, 1) from (seed, position, salt) by splitmix64: no state, so threads and splits do not matter.
  MOE_HD float random(std::uint32_t salt) const noexcept {
    std::uint64_t z = seed + 0x9e3779b97f4a7c15ull * (static_cast<std::uint64_t>(position) * 4096u + salt + 1u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-24f;
  }
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
        if (const ExpertId e = table.slots.row(t)[k].expert; ids.network(e)) visit(e, t * slots + k);
  };
  for_each_entry([&](ExpertId e, int) { ++d.offset[e + 1]; });
  for (int e = 0; e < ids.networks; ++e) d.offset[e + 1] += d.offset[e];
  for_each_entry([&](ExpertId e, int entry) { d.entry[d.offset[e]++] = entry; });
  for (int e = ids.networks; e > 0; --e) d.offset[e] = d.offset[e - 1];
  d.offset[0] = 0;
}

/// The experts that have rows, by id, with what a storage may weigh them by. `needs` has room for E.
inline std::span<ExpertNeed> collect_needs(const RoutingTable<host_memory>& table, IdMap ids,
                                           const Dispatch<host_memory>& d, ExpertNeed* needs) noexcept {
  const int slots = table.slots.cols;
  std::size_t found = 0;
  for (ExpertId e = 0; e < ids.networks; ++e) {
    const int rows = d.offset[e + 1] - d.offset[e];
    if (rows == 0) continue;
    ExpertNeed need{e, rows, 0, 0};
    for (int i = d.offset[e]; i < d.offset[e + 1]; ++i) {
      const Row<Slot> row = table.slots.row(d.entry[i] / slots);
      const int slot = d.entry[i] % slots;
      float ahead = 0;
      for (int k = 0; k < slot; ++k) ahead += row[k].weight;
      if (i == d.offset[e] || ahead < need.mass_ahead) need.mass_ahead = ahead;
      if (i == d.offset[e] || row[slot].weight > need.largest_weight) need.largest_weight = row[slot].weight;
    }
    needs[found++] = need;
  }
  return {needs, found};
}

}  // namespace moe

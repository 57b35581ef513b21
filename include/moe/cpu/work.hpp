// What the kernels are asked to do: plain structs that cross the boundary between instruction sets.
#pragma once

#include <cstddef>

#include <moe/layout.hpp>
#include <moe/routing.hpp>

namespace moe::cpu {

/// Which rows a product reads and writes: the i-th reads in_row[i] and writes out_row[i].
struct Entries {
  Row<const int> in_row, out_row;
  int size() const noexcept { return in_row.size(); }
};

/// Some panels of one projection of one expert, over all rows that chose it. Whole panels are written: rows of `out`
/// have room for 32 columns a panel.
struct Product {
  Panels panels;
  View<const float> in;  // [., inputs]
  Entries entries;
  Row<const Slot> weights{};  // by row of `out`, what multiplies its products before the bias; empty: one
  View<float> out;            // [., 32 panels], as wide as the projection
};

/// Some outputs of a linear map for some rows: out [T,N] = in [T,H] weight [N,H]^T + bias.
struct DotProducts {
  ConstElementView<> in;        // [T,H]
  ConstElementView<> weight;    // [N,H]
  const float* bias = nullptr;  // [N]; null: none
  View<float> out;              // [T,N]
};

/// One row of the result: y = [y +] sum over slots, in slot order, of weight * partial row (or * x for identities).
struct Combine {
  Row<const Slot> slots;  // [K]
  IdMap ids;
  View<const float> partial;  // [K,H], rows padded to whole panels
  Row<const float> x;         // [H]; empty: identities read their partial rows, which hold x
  Row<float> y;               // [H]
  bool weighted = true;       // false: the weight was applied to the input
  bool add = false;
};

/// gate[i] = act(gate[i], up[i]). Kernels call a user's activation through this function, which is never inlined into
/// them: inside a region with FMA the compiler could contract its products and sums, and the bits would differ.
inline namespace MOE_BASELINE {
template <class Act>
__attribute__((noinline)) void apply_each(const Act& act, float* gate, const float* up, int n) {
  for (int i = 0; i < n; ++i) gate[i] = act(gate[i], up[i]);
}
}  // namespace MOE_BASELINE

}  // namespace moe::cpu

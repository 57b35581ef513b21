// What the kernels are asked to do: plain structs that cross the boundary between instruction sets.
#pragma once

#include <cstddef>

#include <moe/layout.hpp>
#include <moe/routing.hpp>

namespace moe::cpu {

/// Some panels of one projection of one expert, over all rows that chose it. Row i reads input row entry[i] / slots and
/// writes output row entry[i].
struct Product {
  const std::byte* panels = nullptr;  // the first one; gate and up alternate in gated projections
  std::size_t panel_bytes = 0;
  int panel_count = 0;  // output panels: a gate and its up count as one
  int inputs = 0;
  const float* bias = nullptr;  // of the first panel, in the order of the panels; null: none
  const float* in = nullptr;
  std::ptrdiff_t in_stride = 0;
  int slots = 1;  // rows of the output per row of the input
  const int* entry = nullptr;
  int rows = 0;
  const Slot* weights = nullptr;  // by entry: multiplies the products before the bias; null: one
  float* out = nullptr;           // column 0 of the first panel, row 0
  std::ptrdiff_t out_stride = 0;
};

/// One output of a linear map for several rows: out[r] = <in row r, weight> + bias.
struct DotProducts {
  const float* in = nullptr;
  std::ptrdiff_t in_stride = 0;
  int rows = 0;
  const float* weight = nullptr;
  float bias = 0;
  int inputs = 0;
  float* out = nullptr;
  std::ptrdiff_t out_stride = 0;
};

/// One row of the result: y = [y +] sum over slots, in slot order, of weight * partial row (or * x for identities).
struct Sum {
  const Slot* slots = nullptr;
  int count = 0;
  IdMap ids;
  bool weighted = true;            // false: the weight was applied to the input
  const float* partial = nullptr;  // row of the first slot
  std::ptrdiff_t stride = 0;
  const float* x = nullptr;
  float* y = nullptr;
  int columns = 0;
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

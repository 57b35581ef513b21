// Gates and dense weights of layers that are cut (pruning) or put together from two checkpoints (aggregation).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// The gate [kept, H] of a pruned checkpoint. A layer needs no copy: RemapRouter masks instead.
inline std::vector<float> gather_rows(View<const float> gate, std::span<const ExpertId> kept) {
  std::vector<float> out;
  for (const ExpertId e : kept) out.insert(out.end(), gate.row(e).begin(), gate.row(e).end());
  return out;
}

/// [a; b]: the gate of the experts of two layers (Aggregation of Experts, Kim et al. 2021). Throws Error if the widths
/// differ.
inline std::vector<float> concatenate_rows(View<const float> a, View<const float> b) {
  require_equal("moe::concatenate_rows", "columns of the second gate", a.cols, b.cols);
  std::vector<float> out;
  for (const View<const float>& gate : {a, b})
    for (int r = 0; r < gate.rows; ++r) out.insert(out.end(), gate.row(r).begin(), gate.row(r).end());
  return out;
}

/// (a + b) / 2, rounded once: what Aggregation of Experts does to the weights that every token passes. Sensible only
/// for checkpoints that share an initialisation. Throws Error if the sizes differ.
inline std::vector<float> average(std::span<const float> a, std::span<const float> b) {
  require_equal("moe::average", "weights of the second checkpoint", a.size(), b.size());
  std::vector<float> out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    out[i] = static_cast<float>((static_cast<double>(a[i]) + static_cast<double>(b[i])) / 2);
  return out;
}

}  // namespace moe

// NAEE's pruning: every subset of a few experts is tried on calibration inputs.
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

#include <moe/concepts.hpp>
#include <moe/offline/prune.hpp>

namespace moe {

struct BestSubset {
  std::vector<ExpertId> kept;  // ascending
  double loss = 0;
};

/// The subset of `keep` of `experts` experts with the smallest loss(kept); the first in lexicographic order among equal
/// ones. Throws Error for more than a million subsets.
template <class Loss>
BestSubset best_subset(int experts, int keep, const Loss& loss) {
  constexpr const char* where = "moe::best_subset";
  if (keep < 1 || keep > experts) raise(Error(where, "number to keep", concat("1 to ", experts), std::to_string(keep)));
  double subsets = 1;
  for (int i = 1; i <= keep; ++i) subsets *= static_cast<double>(experts - keep + i) / i;
  if (subsets > 1e6 + 0.5) raise(Error(where, "subsets to try", "at most 1000000", "more"));

  BestSubset found;
  std::vector<ExpertId> kept(static_cast<std::size_t>(keep));
  std::iota(kept.begin(), kept.end(), 0);
  for (;;) {
    const double value = loss(kept);
    if (found.kept.empty() || value < found.loss) found = {kept, value};
    int last = keep - 1;
    while (last >= 0 && kept[static_cast<std::size_t>(last)] == experts - keep + last) --last;
    if (last < 0) return found;
    std::iota(kept.begin() + last, kept.end(), kept[static_cast<std::size_t>(last)] + 1);
  }
}

/// The `keep` experts with which `layer` comes closest to the outputs `z` [T,H] on the inputs of `call` (its y and
/// context.allowed are not used): the smallest Frobenius norm of the difference, over all subsets, with the logits of
/// the others as minus infinity (Lu et al. 2024). Runs the layer C(E, keep) times on all rows: for small E.
template <class Layer>
BestSubset naee_exhaustive(const Layer& layer, Call<> call, View<const float> z, int keep) {
  require_equal("moe::naee_exhaustive", "rows of the outputs", call.x.rows, z.rows);
  require_equal("moe::naee_exhaustive", "columns of the outputs", call.x.cols, z.cols);
  const int experts = ids_of(layer.router()).networks;
  const int others = num_logits(layer.router()) - experts;
  std::vector<float> y(static_cast<std::size_t>(z.rows) * static_cast<std::size_t>(z.cols));
  const View<float> found(y.data(), z.rows, z.cols);
  call.y = found;
  Workspace<host_memory> workspace(layer.workspace(call.x.rows));
  return best_subset(experts, keep, [&](const std::vector<ExpertId>& kept) {
    const std::vector<std::uint32_t> mask = mask_of(kept, experts, others > 0 ? others : 0);
    call.context.allowed = mask.data();
    layer.forward(call, workspace);
    double sum = 0;
    for (int t = 0; t < z.rows; ++t)
      for (int i = 0; i < z.cols; ++i) {
        const double d = static_cast<double>(found.row(t)[i]) - static_cast<double>(z.row(t)[i]);
        sum += d * d;
      }
    return std::sqrt(sum);
  });
}

}  // namespace moe

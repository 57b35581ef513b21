// TopP: as many experts as it takes to reach a share of the probability.
#pragma once

#include <moe/routers/slots.hpp>
#include <moe/scores.hpp>

namespace moe {

/// Keeps the fewest first choices of `inner`, at least one, whose weights sum to at least `p`; all if they do not
/// (Huang et al., ACL 2024, "Harder Tasks Need More Experts", section 2.2; Li et al. 2023, cumulative probability).
/// O(`inner`) + O(picks).
///
/// `inner` gives probabilities: TopK with Score::softmax and without normalisation, and k is the most a token gets.
/// With a softmax of the picked, p is a share of theirs. The paper's weights are the probabilities as they are;
/// `normalise` divides those of the kept.
template <class Inner>
struct TopP {
  Inner inner;
  float p = 1;
  Normalisation normalise = Normalisation::none();

  MOE_HD int select(const RowContext& row, Row<Slot> out) const noexcept {
    const int picked = moe::select(inner, row, out);
    int kept = 0;
    for (float reached = 0; kept < picked && (kept == 0 || reached < p); ++kept) reached += out[kept].weight;
    normalise.apply(out.first(kept));
    return kept;
  }
};

}  // namespace moe

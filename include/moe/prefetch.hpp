// prefetch_ahead: guesses the experts of the next layers from this layer's input, one layer after another.
#pragma once

#include <iterator>
#include <utility>

#include <moe/frame.hpp>

namespace moe {

/// Calls `missing(i)` for i = 0, 1, .. below `horizon` until it returns something else than 0; returns how many it
/// asked. `missing(i)` tells the storage what the i-th next layer may want and returns how much of that was neither
/// here nor on its way, as MoELayer::prefetch does: a layer is looked at only when nothing is missing in those before
/// it (HOBBIT, Tang et al. 2024, section 3, with a horizon of 1 to 3; AdapMoE, Zhong et al. 2024, walks the same way).
template <class Missing>
int prefetch_ahead(int horizon, Missing&& missing) {
  int asked = 0;
  while (asked < horizon)
    if (missing(asked++) != 0) break;
  return asked;
}

/// The same over `layers`, those after the one that is about to run, in order: a range of layers or of pointers to them
/// (AnyLayer). `call` has the input of the running layer, normalised as its gate sees it, and no logits: each layer's
/// own gate guesses. Every layer needs a workspace of its own size; `ws` must fit the largest. Costs a gate's product a
/// layer.
template <class Layers, class M>
int prefetch_ahead(const Layers& layers, const Call<M>& call, Workspace<M>& ws, int horizon) {
  auto layer = std::begin(layers);
  const auto count = std::end(layers) - layer;
  return prefetch_ahead(count < horizon ? static_cast<int>(count) : horizon, [&](int) {
    auto&& next = *layer++;
    if constexpr (requires { next.prefetch(call, ws); })
      return next.prefetch(call, ws);
    else
      return next->prefetch(call, ws);
  });
}

}  // namespace moe

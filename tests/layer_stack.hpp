// Small layers over one cache that are all shown the same input: a later layer's gate guesses what it will choose.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "storage_fixture.hpp"

namespace layer_stack {

using Storage = moe::Cached<moe::Packed<moe::bf16>>;
using Layer = moe::MoELayer<moe::TopK, Storage, moe::Cpu>;

inline constexpr moe::ExpertShape shape{16, 8};
inline constexpr int experts = 8, layers = 4;

struct Stack {
  explicit Stack(int slots, moe::Prefetch prefetch = moe::Prefetch::enforce, moe::AnyEviction eviction = moe::Lru{})
      : cache({.bytes = static_cast<std::size_t>(slots) *
                        moe::round_up(moe::PanelLayout::record_bytes<moe::bf16>(shape), moe::page_alignment),
               .prefetch = prefetch},
              std::move(eviction)) {
    for (unsigned l = 0; l < layers; ++l) {
      weights.push_back(std::make_unique<fixture::RandomExperts>(shape, experts, l));
      inputs.push_back(std::make_unique<fixture::Inputs>(1, shape.hidden, experts, 10 + l));
      all.emplace_back(inputs[l]->linear(), moe::TopK{.experts = experts, .k = 2},
                       Storage(cache, weights[l]->packed<moe::bf16>()), moe::Cpu{.threads = 1});
    }
  }
  moe::Call<> call() const { return {.x = inputs[0]->view()}; }
  std::span<const Layer> after(int layer) const { return std::span(all).subspan(static_cast<std::size_t>(layer) + 1); }
  std::vector<float> run(int layer) const {
    std::vector<float> y(static_cast<std::size_t>(shape.hidden));
    moe::Workspace ws(all[static_cast<std::size_t>(layer)].workspace(1));
    moe::Call<> c = call();
    c.y = {y.data(), 1, shape.hidden};
    all[static_cast<std::size_t>(layer)].forward(c, ws);
    return y;
  }
  int prefetch_after(int layer, int horizon) const {
    moe::Workspace ws(all[0].workspace(1));
    return moe::prefetch_ahead(after(layer), call(), ws, horizon);
  }

  std::vector<std::unique_ptr<fixture::RandomExperts>> weights;
  std::vector<std::unique_ptr<fixture::Inputs>> inputs;
  moe::ExpertCache cache;
  std::vector<Layer> all;
};

}  // namespace layer_stack

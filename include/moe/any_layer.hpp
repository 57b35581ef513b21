// AnyLayer: a layer behind three virtual functions.
#pragma once

#include <memory>
#include <utility>

#include <moe/layer/observer.hpp>

namespace moe {

/// A layer whose policies are not in its type: for hosts whose layers differ, and for seams between compilers.
template <class M = host_memory>
struct AnyLayer {
  virtual ~AnyLayer() = default;
  virtual void forward(const Call<M>&, Workspace<M>&) const = 0;
  virtual int prefetch(const Call<M>&, Workspace<M>&) const = 0;
  virtual WorkspaceSize workspace(int max_tokens) const = 0;
};

namespace detail {
template <class Layer, class Observer>
class ErasedLayer final : public AnyLayer<typename Layer::memory> {
 public:
  using M = typename Layer::memory;
  ErasedLayer(Layer layer, Observer observer) : layer_(std::move(layer)), observer_(std::move(observer)) {}
  void forward(const Call<M>& call, Workspace<M>& ws) const override { layer_.forward(call, ws, observer_); }
  int prefetch(const Call<M>& call, Workspace<M>& ws) const override { return layer_.prefetch(call, ws); }
  WorkspaceSize workspace(int max_tokens) const override { return layer_.workspace(max_tokens); }

 private:
  Layer layer_;
  Observer observer_;
};
}  // namespace detail

/// Moves a layer behind AnyLayer; an observer is bound here, for every call.
template <class Layer, class Observer = NoObserver>
std::unique_ptr<AnyLayer<typename Layer::memory>> erase(Layer layer, Observer observer = {}) {
  return std::make_unique<detail::ErasedLayer<Layer, Observer>>(std::move(layer), std::move(observer));
}

}  // namespace moe

// MoeStack: the feed-forwards of all layers of a model, each one a moe::MoELayer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <moe/any_layer.hpp>
#include <moe/io/checkpoint.hpp>
#include <vector>

#include "dense.hpp"
#include "offloading.hpp"
#include "options.hpp"
#include "policy.hpp"

namespace engine {

class Guesser;

/// How often the experts of one layer were picked.
struct LayerLoad {
  int layer = 0;
  std::int64_t tokens = 0;
  std::vector<std::int64_t> picks;  // [E]
};

using LoadProgress = std::function<void(int done, int total)>;
/// Sees the routing of every call of the layers with experts.
using RoutingObserver = std::function<void(int layer, const moe::Frame<>& frame)>;

/// Layers without experts (Qwen3) are MoE layers with one expert that every token picks with weight 1.
/// One sequence at a time: the layers share counters.
class MoeStack {
 public:
  /// With `nulls`, the checkpoint has the gates of null experts too.
  MoeStack(std::shared_ptr<const moe::io::Checkpoint> checkpoint, const Options& options, const TrainedNulls& nulls,
           const LoadProgress& progress = {});

  Format format() const noexcept { return format_; }
  const TrainedNulls& nulls() const noexcept { return nulls_; }
  const Policy& policy() const noexcept { return policy_; }
  /// From now on experts are chosen so; no weight is read again. Throws moe::Error for a policy that does not fit the
  /// model, and keeps the one before. Not while a call runs.
  void set_policy(const Policy& policy);

  /// For calls of up to `tokens` tokens, whatever the layer.
  moe::WorkspaceSize workspace(int tokens) const;
  /// A new text: what caches and predictors count by sequence begins anew.
  void begin_sequence() const;
  /// The layers are about to run for the tokens of `context`, those of `streams` copies of one text.
  void begin_pass(int tokens, int streams, const moe::RouteContext<>& context) const;
  /// All layers ran; `outputs` [S,H] are those of the newest token of each stream, after the last norm, and `context`
  /// is of the tokens that come next.
  void end_pass(ConstRows outputs, moe::Workspace<>& workspace, const moe::RouteContext<>& context) const;
  /// The seed of `context` is mixed with the layer, so that layers throw different coins.
  void forward(int layer, ConstRows x, Rows y, moe::Workspace<>& workspace, moe::RouteContext<> context = {}) const;
  /// One observer; an empty one ends it.
  void observe(RoutingObserver observer) { *observer_ = std::move(observer); }

  /// Of the layers with experts, since construction or `reset_loads`.
  const std::vector<LayerLoad>& loads() const noexcept { return loads_; }
  void reset_loads();
  /// Picks per token and layer, on average over all layers with experts.
  double experts_per_token() const;
  const Offloading& offloading() const noexcept { return *offloading_; }
  StorageFigures storage_figures() const;

 private:
  using Maker = std::function<std::unique_ptr<moe::AnyLayer<>>(PolicyRouter)>;
  using Bits = std::vector<std::uint32_t>;

  template <class F>
  void add_layers(const LoadProgress& progress);
  template <class Storage>
  void add_expert_layer(int layer, Storage storage, LayerLoad& load);
  template <class F>
  std::unique_ptr<moe::AnyLayer<>> dense_layer(int layer);
  moe::RouteContext<> context_of(int layer, moe::RouteContext<> context) const;
  void guess(int layer, ConstRows x, moe::Workspace<>& workspace, const moe::RouteContext<>& context) const;

  std::shared_ptr<const moe::io::Checkpoint> checkpoint_;
  moe::Cpu cpu_;
  Format format_;
  std::unique_ptr<const Offloading> offloading_;
  std::shared_ptr<Guesser> guesser_;  // null: nobody guesses
  std::uint64_t resident_bytes_ = 0;
  std::vector<LayerLoad> loads_;
  TrainedNulls nulls_;
  Policy policy_;
  std::unique_ptr<RoutingObserver> observer_ = std::make_unique<RoutingObserver>();
  std::vector<Matrix> gates_;  // [layer]
  std::vector<Maker> makers_;  // [layer]; empty for layers without experts
  std::vector<Bits> allowed_;  // [layer] experts that the policy may choose; empty: all
  std::vector<std::unique_ptr<moe::AnyLayer<>>> layers_;
};

}  // namespace engine

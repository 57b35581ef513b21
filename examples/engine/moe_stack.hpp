// MoeStack: the feed-forwards of all layers of a model, each one a moe::MoELayer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <moe/io/checkpoint.hpp>
#include <moe/any_layer.hpp>
#include <moe/storage/cached.hpp>
#include <optional>
#include <vector>

#include "dense.hpp"
#include "options.hpp"

namespace engine {

/// How often the experts of one layer were picked.
struct LayerLoad {
  int layer = 0;
  std::int64_t tokens = 0;
  std::vector<std::int64_t> picks;  // [E]
};

/// What the storage of the experts did.
struct StorageFigures {
  std::uint64_t hits = 0, misses = 0;  // of a cache
  std::uint64_t bytes_read = 0;        // records brought into memory, when they were loaded or when they were missed
  std::uint64_t bytes_held = 0;
  std::uint64_t stalls = 0;
};

using LoadProgress = std::function<void(int done, int total)>;

/// Layers without experts (Qwen3) are MoE layers with one expert that every token picks with weight 1.
/// One sequence at a time: the layers share counters.
class MoeStack {
 public:
  MoeStack(std::shared_ptr<const moe::io::Checkpoint> checkpoint, const Options& options,
           const LoadProgress& progress = {});

  Format format() const noexcept { return format_; }
  /// For calls of up to `tokens` tokens, whatever the layer.
  moe::WorkspaceSize workspace(int tokens) const;
  void forward(int layer, ConstRows x, Rows y, moe::Workspace<>& workspace) const;

  /// Of the layers with experts, since construction or `reset_loads`.
  const std::vector<LayerLoad>& loads() const noexcept { return loads_; }
  void reset_loads();
  /// Picks per token and layer, on average over all layers with experts.
  double experts_per_token() const;
  StorageFigures storage_figures() const;

 private:
  template <class F>
  void add_layers(const LoadProgress& progress);
  template <class F>
  std::unique_ptr<moe::AnyLayer<>> expert_layer(int layer, LayerLoad& load);
  template <class F>
  std::unique_ptr<moe::AnyLayer<>> dense_layer(int layer);

  std::shared_ptr<const moe::io::Checkpoint> checkpoint_;
  moe::Cpu cpu_;
  Format format_;
  std::optional<moe::ExpertCache<>> cache_;
  std::uint64_t resident_bytes_ = 0;
  std::vector<LayerLoad> loads_;
  std::vector<Matrix> gates_;  // [layer]
  std::vector<std::unique_ptr<moe::AnyLayer<>>> layers_;
};

}  // namespace engine

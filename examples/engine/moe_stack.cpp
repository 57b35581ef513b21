#include "moe_stack.hpp"

#include <algorithm>
#include <moe/storage/background.hpp>
#include <moe/storage/resident.hpp>
#include <numeric>
#include <span>
#include <utility>

#include "adamoe.hpp"
#include "families.hpp"
#include "sampling.hpp"
#include "shared_storage.hpp"

namespace engine {

namespace {

/// Counts the picks of every call, and shows it to who asked.
struct Watch {
  LayerLoad* load;
  const RoutingObserver* observer;

  void routed(const moe::Frame<>& frame) const {
    load->tokens += frame.dims.tokens;
    for (std::size_t e = 0; e < load->picks.size(); ++e) {
      load->picks[e] += frame.dispatch.entries(static_cast<moe::ExpertId>(e)).size();
    }
    if (*observer) (*observer)(load->layer, frame);
  }
};

}  // namespace

MoeStack::MoeStack(std::shared_ptr<const moe::io::Checkpoint> checkpoint, const Options& options,
                   const TrainedNulls& nulls, const LoadProgress& progress)
    : checkpoint_(std::move(checkpoint)),
      cpu_(options.cpu),
      format_(options.format.value_or(format_of(checkpoint_->default_format()))),
      nulls_(nulls) {
  if (options.storage.cache_bytes) cache_.emplace(moe::CacheOptions{.bytes = *options.storage.cache_bytes});
  with_format(format_, [&]<class F>(std::type_identity<F>) { add_layers<F>(progress); });
  set_policy(AsTrained{});
}

template <class F>
void MoeStack::add_layers(const LoadProgress& progress) {
  const moe::io::ModelConfig& config = checkpoint_->config();
  const auto layers = static_cast<std::size_t>(config.layers);
  gates_.resize(layers);
  makers_.resize(layers);
  layers_.resize(layers);
  loads_.reserve(layers);  // observers keep pointers
  for (int layer = 0; layer < config.layers; ++layer) {
    if (progress) progress(layer, config.layers);
    if (config.is_moe_layer(layer)) {
      loads_.push_back({layer, 0, std::vector<std::int64_t>(static_cast<std::size_t>(config.experts))});
      add_expert_layer<F>(layer, loads_.back());
    } else {
      layers_[static_cast<std::size_t>(layer)] = dense_layer<F>(layer);
    }
  }
}

template <class F>
void MoeStack::add_expert_layer(int layer, LayerLoad& load) {
  Matrix& gate = gates_[static_cast<std::size_t>(layer)];
  gate = gate_with_nulls(*checkpoint_, layer, nulls_);
  const auto make_over = [&]<class S>(S storage) {
    const auto shared = std::make_shared<const S>(std::move(storage));
    makers_[static_cast<std::size_t>(layer)] = [=, view = std::as_const(gate).view(), cpu = cpu_,
                                                watch = Watch{&load, observer_.get()}](PolicyRouter router) {
      return moe::erase(moe::MoELayer{moe::Linear{view}, std::move(router), SharedStorage<S>{shared}, cpu}, watch);
    };
  };
  moe::io::CheckpointExperts<F> source(checkpoint_, layer);
  if (cache_) return make_over(moe::Cached{*cache_, moe::Background{std::move(source)}});
  moe::Resident storage{source};
  resident_bytes_ += storage.bytes_held();
  make_over(std::move(storage));
}

template <class F>
std::unique_ptr<moe::AnyLayer<>> MoeStack::dense_layer(int layer) {
  const moe::io::ModelConfig& config = checkpoint_->config();
  Matrix& gate = gates_[static_cast<std::size_t>(layer)];
  gate = Matrix(1, config.hidden);
  const moe::io::ExpertTensors tensors = checkpoint_->dense(layer);
  moe::Resident storage{moe::Packed<F>({config.hidden, config.dense_ffn}, std::span(&tensors.matrices(), 1))};
  resident_bytes_ += storage.bytes_held();
  return moe::erase(moe::MoELayer{moe::Linear{std::as_const(gate).view()}, moe::TopK{.experts = 1, .k = 1},
                                  std::move(storage), cpu_});
}

moe::WorkspaceSize MoeStack::workspace(int tokens) const {
  moe::WorkspaceSize size;
  for (const auto& layer : layers_) size = max(size, layer->workspace(tokens));
  return size;
}

void MoeStack::set_policy(const Policy& policy) {
  const moe::io::ModelConfig& config = checkpoint_->config();
  const moe::TopK trained = router_of(config);
  std::vector<std::unique_ptr<moe::AnyLayer<>>> made(layers_.size());
  std::vector<Bits> allowed(layers_.size());
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!makers_[i]) continue;
    const int layer = static_cast<int>(i);
    made[i] = makers_[i](router_for(policy, trained, nulls_, layer));
    allowed[i] = allowed_experts(policy, config, layer);
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (makers_[i]) layers_[i] = std::move(made[i]);
  }
  allowed_ = std::move(allowed);
  policy_ = policy;
}

void MoeStack::forward(int layer, ConstRows x, Rows y, moe::Workspace<>& workspace, moe::RouteContext<> context) const {
  const auto i = static_cast<std::size_t>(layer);
  context.seed = SplitMix64(context.seed + i).next();
  if (!allowed_[i].empty()) context.allowed = allowed_[i].data();
  layers_[i]->forward({.x = x, .y = y, .context = context}, workspace);
}

void MoeStack::reset_loads() {
  for (LayerLoad& load : loads_) {
    load.tokens = 0;
    std::fill(load.picks.begin(), load.picks.end(), 0);
  }
}

double MoeStack::experts_per_token() const {
  std::int64_t picks = 0, tokens = 0;
  for (const LayerLoad& load : loads_) {
    picks = std::accumulate(load.picks.begin(), load.picks.end(), picks);
    tokens += load.tokens;
  }
  return tokens == 0 ? 0.0 : static_cast<double>(picks) / static_cast<double>(tokens);
}

StorageFigures MoeStack::storage_figures() const {
  StorageFigures figures{.bytes_read = resident_bytes_, .bytes_held = resident_bytes_};
  if (cache_) {
    const moe::CacheStatistics cache = cache_->statistics();
    figures.hits = cache.hits;
    figures.misses = cache.misses;
    figures.bytes_read += cache.bytes_read;
    figures.bytes_held += cache_->bytes_held();
    figures.stalls = cache.stalls;
  }
  return figures;
}

}  // namespace engine

#include "moe_stack.hpp"

#include <algorithm>
#include <moe/layer.hpp>
#include <moe/prefetch.hpp>
#include <numeric>
#include <span>
#include <utility>

#include "adamoe.hpp"
#include "block_weights.hpp"
#include "expert_storages.hpp"
#include "guesser.hpp"
#include "sampling.hpp"
#include "shared_storage.hpp"

namespace engine {

namespace {

/// Counts the picks of every call, and shows it to who learns from it and to who asked.
struct Watch {
  LayerLoad* load;
  Guesser* guesser;
  const RoutingObserver* observer;

  void routed(const moe::Frame<>& frame) const {
    load->tokens += frame.dims.tokens;
    for (std::size_t e = 0; e < load->picks.size(); ++e) {
      load->picks[e] += frame.dispatch.entries(static_cast<moe::ExpertId>(e)).size();
    }
    if (guesser != nullptr) guesser->routed(load->layer, frame);
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
  with_format(format_, [&]<class F>(std::type_identity<F>) {
    offloading_ =
        std::make_unique<const Offloading>(options.storage, sizes_of_experts<F>(*checkpoint_, options.storage));
    if (offloading_->guesses())
      guesser_ = std::make_shared<Guesser>(options.storage, checkpoint_->config(),
                                           checkpoint_->config().experts() + nulls_.count, cpu_);
    add_layers<F>(progress);
  });
  set_policy(AsTrained{});
}

template <class F>
void MoeStack::add_layers(const LoadProgress& progress) {
  const moe::io::ModelConfig& config = checkpoint_->config();
  const auto layers = static_cast<std::size_t>(config.layers());
  gates_.resize(layers);
  makers_.resize(layers);
  layers_.resize(layers);
  loads_.reserve(layers);  // observers keep pointers
  const ExpertStorages<F> storages(checkpoint_, *offloading_);
  for (int layer = 0; layer < config.layers(); ++layer) {
    if (progress) progress(layer, config.layers());
    if (config.is_moe_layer(layer)) {
      loads_.push_back({layer, 0, std::vector<std::int64_t>(static_cast<std::size_t>(config.experts()))});
      storages.with_storage(layer, static_cast<int>(loads_.size()) - 1, [&]<class Storage>(Storage storage) {
        if constexpr (requires { storage.bytes_held(); }) resident_bytes_ += storage.bytes_held();
        add_expert_layer(layer, std::move(storage), loads_.back());
      });
    } else {
      layers_[static_cast<std::size_t>(layer)] = dense_layer<F>(layer);
    }
  }
}

template <class Storage>
void MoeStack::add_expert_layer(int layer, Storage storage, LayerLoad& load) {
  Matrix& gate = gates_[static_cast<std::size_t>(layer)];
  gate = gate_with_nulls(*checkpoint_, layer, nulls_);
  const auto shared = std::make_shared<const Storage>(std::move(storage));
  makers_[static_cast<std::size_t>(layer)] = [=, view = std::as_const(gate).view(), cpu = cpu_,
                                              watch =
                                                  Watch{&load, guesser_.get(), observer_.get()}](PolicyRouter router) {
    return moe::erase(moe::MoELayer{moe::Linear{view}, std::move(router), SharedStorage<Storage>{shared}, cpu}, watch);
  };
}

template <class F>
std::unique_ptr<moe::AnyLayer<>> MoeStack::dense_layer(int layer) {
  const moe::io::ModelConfig& config = checkpoint_->config();
  Matrix& gate = gates_[static_cast<std::size_t>(layer)];
  gate = Matrix(1, config.hidden());
  const moe::io::ExpertTensors tensors = checkpoint_->dense(layer);
  moe::Resident storage{moe::Packed<F>({config.hidden(), config.blocks.dense_ffn}, std::span(&tensors.matrices(), 1))};
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
  std::vector<std::unique_ptr<moe::AnyLayer<>>> made(layers_.size());
  std::vector<Bits> allowed(layers_.size());
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!makers_[i]) continue;
    const int layer = static_cast<int>(i);
    made[i] = makers_[i](router_for(policy, top_k_of(checkpoint_->blocks().router, layer), nulls_, layer));
    allowed[i] = allowed_experts(policy, config, layer);
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (makers_[i]) layers_[i] = std::move(made[i]);
  }
  allowed_ = std::move(allowed);
  policy_ = policy;
}

void MoeStack::begin_sequence() const {
  offloading_->begin_sequence();
  if (guesser_) guesser_->begin_sequence();
}

void MoeStack::begin_pass(int tokens, int streams, const moe::RouteContext<>& context) const {
  if (guesser_) guesser_->begin_pass({context.tokens, tokens}, streams, *offloading_->cache());
}

void MoeStack::end_pass(ConstRows outputs, moe::Workspace<>& workspace, const moe::RouteContext<>& context) const {
  if (!guesser_) return;
  const ConstRows logits = guesser_->logits_of_next(outputs);
  if (logits.cols > 0)
    layers_[0]->prefetch({.x = outputs, .logits = logits, .context = context_of(0, context)}, workspace);
}

void MoeStack::forward(int layer, ConstRows x, Rows y, moe::Workspace<>& workspace, moe::RouteContext<> context) const {
  if (guesser_) guess(layer, x, workspace, context);
  layers_[static_cast<std::size_t>(layer)]->forward({.x = x, .y = y, .context = context_of(layer, context)}, workspace);
}

/// As long as all that is guessed for a layer is there, the next one is guessed for too.
void MoeStack::guess(int layer, ConstRows x, moe::Workspace<>& workspace, const moe::RouteContext<>& context) const {
  moe::prefetch_ahead(guesser_->count_after(layer), [&](int ahead) {
    const int next = guesser_->first_after(layer) + ahead;
    return layers_[static_cast<std::size_t>(next)]->prefetch(
        {.x = x, .logits = guesser_->logits(next), .context = context_of(next, context)}, workspace);
  });
}

moe::RouteContext<> MoeStack::context_of(int layer, moe::RouteContext<> context) const {
  const auto i = static_cast<std::size_t>(layer);
  context.seed = SplitMix64(context.seed + i).next();
  if (!allowed_[i].empty()) context.allowed = allowed_[i].data();
  return context;
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
  StorageFigures figures = offloading_->figures();
  figures.bytes_read += resident_bytes_;
  figures.bytes_held += resident_bytes_;
  return figures;
}

}  // namespace engine

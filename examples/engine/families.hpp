// The one place that knows how the families differ in their mixture-of-experts block.
#pragma once

#include <memory>
#include <moe/any_layer.hpp>
#include <moe/io/model_config.hpp>
#include <moe/models.hpp>
#include <utility>

namespace engine {

/// Who picks the experts in the layers of this model.
inline moe::TopK router_of(const moe::io::ModelConfig& c) {
  namespace models = moe::models;
  using moe::io::Family;
  switch (c.family) {
    case Family::mixtral:
      return models::router(models::mixtral(c.hidden, c.expert_ffn, c.experts, c.experts_per_token));
    case Family::qwen3_moe:
      return models::router(
          models::qwen3_moe(c.hidden, c.expert_ffn, c.experts, c.experts_per_token, c.norm_topk_prob));
    case Family::olmoe:
      return models::router(models::olmoe(c.hidden, c.expert_ffn, c.experts, c.experts_per_token, c.norm_topk_prob));
  }
  moe::raise(moe::Error("engine::router_of: a family without a router"));
}

/// The block of one layer as the family defines it, over any storage and executor. `gate` and what it views outlive the
/// layer; `observer` sees every call.
template <class Storage, class Executor, class Observer>
std::unique_ptr<moe::AnyLayer<>> make_block(const moe::io::ModelConfig& config, moe::View<const float> gate,
                                            Storage storage, Executor executor, Observer observer) {
  return moe::erase(moe::MoELayer{moe::Linear{gate}, router_of(config), std::move(storage), std::move(executor)},
                    observer);
}

}  // namespace engine

// How the families that the engine runs as whole models route; for the blocks of all families see block.hpp.
#pragma once

#include <moe/io/model_config.hpp>
#include <moe/models.hpp>

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

}  // namespace engine

// One alias and one spec per model family.
#pragma once

#include <moe/executors/cpu.hpp>
#include <moe/layer.hpp>
#include <moe/routers/top_k.hpp>

namespace moe::models {

/// The numbers of one family's layer.
struct Spec {
  int hidden = 0, ffn = 0, experts = 0, k = 0;
  Score score = Score::softmax;
  Normalisation normalise = Normalisation::none();
  float scale = 1;
};

constexpr TopK router(const Spec& s) {
  return {.experts = s.experts, .k = s.k, .score = s.score, .normalise = s.normalise, .scale = s.scale};
}

/// Softmax over all experts, the picked weights renormalised.
constexpr Spec mixtral(int hidden, int ffn, int experts = 8, int k = 2) {
  return {hidden, ffn, experts, k, Score::softmax_of_picked};
}
/// As Mixtral where `norm_topk_prob` holds (all shipped models), else as OLMoE.
constexpr Spec qwen3_moe(int hidden, int ffn, int experts, int k, bool norm_topk_prob = true) {
  return {hidden, ffn, experts, k, norm_topk_prob ? Score::softmax_of_picked : Score::softmax};
}
/// Softmax over all experts, the picked weights as they are.
constexpr Spec olmoe(int hidden, int ffn, int experts, int k, bool norm_topk_prob = false) {
  return qwen3_moe(hidden, ffn, experts, k, norm_topk_prob);
}

inline constexpr Spec mixtral_8x7b = mixtral(4096, 14336);
inline constexpr Spec qwen3_30b_a3b = qwen3_moe(2048, 768, 128, 8);
inline constexpr Spec olmoe_1b_7b = olmoe(2048, 1024, 64, 8);

template <class Storage, class Executor = Cpu>
using Mixtral = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Qwen3Moe = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Olmoe = MoELayer<TopK, Storage, Executor>;

}  // namespace moe::models

// One alias and one spec per model family.
#pragma once

#include <moe/executors/cpu.hpp>
#include <moe/layer.hpp>
#include <moe/routers/capacity.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/sparse_mixer.hpp>
#include <moe/routers/token_table.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/resident.hpp>

namespace moe::models {

/// The numbers of one family's layer; weights, biases and tables come from the host application.
struct Spec {
  int hidden = 0, ffn = 0, experts = 0, k = 0;
  Score score = Score::softmax;
  Normalisation normalise = Normalisation::none();
  float scale = 1;
  int shared_ffn = 0;  // width of the shared experts together; 0: none
  GroupLimit groups{};
  int identities = 0, nulls = 0;
  WeightOn weight_on = WeightOn::output;
  float output_scale = 1;
  int latent = 0;  // width in which the experts work, if not `hidden`
};

/// Throws Error, as the layer does, if the spec asks for what cannot be (`TopK::check`). `bias` and `expert_scale` hold
/// one number per choosable id, or are empty.
constexpr TopK router(const Spec& s, Row<const float> bias = {}, Row<const float> expert_scale = {}) {
  return {.experts = s.experts,
          .k = s.k,
          .score = s.score,
          .normalise = s.normalise,
          .scale = s.scale,
          .bias = {bias},
          .groups = s.groups,
          .expert_scale = expert_scale,
          .identities = s.identities,
          .nulls = s.nulls};
}
template <class Activation>
constexpr ExpertForm<Activation> form(const Spec& s, Activation activation = {}) {
  return {.act = activation, .weight_on = s.weight_on, .output_scale = s.output_scale};
}

// ---- specs, by family

/// Softmax over all experts, the picked weights renormalised. Also MiniMax-M1, Jamba's and Phi's widths aside.
constexpr Spec mixtral(int hidden, int ffn, int experts = 8, int k = 2) {
  return {hidden, ffn, experts, k, Score::softmax_of_picked};
}
/// Softmax over all experts, the picked weights as they are unless `norm_topk_prob`; a sigmoid-gated shared expert.
constexpr Spec qwen2_moe(int hidden, int ffn, int experts, int k, int shared_ffn, bool norm_topk_prob = false) {
  Spec s{hidden, ffn, experts, k, norm_topk_prob ? Score::softmax_of_picked : Score::softmax};
  s.shared_ffn = shared_ffn;
  return s;
}
/// As Mixtral where `norm_topk_prob` holds (all shipped models), else as OLMoE.
constexpr Spec qwen3_moe(int hidden, int ffn, int experts, int k, bool norm_topk_prob = true) {
  return qwen2_moe(hidden, ffn, experts, k, 0, norm_topk_prob);
}
/// As Qwen2-MoE, renormalised. Qwen3.5-MoE too.
constexpr Spec qwen3_next(int hidden, int ffn, int experts, int k, int shared_ffn) {
  return qwen2_moe(hidden, ffn, experts, k, shared_ffn, true);
}
/// Softmax over all experts, the picked weights as they are. FlexOlmo and Jamba too.
constexpr Spec olmoe(int hidden, int ffn, int experts, int k, bool norm_topk_prob = false) {
  return qwen3_moe(hidden, ffn, experts, k, norm_topk_prob);
}
/// Softmax; experts of the groups with the best single expert; scaled, not renormalised.
constexpr Spec deepseek_v2(int hidden, int ffn, int experts, int k, int shared_ffn, float scale, int groups = 1,
                           int kept = 1) {
  return {.hidden = hidden,
          .ffn = ffn,
          .experts = experts,
          .k = k,
          .scale = scale,
          .shared_ffn = shared_ffn,
          .groups = {groups, kept, GroupLimit::By::maximum, GroupLimit::Others::zero}};
}
/// Sigmoid with a selection bias; experts of the groups with the two best; renormalised and scaled. Kimi-K2, GLM-4.5,
/// dots1, EXAONE-MoE; with one group LFM2, AFMoE, Hunyuan v3, MiniMax-M2 (scale 1).
constexpr Spec deepseek_v3(int hidden, int ffn, int experts, int k, int shared_ffn, float scale, int groups = 1,
                           int kept = 1, float epsilon = 1e-20f) {
  return {.hidden = hidden,
          .ffn = ffn,
          .experts = experts,
          .k = k,
          .score = Score::sigmoid,
          .normalise = Normalisation::by_sum(epsilon),
          .scale = scale,
          .shared_ffn = shared_ffn,
          .groups = {groups, kept, GroupLimit::By::two_best, GroupLimit::Others::excluded}};
}
/// sqrt(softplus) with a selection bias; the first layers take their experts from a table by token id.
constexpr Spec deepseek_v4(int hidden, int ffn, int experts, int k, int shared_ffn, float scale) {
  Spec s = deepseek_v3(hidden, ffn, experts, k, shared_ffn, scale);
  s.score = Score::sqrt_softplus;
  return s;
}
/// Softmax over the picked logits. Granite-MoE and Aria (shared) too.
constexpr Spec gpt_oss(int hidden, int ffn, int experts, int k, int shared_ffn = 0) {
  Spec s{hidden, ffn, experts, k, Score::softmax_of_picked};
  s.shared_ffn = shared_ffn;
  return s;
}
/// The sigmoid of the picked logit multiplies the expert's input.
constexpr Spec llama4(int hidden, int ffn, int experts, int k, int shared_ffn) {
  return {.hidden = hidden,
          .ffn = ffn,
          .experts = experts,
          .k = k,
          .score = Score::sigmoid,
          .shared_ffn = shared_ffn,
          .weight_on = WeightOn::input};
}
/// Softmax, divided by the L_p norm of the picked.
constexpr Spec dbrx(int hidden, int ffn, int experts, int k, float power = 1) {
  return {hidden, ffn, experts, k, Score::softmax, Normalisation::by_norm(power)};
}
/// Softmax with a selection bias, divided by the sum, which is at least `norm_min`.
constexpr Spec ernie4_5(int hidden, int ffn, int experts, int k, int shared_ffn, float norm_min = 1e-12f) {
  Spec s{hidden, ffn, experts, k, Score::softmax, Normalisation::by_sum(0, norm_min)};
  s.shared_ffn = shared_ffn;
  return s;
}
/// Softmax with a selection bias over experts and identities; scaled, not renormalised.
constexpr Spec longcat(int hidden, int ffn, int experts, int identities, int k, float scale) {
  return {.hidden = hidden, .ffn = ffn, .experts = experts, .k = k, .scale = scale, .identities = identities};
}
/// As DeepSeek-V3 with one group, the scale on the routed output. Step-3.5 too.
constexpr Spec minimax_m3(int hidden, int ffn, int experts, int k, int shared_ffn, float scale) {
  Spec s = deepseek_v3(hidden, ffn, experts, k, shared_ffn, 1, 1, 1, 0);
  s.output_scale = scale;
  return s;
}
/// As DeepSeek-V3, ungated experts, in a latent width if there is one.
constexpr Spec nemotron_h(int hidden, int ffn, int experts, int k, int shared_ffn, float scale, int latent = 0) {
  Spec s = deepseek_v3(hidden, ffn, experts, k, shared_ffn, scale);
  s.latent = latent;
  return s;
}
/// Softmax with a selection bias over experts and one class that adds nothing.
constexpr Spec zaya(int hidden, int ffn, int experts, int k = 1) {
  return {.hidden = hidden, .ffn = ffn, .experts = experts, .k = k, .nulls = 1};
}
/// Softmax, the best expert, its probability as the weight.
constexpr Spec switch_transformer(int hidden, int ffn, int experts) { return {hidden, ffn, experts, 1}; }
/// Softmax, two experts renormalised, the output scaled for the dropout of training.
constexpr Spec nllb(int hidden, int ffn, int experts, float token_dropout = 0.2f) {
  Spec s{hidden, ffn, experts, 2, Score::softmax, Normalisation::by_sum(0, 0x1p-23f)};
  s.output_scale = 1 - token_dropout;
  return s;
}

// ---- published models

inline constexpr Spec mixtral_8x7b = mixtral(4096, 14336);
inline constexpr Spec qwen1_5_moe_a2_7b = qwen2_moe(2048, 1408, 60, 4, 5632);
inline constexpr Spec qwen3_30b_a3b = qwen3_moe(2048, 768, 128, 8);
inline constexpr Spec qwen3_next_80b = qwen3_next(2048, 512, 512, 10, 512);
inline constexpr Spec qwen3_5_35b_a3b = qwen3_next(2048, 512, 256, 8, 512);
inline constexpr Spec olmoe_1b_7b = olmoe(2048, 1024, 64, 8);
inline constexpr Spec deepseek_v2_lite = deepseek_v2(2048, 1408, 64, 6, 2816, 1);
inline constexpr Spec deepseek_v3_671b = deepseek_v3(7168, 2048, 256, 8, 2048, 2.5f, 8, 4);
inline constexpr Spec kimi_k2 = deepseek_v3(7168, 2048, 384, 8, 2048, 2.827f);
inline constexpr Spec glm_4_5_air = deepseek_v3(4096, 1408, 128, 8, 1408, 1);
inline constexpr Spec deepseek_v4_flash = deepseek_v4(4096, 2048, 256, 6, 2048, 1.5f);
inline constexpr Spec gpt_oss_20b = gpt_oss(2880, 2880, 32, 4);
inline constexpr Spec gpt_oss_120b = gpt_oss(2880, 2880, 128, 4);
inline constexpr Spec llama4_scout = llama4(5120, 8192, 16, 1, 8192);
inline constexpr Spec dbrx_132b = dbrx(6144, 10752, 16, 4);
inline constexpr Spec phi_3_5_moe = mixtral(4096, 6400, 16, 2);  // sizes; its router is SparseMixer
inline constexpr Spec minimax_m2 = deepseek_v3(3072, 1536, 256, 8, 0, 1, 1, 1, 0);
inline constexpr Spec longcat_flash = longcat(6144, 2048, 512, 256, 12, 6);
inline constexpr Spec ernie_4_5_21b = ernie4_5(2560, 1536, 64, 6, 3072);
inline constexpr Spec lfm2_8b_a1b = deepseek_v3(2048, 1792, 32, 4, 0, 1, 1, 1, 1e-6f);
inline constexpr Spec zaya_8b = zaya(2048, 2048, 16);

// ---- layers, by family. Shared experts are resident, in the formats of the routed ones' storage

template <class Storage>
using ResidentLike = Resident<typename Storage::layout, typename Storage::formats>;
template <class Storage, class Mixing = AddShared, class Activation = SwiGlu>
using SharedLike = SharedExperts<ResidentLike<Storage>, Mixing, ExpertForm<Activation>>;
/// A routed layer of gated experts, with shared experts added unless `Shared` says otherwise.
template <class Storage, class Executor, class Activation = SwiGlu,
          class Shared = SharedLike<Storage, AddShared, Activation>, class Router = TopK>
using Layer = MoELayer<Router, Storage, Executor, ExpertForm<Activation>, Linear<>, Shared>;

template <class Storage, class Executor = Cpu>
using Mixtral = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Qwen2Moe = Layer<Storage, Executor, SwiGlu, SharedLike<Storage, SigmoidShared<>>>;
template <class Storage, class Executor = Cpu>
using Qwen3Moe = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Qwen3Next = Qwen2Moe<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Qwen35Moe = Qwen2Moe<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Olmoe = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using FlexOlmo = Olmoe<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using DeepSeekV2 = Layer<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using DeepSeekV3 = Layer<Storage, Executor>;  // Kimi-K2, GLM-4.5, dots1, EXAONE-MoE, AFMoE, Hunyuan v3
template <class Storage, class Executor = Cpu>
using DeepSeekV4 = Layer<Storage, Executor, InputClampedSwiGlu>;
template <class Storage, class Executor = Cpu>
using DeepSeekV4Hash =
    Layer<Storage, Executor, InputClampedSwiGlu, SharedLike<Storage, AddShared, InputClampedSwiGlu>, TokenTable<TopK>>;
template <class Storage, class Executor = Cpu>
using GptOss = Layer<Storage, Executor, GptOssSwiGlu, NoShared>;
template <class Storage, class Executor = Cpu>
using Llama4 = Layer<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Dbrx = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using PhiMoe = Layer<Storage, Executor, SwiGlu, NoShared, SparseMixer>;
template <class Storage, class Executor = Cpu>
using GraniteMoe = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using GraniteMoeShared = Layer<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Jamba = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using MiniMaxM2 = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using MiniMaxM3 = Layer<Storage, Executor, GptOssSwiGlu>;
template <class Storage, class Executor = Cpu>
using Hunyuan = Layer<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Ernie45 = Layer<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using LongCat = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Afmoe = Layer<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Lfm2Moe = MoELayer<TopK, Storage, Executor>;
template <class Storage, class Executor = Cpu>
using NemotronH = Layer<Storage, Executor, SquaredRelu>;
template <class Storage, class Executor = Cpu>
using NemotronHLatent = MoELayer<TopK, Storage, Executor, ExpertForm<SquaredRelu, Latent<>>, Linear<>,
                                 SharedLike<Storage, AddShared, SquaredRelu>>;
template <class Storage, class Executor = Cpu>
using Gemma4 = MoELayer<TopK, Storage, Executor, ExpertForm<GeGluTanh>, NormalisedLinear<>>;
template <class Storage, class Executor = Cpu>
using Step35 = Layer<Storage, Executor, OutputClampedSwiGlu>;
template <class Storage, class Executor = Cpu>
using Aria = Layer<Storage, Executor>;
template <class Storage, class Executor = Cpu>
using Zaya = MoELayer<TopK, Storage, Executor, ExpertForm<SwiGlu>, CarriedMlp<>>;
template <class Storage, class Executor = Cpu>
using Switch = Layer<Storage, Executor, Relu, NoShared, Capacity<TopK>>;
template <class Storage, class Executor = Cpu>
using Nllb = Layer<Storage, Executor, Relu, NoShared>;
template <class Storage, class Executor = Cpu>
using AdaMoe = Layer<Storage, Executor, SwiGlu, NoShared, NullExperts<TopK>>;
template <class Storage, class Executor = Cpu>
using PrMoe = Layer<Storage, Executor, GeluTanh, SharedLike<Storage, LearnedMix<>, GeluTanh>>;

}  // namespace moe::models

// Published models as specs, and one alias per family for the layer that computes them.
#pragma once

#include <moe/executors/cpu.hpp>
#include <moe/layer.hpp>
#include <moe/models/rules.hpp>
#include <moe/routers/capacity.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/sparse_mixer.hpp>
#include <moe/routers/token_table.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/resident.hpp>

namespace moe::models {

/// The numbers of one model's layers; weights, biases and tables come from the host application.
struct Spec {
  Rule rule{};
  int hidden = 0, ffn = 0, experts = 0, k = 1;
  float scale = 1;           // of the weights
  int shared_ffn = 0;        // width of the shared experts together; 0: none
  int groups = 1, kept = 1;  // as GroupLimit has them
  int identities = 0, nulls = 0;
  float output_scale = 1;
  int latent = 0;  // width in which the experts work, if not `hidden`
};

/// Throws Error, as the layer does, if the spec asks for what cannot be (`TopK::check`). `bias` and `expert_scale` hold
/// one number per choosable id, or are empty.
constexpr TopK router(const Spec& s, Row<const float> bias = {}, Row<const float> expert_scale = {}) {
  return {.experts = s.experts,
          .k = s.k,
          .score = s.rule.score,
          .normalise = s.rule.normalise,
          .scale = s.scale,
          .bias = {bias},
          .groups = {s.groups, s.kept, s.rule.groups_by, s.rule.other_groups},
          .expert_scale = expert_scale,
          .identities = s.identities,
          .nulls = s.nulls};
}
template <class Activation>
constexpr ExpertForm<Activation> form(const Spec& s, Activation activation = {}) {
  return {.act = activation, .weight_on = s.rule.weight_on, .output_scale = s.output_scale};
}

// ---- published models

inline constexpr Spec mixtral_8x7b{.rule = rules::mixtral, .hidden = 4096, .ffn = 14336, .experts = 8, .k = 2};
inline constexpr Spec qwen1_5_moe_a2_7b{
    .rule = rules::qwen2_moe, .hidden = 2048, .ffn = 1408, .experts = 60, .k = 4, .shared_ffn = 5632};
inline constexpr Spec qwen3_30b_a3b{.rule = rules::qwen3_moe, .hidden = 2048, .ffn = 768, .experts = 128, .k = 8};
inline constexpr Spec qwen3_next_80b{
    .rule = rules::qwen3_moe, .hidden = 2048, .ffn = 512, .experts = 512, .k = 10, .shared_ffn = 512};
inline constexpr Spec qwen3_5_35b_a3b{
    .rule = rules::qwen3_moe, .hidden = 2048, .ffn = 512, .experts = 256, .k = 8, .shared_ffn = 512};
inline constexpr Spec olmoe_1b_7b{.rule = rules::olmoe, .hidden = 2048, .ffn = 1024, .experts = 64, .k = 8};
inline constexpr Spec deepseek_v2_lite{
    .rule = rules::deepseek_v2, .hidden = 2048, .ffn = 1408, .experts = 64, .k = 6, .shared_ffn = 2816};
inline constexpr Spec deepseek_v3_671b{.rule = rules::deepseek_v3,
                                       .hidden = 7168,
                                       .ffn = 2048,
                                       .experts = 256,
                                       .k = 8,
                                       .scale = 2.5f,
                                       .shared_ffn = 2048,
                                       .groups = 8,
                                       .kept = 4};
inline constexpr Spec kimi_k2{.rule = rules::deepseek_v3,
                              .hidden = 7168,
                              .ffn = 2048,
                              .experts = 384,
                              .k = 8,
                              .scale = 2.827f,
                              .shared_ffn = 2048};
inline constexpr Spec glm_4_5_air{
    .rule = rules::deepseek_v3, .hidden = 4096, .ffn = 1408, .experts = 128, .k = 8, .shared_ffn = 1408};
inline constexpr Spec deepseek_v4_flash{
    .rule = rules::deepseek_v4, .hidden = 4096, .ffn = 2048, .experts = 256, .k = 6, .scale = 1.5f, .shared_ffn = 2048};
inline constexpr Spec gpt_oss_20b{.rule = rules::gpt_oss, .hidden = 2880, .ffn = 2880, .experts = 32, .k = 4};
inline constexpr Spec gpt_oss_120b{.rule = rules::gpt_oss, .hidden = 2880, .ffn = 2880, .experts = 128, .k = 4};
inline constexpr Spec llama4_scout{
    .rule = rules::llama4, .hidden = 5120, .ffn = 8192, .experts = 16, .k = 1, .shared_ffn = 8192};
inline constexpr Spec dbrx_132b{.rule = rules::dbrx, .hidden = 6144, .ffn = 10752, .experts = 16, .k = 4};
/// Sizes; its router is SparseMixer.
inline constexpr Spec phi_3_5_moe{.rule = rules::mixtral, .hidden = 4096, .ffn = 6400, .experts = 16, .k = 2};
inline constexpr Spec minimax_m2{.rule = rules::minimax_m2, .hidden = 3072, .ffn = 1536, .experts = 256, .k = 8};
inline constexpr Spec longcat_flash{
    .rule = rules::longcat, .hidden = 6144, .ffn = 2048, .experts = 512, .k = 12, .scale = 6, .identities = 256};
inline constexpr Spec ernie_4_5_21b{
    .rule = rules::ernie4_5, .hidden = 2560, .ffn = 1536, .experts = 64, .k = 6, .shared_ffn = 3072};
inline constexpr Spec lfm2_8b_a1b{.rule = rules::lfm2_moe, .hidden = 2048, .ffn = 1792, .experts = 32, .k = 4};
inline constexpr Spec zaya_8b{.rule = rules::zaya, .hidden = 2048, .ffn = 2048, .experts = 16, .k = 1, .nulls = 1};

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

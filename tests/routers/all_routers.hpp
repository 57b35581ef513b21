// Every router that decides row by row, with typical options for twelve logits, and which laws it promises beside those
// for all. No test framework here: CUDA sources read it too.
#pragma once

#include <moe/routers/capacity.hpp>
#include <moe/routers/exit.hpp>
#include <moe/routers/expert_skip.hpp>
#include <moe/routers/hash.hpp>
#include <moe/routers/mixed_experts.hpp>
#include <moe/routers/noisy.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/relu.hpp>
#include <moe/routers/remap.hpp>
#include <moe/routers/residency.hpp>
#include <moe/routers/self_contrast.hpp>
#include <moe/routers/sensitivity_skip.hpp>
#include <moe/routers/sparse_k.hpp>
#include <moe/routers/sparse_mixer.hpp>
#include <moe/routers/token_table.hpp>
#include <moe/routers/top_any.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/routers/top_p.hpp>

namespace all_routers {

struct Promises {
  bool descends = true;   // in weight
  bool by_logits = true;  // ties to the lower id; permuting the experts permutes the choices
  bool fills = true;      // max_slots choices out of any logits
};
inline constexpr Promises varies{true, true, false};  // 0 to max_slots choices
inline constexpr Promises free{false, false, false};

inline constexpr float biases[12] = {0, .5f, 0, -.5f, 0, 1, 0, -1, 0, .25f, 0, -.25f};
inline constexpr float thresholds[12] = {0, .5f, 0, -.5f, 0, 1, 0, -1, 0, .25f, 0, -.25f};
inline constexpr int merged[12] = {4, 0, -1, 1, 2, 2, 3, 0, 5, 6, 7, -1};
inline constexpr int token_experts[8] = {0, 1, 5, 5, 2, 0, 11, 4};  // [4 tokens, 2]

/// Calls f(name, router, promises) for each.
template <class F>
void for_each(F&& f) {
  using namespace moe;
  const TopK top3{.experts = 12, .k = 3};
  const TopK probabilities{.experts = 12, .k = 4, .score = Score::softmax};
  const Normalisation by_sum = Normalisation::by_sum();

  f("TopK", top3, Promises{});
  f("TopK, softmax", probabilities, Promises{});
  f("TopK, sigmoid by sum", TopK{.experts = 12, .k = 3, .score = Score::sigmoid, .normalise = by_sum}, Promises{});
  f("TopK, sqrt softplus", TopK{.experts = 12, .k = 3, .score = Score::sqrt_softplus, .normalise = by_sum}, Promises{});
  f("TopK with a bias", TopK{.experts = 12, .k = 3, .score = Score::sigmoid, .bias = {{biases, 12}, BiasOn::score}},
    free);
  f("TopK in groups", TopK{.experts = 12, .k = 3, .score = Score::sigmoid, .groups = {.count = 4, .kept = 2}},
    Promises{false, false, true});
  f("TopK with identities", TopK{.experts = 8, .k = 3, .identities = 4}, Promises{});

  f("NullExperts", NullExperts<TopK>{{.experts = 8, .k = 3}, 4, 3}, Promises{true, false, false});
  f("NullExperts, shifted", NullExperts<TopK>{{.experts = 8, .k = 3}, 4, 3, 1.5f}, Promises{true, false, false});
  f("NullExperts, identity", NullExperts<TopK>{{.experts = 8, .k = 3}, 4, 3, 0, Null::identity}, Promises{});
  f("MixedExperts", MixedExperts<TopK>{top3, 2, 2, 1}, Promises{true, false, false});
  f("SensitivitySkip", SensitivitySkip<TopK>{top3, 0.25f}, varies);
  f("TopP", TopP<TopK>{probabilities, 0.7f}, varies);
  f("ExpertSkip", ExpertSkip<TopK>{top3, 0.4f}, varies);
  f("SkipAbsent", SkipAbsent<TopK>{top3, 0.4f}, varies);
  f("PreferResident", PreferResident<TopK>{top3, 1.5f}, Promises{false, false, true});
  f("ExitRouter", ExitRouter<TopK>{{.experts = 11, .k = 3}}, Promises{true, false, false});
  f("TopAny", TopAny{12, {thresholds, 12}}, Promises{true, false, false});
  f("ReluRouter", ReluRouter{12}, varies);
  f("ReluRouter, logarithm", ReluRouter{12, 4, true}, varies);
  f("SparseK", SparseK{.experts = 12, .k = 3}, varies);
  f("SparseK, hard", SparseK{.experts = 12, .k = 3, .most = 3}, varies);
  f("SparseMixer", SparseMixer{12}, Promises{false, true, true});
  f("HashRouter", HashRouter{12}, Promises{true, false, true});
  f("TokenTable", TokenTable<TopK>{{.experts = 12, .k = 2}, {token_experts, 4, 2}}, Promises{false, false, true});
  f("Noisy", Noisy<TopK>{.inner = top3, .training = true}, Promises{false, false, true});
  f("SelfContrast", SelfContrast<TopK>{top3, {StreamRule::top(3), StreamRule::rank(2)}}, Promises{true, false, false});
  f("Capacity", Capacity<TopK>{.inner = top3}, Promises{});
  f("RemapRouter", RemapRouter<TopK>{top3, {merged, 12}, 8}, free);
  f("PartRouter", PartRouter<TopK>{top3, 4}, Promises{true, false, true});

  f("ExpertSkip of NullExperts", ExpertSkip<NullExperts<TopK>>{{{.experts = 8, .k = 3}, 4, 3}, 0.3f},
    Promises{true, false, false});
  f("SkipAbsent of RemapRouter of PartRouter",
    SkipAbsent<RemapRouter<PartRouter<TopK>>>{{{top3, 4}, {merged, 12}, 8}, 0.3f}, free);
  f("ExitRouter of SensitivitySkip of MixedExperts",
    ExitRouter<SensitivitySkip<MixedExperts<TopK>>>{{{{.experts = 11, .k = 3}, 2, 1, 1}, 0.2f}},
    Promises{true, false, false});
}

}  // namespace all_routers

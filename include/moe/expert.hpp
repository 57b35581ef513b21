// What one expert is: its id, shape, matrices and form (activation, where the weight applies).
#pragma once

#include <cstddef>
#include <cstdint>

#include <moe/activations.hpp>
#include <moe/tensor.hpp>

namespace moe {

using ExpertId = std::int32_t;

// ---- sets of experts, as bits: [pieces(E, 32)] words

MOE_HD inline bool has_expert(const std::uint32_t* set, ExpertId e) noexcept {
  return ((set[e / 32] >> (e % 32)) & 1u) != 0;
}
MOE_HD inline void add_expert(std::uint32_t* set, ExpertId e) noexcept { set[e / 32] |= 1u << (e % 32); }
/// `set` becomes that of the ids in [0, experts) for which is(e) holds.
template <class Is>
void fill_experts(std::uint32_t* set, int experts, const Is& is) noexcept {
  for (int word = 0; word < pieces(experts, 32); ++word) set[word] = 0;
  for (ExpertId e = 0; e < experts; ++e)
    if (is(e)) add_expert(set, e);
}

/// Ids in [0, networks) are experts with weights, the next `identities` return their input;
/// every other id, negative ones too, adds nothing and costs nothing.
struct IdMap {
  int networks = 0;
  int identities = 0;
  MOE_HD constexpr bool network(ExpertId e) const noexcept { return e >= 0 && e < networks; }
  MOE_HD constexpr bool identity(ExpertId e) const noexcept { return e >= networks && e < networks + identities; }
};

/// Widths of one expert: hidden -> ffn -> hidden; gated experts have two matrices into ffn.
struct ExpertShape {
  int hidden = 0;
  int ffn = 0;
  bool gated = true;
  bool biased = false;
  friend constexpr bool operator==(const ExpertShape&, const ExpertShape&) = default;
};

/// One expert's weights as a checkpoint holds them, before packing: gate and up [F, H], down [H, F].
/// Biases are null where `ExpertShape::biased` is false; `gate` is empty for ungated experts.
struct ExpertMatrices {
  Matrix gate, up, down;
  const float *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;  // [F], [F], [H]
};

/// What one call wants of one expert.
struct ExpertNeed {
  ExpertId expert = -1;
  std::int32_t rows = 0;     // rows of the batch that chose it
  float largest_weight = 0;  // over those rows
  float mass_ahead = 0;      // smallest share of a row's weight that precedes it (HOBBIT's unimportance)
  std::int32_t lowest = 0;   // least precise format that serves it, negative: it may be skipped; set by the storage
};

/// What kernels see of one expert: its record in the layout of the storage; null bytes mean "skipped by choice".
struct ExpertRef {
  ExpertId expert = -1;
  std::int32_t format = 0;
  const std::byte* bytes = nullptr;
};

// ---- expert form

enum class WeightOn { output, input };

/// Experts work on the layer's own width.
struct NoEnvelope {};

/// Nothing happens to the layer's output.
struct PlainOutput {};

/// How an expert computes: down(activation(gate x, up x)), with the routing weight on its output or its input.
template <class A, class Env = NoEnvelope, class Output = PlainOutput>
struct ExpertForm {
  using activation = A;
  A act{};
  WeightOn weight_on = WeightOn::output;
  float output_scale = 1;     // multiplies the routed output, before shared experts are added (Step, MiniMax-M3, NLLB)
  float expert_norm_eps = 0;  // above 0: each expert's output is divided by its root mean square (Muse-Spark)
  Env envelope{};
  Output output{};

  template <class F>
  void tables(F&& f) {
    if constexpr (requires { envelope.tables(f); }) envelope.tables(f);
    if constexpr (requires { output.tables(f); }) output.tables(f);
  }
};

}  // namespace moe

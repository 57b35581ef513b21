// The activations that experts ship with: how the gate and up products of one hidden unit become one number.
//
// A family's numbers are members with the published values as defaults. Every activation also has a vector form in
// cpu/activations.inl that gives the same bits.
#pragma once

#include <cmath>
#include <concepts>
#include <type_traits>

#include <moe/math.hpp>

namespace moe {

/// An activation combines the gate and up products of one hidden unit; ungated ones ignore `gate`.
// clang-format off
template <class A>
concept Activation = std::is_trivially_copyable_v<A> && requires(const A a, float v) {
  { A::gated } -> std::convertible_to<bool>;
  { a(v, v) } noexcept -> std::same_as<float>;
};
// clang-format on

/// max(0, x); 0 for NaN.
MOE_HD inline float relu(float x) noexcept { return x > 0 ? x : 0.0f; }

/// The smaller of x and the limit; NaN stays NaN.
MOE_HD inline float at_most(float limit, float x) noexcept { return limit < x ? limit : x; }

/// x moved into [-limit, limit]; NaN stays NaN.
MOE_HD inline float clamp_magnitude(float x, float limit) noexcept {
  x = at_most(limit, x);
  return -limit > x ? -limit : x;
}

// ---- gated

/// silu(gate) * up (Shazeer 2020, "GLU Variants Improve Transformer").
struct SwiGlu {
  static constexpr bool gated = true;
  MOE_HD float operator()(float gate, float up) const noexcept { return silu(gate) * up; }
};

/// gelu(gate) * up with the exact error function (Shazeer 2020).
struct GeGlu {
  static constexpr bool gated = true;
  MOE_HD float operator()(float gate, float up) const noexcept { return gelu(gate) * up; }
};

/// gelu_tanh(gate) * up: Gemma-4, Grok.
struct GeGluTanh {
  static constexpr bool gated = true;
  MOE_HD float operator()(float gate, float up) const noexcept { return gelu_tanh(gate) * up; }
};

/// max(0, gate) * up (Shazeer 2020): SmallThinker.
struct ReGlu {
  static constexpr bool gated = true;
  MOE_HD float operator()(float gate, float up) const noexcept { return relu(gate) * up; }
};

/// silu(min(gate, limit)) * clamp(up, +-limit), limits on what goes into silu: DeepSeek-V4, GLM-5-next.
/// The same key of a configuration (`swiglu_limit`) means OutputClampedSwiGlu in other families.
struct InputClampedSwiGlu {
  static constexpr bool gated = true;
  float limit = 10;
  MOE_HD float operator()(float gate, float up) const noexcept {
    return silu(at_most(limit, gate)) * clamp_magnitude(up, limit);
  }
};

/// min(silu(gate), limit) * clamp(up, +-limit), limits on what comes out of silu: Step-3.5, by layer; 0 means none.
struct OutputClampedSwiGlu {
  static constexpr bool gated = true;
  float limit = 0;
  /// The limit in force: infinite where there is none.
  MOE_HD float bound() const noexcept { return limit > 0 ? limit : HUGE_VALF; }
  MOE_HD float operator()(float gate, float up) const noexcept {
    return at_most(bound(), silu(gate)) * clamp_magnitude(up, bound());
  }
};

/// (u + up_offset) * g * sigmoid(alpha g) with g = min(gate, limit) and u = clamp(up, +-limit): GPT-OSS, MiniMax-M3.
struct GptOssSwiGlu {
  static constexpr bool gated = true;
  float alpha = 1.702f;
  float limit = 7;
  float up_offset = 1;
  MOE_HD float operator()(float gate, float up) const noexcept {
    const float g = at_most(limit, gate);
    return (clamp_magnitude(up, limit) + up_offset) * (g / (1.0f + exp(-alpha * g)));
  }
};

/// softcap(gate) * sigmoid(gate) * softcap(up) with softcap(x) = cap * tanh(x / cap); the sigmoid sees the gate as it
/// came: Inkling-2.
struct SoftcappedSwiGlu {
  static constexpr bool gated = true;
  float gate_cap = 4;
  float up_cap = 25;
  MOE_HD float operator()(float gate, float up) const noexcept {
    return gate_cap * tanh(gate / gate_cap) * sigmoid(gate) * (up_cap * tanh(up / up_cap));
  }
};

// ---- ungated

/// max(0, up): the experts of Switch and NLLB.
struct Relu {
  static constexpr bool gated = false;
  MOE_HD float operator()(float, float up) const noexcept { return relu(up); }
};

/// max(0, up)^2 (So et al. 2021, "Primer"): Nemotron-H.
struct SquaredRelu {
  static constexpr bool gated = false;
  MOE_HD float operator()(float, float up) const noexcept { return relu(up) * relu(up); }
};

/// gelu(up) with the exact error function: Nomic-BERT-MoE.
struct Gelu {
  static constexpr bool gated = false;
  MOE_HD float operator()(float, float up) const noexcept { return gelu(up); }
};

/// gelu_tanh(up).
struct GeluTanh {
  static constexpr bool gated = false;
  MOE_HD float operator()(float, float up) const noexcept { return gelu_tanh(up); }
};

/// silu(up).
struct Silu {
  static constexpr bool gated = false;
  MOE_HD float operator()(float, float up) const noexcept { return silu(up); }
};

// ---- chosen when the program runs

/// Any of the gated activations above, for engines that read the family from a file. Gives the bits of the activation
/// it stands for; costs a branch per vector of hidden units, little beside the products.
///
///   moe::AnyGated{.kind = moe::AnyGated::Kind::gpt_oss, .gpt_oss = {.limit = 5}}
struct AnyGated {
  enum class Kind { swiglu, geglu, geglu_tanh, reglu, input_clamped, output_clamped, gpt_oss, softcapped };
  static constexpr bool gated = true;

  Kind kind = Kind::swiglu;
  // The numbers of the kinds that have some; only those of `kind` count.
  InputClampedSwiGlu input_clamped{};
  OutputClampedSwiGlu output_clamped{};
  GptOssSwiGlu gpt_oss{};
  SoftcappedSwiGlu softcapped{};

  MOE_HD float operator()(float gate, float up) const noexcept {
    switch (kind) {
      case Kind::swiglu:
        return SwiGlu{}(gate, up);
      case Kind::geglu:
        return GeGlu{}(gate, up);
      case Kind::geglu_tanh:
        return GeGluTanh{}(gate, up);
      case Kind::reglu:
        return ReGlu{}(gate, up);
      case Kind::input_clamped:
        return input_clamped(gate, up);
      case Kind::output_clamped:
        return output_clamped(gate, up);
      case Kind::gpt_oss:
        return gpt_oss(gate, up);
      case Kind::softcapped:
        return softcapped(gate, up);
    }
    return SwiGlu{}(gate, up);
  }
};

/// Any of the ungated activations above; see AnyGated.
struct AnyUngated {
  enum class Kind { relu, squared_relu, gelu, gelu_tanh, silu };
  static constexpr bool gated = false;

  Kind kind = Kind::relu;

  MOE_HD float operator()(float gate, float up) const noexcept {
    switch (kind) {
      case Kind::relu:
        return Relu{}(gate, up);
      case Kind::squared_relu:
        return SquaredRelu{}(gate, up);
      case Kind::gelu:
        return Gelu{}(gate, up);
      case Kind::gelu_tanh:
        return GeluTanh{}(gate, up);
      case Kind::silu:
        return Silu{}(gate, up);
    }
    return Relu{}(gate, up);
  }
};

}  // namespace moe

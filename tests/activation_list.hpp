// Every shipped activation, with the numbers that some take, for tests that run over all of them.
#pragma once

#include <moe/activations.hpp>
#include <type_traits>

/// Calls f(act) for every gated activation, those with numbers with several; not for AnyGated.
template <class F>
void for_gated(const F& f) {
  f(moe::SwiGlu{});
  f(moe::GeGlu{});
  f(moe::GeGluTanh{});
  f(moe::ReGlu{});
  f(moe::InputClampedSwiGlu{});
  f(moe::InputClampedSwiGlu{.limit = 0.75f});
  f(moe::OutputClampedSwiGlu{});
  f(moe::OutputClampedSwiGlu{.limit = 3});
  f(moe::GptOssSwiGlu{});
  f(moe::GptOssSwiGlu{.alpha = 0.9f, .limit = 2, .up_offset = 0});
  f(moe::SoftcappedSwiGlu{});
  f(moe::SoftcappedSwiGlu{.gate_cap = 0.3f, .up_cap = 1.1f});
}
template <class F>
void for_ungated(const F& f) {
  f(moe::Relu{});
  f(moe::SquaredRelu{});
  f(moe::Gelu{});
  f(moe::GeluTanh{});
  f(moe::Silu{});
}

// The same activation as one that is chosen when the program runs.
using AnyGatedKind = moe::AnyGated::Kind;
using AnyUngatedKind = moe::AnyUngated::Kind;
inline moe::AnyGated any(const moe::SwiGlu&) { return {.kind = AnyGatedKind::swiglu}; }
inline moe::AnyGated any(const moe::GeGlu&) { return {.kind = AnyGatedKind::geglu}; }
inline moe::AnyGated any(const moe::GeGluTanh&) { return {.kind = AnyGatedKind::geglu_tanh}; }
inline moe::AnyGated any(const moe::ReGlu&) { return {.kind = AnyGatedKind::reglu}; }
inline moe::AnyGated any(const moe::InputClampedSwiGlu& a) {
  return {.kind = AnyGatedKind::input_clamped, .input_clamped = a};
}
inline moe::AnyGated any(const moe::OutputClampedSwiGlu& a) {
  return {.kind = AnyGatedKind::output_clamped, .output_clamped = a};
}
inline moe::AnyGated any(const moe::GptOssSwiGlu& a) { return {.kind = AnyGatedKind::gpt_oss, .gpt_oss = a}; }
inline moe::AnyGated any(const moe::SoftcappedSwiGlu& a) { return {.kind = AnyGatedKind::softcapped, .softcapped = a}; }
inline moe::AnyUngated any(const moe::Relu&) { return {.kind = AnyUngatedKind::relu}; }
inline moe::AnyUngated any(const moe::SquaredRelu&) { return {.kind = AnyUngatedKind::squared_relu}; }
inline moe::AnyUngated any(const moe::Gelu&) { return {.kind = AnyUngatedKind::gelu}; }
inline moe::AnyUngated any(const moe::GeluTanh&) { return {.kind = AnyUngatedKind::gelu_tanh}; }
inline moe::AnyUngated any(const moe::Silu&) { return {.kind = AnyUngatedKind::silu}; }

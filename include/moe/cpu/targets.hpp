// Opens one target region per instruction set and includes its primitives and the kernels into it; detection and
// choice.
//
// Everything that the regions need is included before the first of them: a header first seen inside a region would emit
// its inline functions with that region's instructions, and the linker may hand those to code that must run without.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include <moe/cpu/work.hpp>
#include <moe/error.hpp>

#if defined(__x86_64__)
#define MOE_X86 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define MOE_X86 0
#endif

namespace moe::cpu {
inline namespace MOE_BASELINE {
namespace scalar {
// clang-format off
#include <moe/cpu/scalar.inl>
#include <moe/cpu/activations.inl>
#include <moe/cpu/kernels.inl>
// clang-format on
}  // namespace scalar
}  // namespace MOE_BASELINE
}  // namespace moe::cpu

#if MOE_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace moe::cpu {
inline namespace MOE_BASELINE {
namespace avx2 {
// clang-format off
#include <moe/cpu/avx2.inl>
#include <moe/cpu/activations.inl>
#include <moe/cpu/kernels.inl>
// clang-format on
}  // namespace avx2
}  // namespace MOE_BASELINE
}  // namespace moe::cpu
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
namespace moe::cpu {
inline namespace MOE_BASELINE {
namespace avx512 {
// clang-format off
#include <moe/cpu/avx512.inl>
#include <moe/cpu/activations.inl>
#include <moe/cpu/kernels.inl>
// clang-format on
}  // namespace avx512
}  // namespace MOE_BASELINE
}  // namespace moe::cpu
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // MOE_X86

namespace moe {

/// Instruction sets, ascending. All give the same bits.
enum class Isa { scalar, avx2, avx512 };

constexpr std::string_view isa_name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : (isa == Isa::avx2 ? "avx2" : "scalar");
}

namespace cpu {

inline bool supports(Isa isa) noexcept {
  if (isa == Isa::scalar) return true;
#if MOE_X86
  // No name in clang 14. Asked once: under a hypervisor the instruction costs many microseconds.
  static const bool f16c = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
  }();
  const bool avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

/// The instruction set of that name; throws Error if there is none or this machine lacks it.
inline Isa isa_from_name(std::string_view name) {
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (name != isa_name(isa)) continue;
    if (!supports(isa)) raise(Error("moe::Cpu", "instruction set", "one that this machine has", std::string(name)));
    return isa;
  }
  raise(Error("moe::Cpu", "instruction set", "scalar, avx2 or avx512", std::string(name)));
}

/// The best that this machine has, or what the environment variable MOE_ISA names.
inline Isa best_isa() {
  if (const char* forced = std::getenv("MOE_ISA"); forced != nullptr && *forced != '\0') return isa_from_name(forced);
  if (supports(Isa::avx512)) return Isa::avx512;
  return supports(Isa::avx2) ? Isa::avx2 : Isa::scalar;
}

inline namespace MOE_BASELINE {

template <class F, class Act>
using UpKernel = void (*)(const Product&, const Act&);
using DownKernel = void (*)(const Product&);
using DotKernel = void (*)(const DotProducts&);
using CombineKernel = void (*)(const Combine&);
using WidenKernel = void (*)(const ConstElementView<>&, const View<float>&);
using NarrowKernel = void (*)(const View<const float>&, const ElementView<>&);

template <class F, class Act>
UpKernel<F, Act> up_kernel([[maybe_unused]] Isa isa) {
#if MOE_X86
  if (isa == Isa::avx512) return avx512::up<F, Act>;
  if (isa == Isa::avx2) return avx2::up<F, Act>;
#endif
  return scalar::up<F, Act>;
}
template <class F>
DownKernel down_kernel([[maybe_unused]] Isa isa) {
#if MOE_X86
  if (isa == Isa::avx512) return avx512::down<F>;
  if (isa == Isa::avx2) return avx2::down<F>;
#endif
  return scalar::down<F>;
}
inline DotKernel dot_kernel([[maybe_unused]] Isa isa) {
#if MOE_X86
  if (isa == Isa::avx512) return avx512::dot;
  if (isa == Isa::avx2) return avx2::dot;
#endif
  return scalar::dot;
}
inline CombineKernel combine_kernel([[maybe_unused]] Isa isa) {
#if MOE_X86
  if (isa == Isa::avx512) return avx512::combine;
  if (isa == Isa::avx2) return avx2::combine;
#endif
  return scalar::combine;
}

inline WidenKernel widen_kernel([[maybe_unused]] Isa isa) {
#if MOE_X86
  if (isa == Isa::avx512) return avx512::widen;
  if (isa == Isa::avx2) return avx2::widen;
#endif
  return scalar::widen;
}
inline NarrowKernel narrow_kernel([[maybe_unused]] Isa isa) {
#if MOE_X86
  if (isa == Isa::avx512) return avx512::narrow;
  if (isa == Isa::avx2) return avx2::narrow;
#endif
  return scalar::narrow;
}

}  // namespace MOE_BASELINE
}  // namespace cpu
}  // namespace moe

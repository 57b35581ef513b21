// The instruction sets: which there are, which of them this machine has, and their kernels. Adding one is one .inl,
// which opens its own target region, and one row.
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

// clang-format off
#include <moe/cpu/scalar.inl>
#include <moe/cpu/avx2.inl>
#include <moe/cpu/avx512.inl>
// clang-format on

namespace moe {

/// Instruction sets, ascending. All give the same bits.
#define MOE_INSTRUCTION_SETS(row) row(scalar) row(avx2) row(avx512)

enum class Isa {
#define MOE_ENUMERATOR(name) name,
  MOE_INSTRUCTION_SETS(MOE_ENUMERATOR)
#undef MOE_ENUMERATOR
};

namespace cpu {

/// One row: `kernels` is a value of the type that has them.
template <class Kernels>
struct InstructionSet {
  Isa isa;
  std::string_view name;
  bool (*here)() noexcept;
  Kernels kernels;
};

/// Calls f(row) for all rows, ascending.
template <class Function>
constexpr void for_each_isa(const Function& f) {
#define MOE_VISIT(name) f(InstructionSet<name::Kernels>{Isa::name, #name, &name::here, {}});
  MOE_INSTRUCTION_SETS(MOE_VISIT)
#undef MOE_VISIT
}
/// f(row) for the row of `isa`.
template <class Result, class Function>
constexpr Result of_isa(Isa isa, const Function& f) {
  Result result{};
  for_each_isa([&](const auto& row) {
    if (row.isa == isa) result = f(row);
  });
  return result;
}

}  // namespace cpu

#undef MOE_INSTRUCTION_SETS

constexpr std::string_view isa_name(Isa isa) {
  return cpu::of_isa<std::string_view>(isa, [](const auto& row) { return row.name; });
}

namespace cpu {

inline bool supports(Isa isa) noexcept {
  return of_isa<bool>(isa, [](const auto& row) { return row.here(); });
}

/// The instruction set of that name; throws Error if there is none or this machine lacks it.
inline Isa isa_from_name(std::string_view name) {
  bool known = false;
  Isa found{};
  std::string names;
  for_each_isa([&](const auto& row) {
    names += concat(names.empty() ? "" : ", ", row.name);
    if (row.name != name) return;
    known = true;
    found = row.isa;
  });
  if (!known) raise(Error("moe::Cpu", "instruction set", concat("one of ", names), std::string(name)));
  if (!supports(found)) raise(Error("moe::Cpu", "instruction set", "one that this machine has", std::string(name)));
  return found;
}

/// The best that this machine has, or what the environment variable MOE_ISA names.
inline Isa best_isa() {
  if (const char* forced = std::getenv("MOE_ISA"); forced != nullptr && *forced != '\0') return isa_from_name(forced);
  Isa best{};
  for_each_isa([&](const auto& row) {
    if (row.here()) best = row.isa;
  });
  return best;
}

inline namespace MOE_BASELINE {

/// The kernel that `choose` takes from the kernels of `isa`.
template <class Kernel, class Choose>
Kernel kernel_of(Isa isa, const Choose& choose) {
  return of_isa<Kernel>(isa, [&](const auto& row) { return choose(row.kernels); });
}

template <class F, class Act>
using UpKernel = void (*)(const Product&, const Act&);
using DownKernel = void (*)(const Product&);
using DotKernel = void (*)(const DotProducts&);
using CombineKernel = void (*)(const Combine&);
using WidenKernel = void (*)(const ConstElementView<>&, const View<float>&);
using NarrowKernel = void (*)(const View<const float>&, const ElementView<>&);

template <class F, class Act>
UpKernel<F, Act> up_kernel(Isa isa) {
  return kernel_of<UpKernel<F, Act>>(isa, [](auto k) { return &decltype(k)::template up<F, Act>; });
}
template <class F>
DownKernel down_kernel(Isa isa) {
  return kernel_of<DownKernel>(isa, [](auto k) { return &decltype(k)::template down<F>; });
}
inline DotKernel dot_kernel(Isa isa) {
  return kernel_of<DotKernel>(isa, [](auto k) { return &decltype(k)::dot; });
}
inline CombineKernel combine_kernel(Isa isa) {
  return kernel_of<CombineKernel>(isa, [](auto k) { return &decltype(k)::combine; });
}
inline WidenKernel widen_kernel(Isa isa) {
  return kernel_of<WidenKernel>(isa, [](auto k) { return &decltype(k)::widen; });
}
inline NarrowKernel narrow_kernel(Isa isa) {
  return kernel_of<NarrowKernel>(isa, [](auto k) { return &decltype(k)::narrow; });
}

}  // namespace MOE_BASELINE
}  // namespace cpu
}  // namespace moe

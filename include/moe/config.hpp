// The only header with macros: version, host/device marks, checked builds.
#pragma once

#define MOE_VERSION_MAJOR 0
#define MOE_VERSION_MINOR 1
#define MOE_VERSION_PATCH 0

// MOE_HD marks what routers, activations and views share between host and device.
#if defined(__CUDACC__)
#define MOE_HD __host__ __device__
#else
#define MOE_HD
#endif

// Before a template marked MOE_HD that calls its argument: nvcc checks the argument's marks for both sides, though only
// one calls it.
#if defined(__CUDACC__)
#define MOE_CALLS_ARGUMENT _Pragma("nv_exec_check_disable")
#else
#define MOE_CALLS_ARGUMENT
#endif

// MOE_CHECKED: assertions on, and the frame of every call is filled with NaN before use.
// On by default in builds without NDEBUG; -DMOE_CHECKED=0 or =1 decides.
#if !defined(MOE_CHECKED)
#if defined(NDEBUG)
#define MOE_CHECKED 0
#else
#define MOE_CHECKED 1
#endif
#endif

#if MOE_CHECKED && !defined(__CUDA_ARCH__)
#include <cassert>
#define MOE_ASSERT(condition) assert(condition)
#else
#define MOE_ASSERT(condition) static_cast<void>(0)
#endif

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define MOE_EXCEPTIONS 1
#else
#define MOE_EXCEPTIONS 0
#endif

// Functions of moe::cpu are compiled differently by translation units with different -m flags; an inline namespace that
// names the flags keeps their copies apart, so that the linker cannot hand one unit's code to another.
#if defined(__AVX512F__)
#define MOE_BASELINE baseline_avx512
#elif defined(__AVX2__)
#define MOE_BASELINE baseline_avx2
#elif defined(__AVX__)
#define MOE_BASELINE baseline_avx
#else
#define MOE_BASELINE baseline
#endif

// Before loops over a register tile. nvcc's front end does not know GCC's pragma; there the optimiser decides.
#if defined(__CUDACC__)
#define MOE_UNROLL
#else
#define MOE_UNROLL _Pragma("GCC unroll 32")
#endif

// Around code that is compiled for more instructions than the rest of the translation unit.
#define MOE_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define MOE_BEGIN_TARGET(features) \
  MOE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define MOE_END_TARGET MOE_PRAGMA(clang attribute pop)
#else
#define MOE_BEGIN_TARGET(features) MOE_PRAGMA(GCC push_options) MOE_PRAGMA(GCC target(features))
#define MOE_END_TARGET MOE_PRAGMA(GCC pop_options)
#endif

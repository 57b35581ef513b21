// What the machine allows, measured in the same run: reading from memory, and float32 multiply-adds.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <vector>

#include <moe/executors/cpu.hpp>

namespace ceilings {

struct Ceilings {
  double read_bytes_per_s = 0, flop_per_s = 0;
};

/// The best of `rounds` timings of `work`, in seconds.
template <class Work>
double best_seconds(int rounds, const Work& work) {
  double best = 1e30;
  for (int r = 0; r < rounds; ++r) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

#if defined(__x86_64__)
#define MOE_BENCH_TARGET(isa) __attribute__((target(isa)))

MOE_BENCH_TARGET("avx512f") inline float read512(const float* p, std::size_t n) {
  __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
  for (std::size_t i = 0; i + 64 <= n; i += 64) {
    a = _mm512_add_ps(a, _mm512_loadu_ps(p + i));
    b = _mm512_add_ps(b, _mm512_loadu_ps(p + i + 16));
    c = _mm512_add_ps(c, _mm512_loadu_ps(p + i + 32));
    d = _mm512_add_ps(d, _mm512_loadu_ps(p + i + 48));
  }
  alignas(64) float out[16];
  _mm512_store_ps(out, _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
  return out[0];
}
MOE_BENCH_TARGET("avx2,fma") inline float read256(const float* p, std::size_t n) {
  __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
  for (std::size_t i = 0; i + 32 <= n; i += 32) {
    a = _mm256_add_ps(a, _mm256_loadu_ps(p + i));
    b = _mm256_add_ps(b, _mm256_loadu_ps(p + i + 8));
    c = _mm256_add_ps(c, _mm256_loadu_ps(p + i + 16));
    d = _mm256_add_ps(d, _mm256_loadu_ps(p + i + 24));
  }
  alignas(32) float out[8];
  _mm256_store_ps(out, _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
  return out[0];
}

/// 12 chains of fma; returns the multiply-adds done.
MOE_BENCH_TARGET("avx512f") inline double multiply512(int steps, float& out) {
  __m512 s[12];
  for (int i = 0; i < 12; ++i) s[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 x = _mm512_set1_ps(1.0f + out * 1e-30f);
  for (int n = 0; n < steps; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) s[i] = _mm512_fmadd_ps(s[i], x, x);
  alignas(64) float v[16];
  for (int i = 1; i < 12; ++i) s[0] = _mm512_add_ps(s[0], s[i]);
  _mm512_store_ps(v, s[0]);
  out = v[0];
  return 12.0 * 16.0 * steps;
}
MOE_BENCH_TARGET("avx2,fma") inline double multiply256(int steps, float& out) {
  __m256 s[12];
  for (int i = 0; i < 12; ++i) s[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 x = _mm256_set1_ps(1.0f + out * 1e-30f);
  for (int n = 0; n < steps; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) s[i] = _mm256_fmadd_ps(s[i], x, x);
  alignas(32) float v[8];
  for (int i = 1; i < 12; ++i) s[0] = _mm256_add_ps(s[0], s[i]);
  _mm256_store_ps(v, s[0]);
  out = v[0];
  return 12.0 * 8.0 * steps;
}
#endif

inline float read(moe::Isa isa, const float* p, std::size_t n) {
#if defined(__x86_64__)
  if (isa == moe::Isa::avx512) return read512(p, n);
  if (isa == moe::Isa::avx2) return read256(p, n);
#endif
  return static_cast<float>(isa) + std::accumulate(p, p + n, 0.0f);
}
inline double multiply(moe::Isa isa, int steps, float& out) {
#if defined(__x86_64__)
  if (isa == moe::Isa::avx512) return multiply512(steps, out);
  if (isa == moe::Isa::avx2) return multiply256(steps, out);
#endif
  float s[8] = {};
  for (int n = 0; n < steps; ++n)
    for (float& v : s) v = v * (1.0f + out * 1e-30f) + 1.0f;
  out = s[static_cast<int>(isa)];
  return 8.0 * steps;
}

/// With the threads and instruction set of `cpu`, over a buffer far larger than the caches.
inline Ceilings measure(const moe::Cpu& cpu, std::size_t bytes = std::size_t{1} << 30) {
  const moe::Buffer buffer(bytes);
  std::fill_n(reinterpret_cast<std::uint64_t*>(buffer.data()), bytes / 8, 0u);
  const int threads = cpu.pool->size(), pieces = 8 * threads;
  const std::size_t piece = bytes / sizeof(float) / static_cast<std::size_t>(pieces);
  std::vector<float> sums(static_cast<std::size_t>(pieces));
  const double read_s = best_seconds(5, [&] {
    cpu.pool->run(pieces, [&](int i) {
      const auto n = static_cast<std::size_t>(i);
      sums[n] = read(cpu.isa, reinterpret_cast<const float*>(buffer.data()) + n * piece, piece);
    });
  });
  constexpr int steps = 1 << 22;
  std::atomic<double> done{0};
  const double multiply_s = best_seconds(5, [&] {
    done = 0;
    cpu.pool->run(threads, [&](int i) { done = multiply(cpu.isa, steps, sums[static_cast<std::size_t>(i)]); });
  });
  return {static_cast<double>(bytes) / read_s, 2 * done * threads / multiply_s};
}

}  // namespace ceilings

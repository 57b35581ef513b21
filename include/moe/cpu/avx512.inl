// AVX-512 (F, BW, DQ, VL): sixteen lanes.
//
// Zero-masked forms where the plain ones make g++ 12 warn, in the user's build, about the system header's temporaries.

namespace moe::cpu {
inline namespace MOE_BASELINE {
namespace avx512 {

#if MOE_X86

inline bool here() noexcept {
  return avx2::here() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

MOE_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

using vec = __m512;
using ivec = __m512i;
inline constexpr int lanes = 16;
inline constexpr __mmask16 every = 0xffff;

/// What registers hold at a time (drawn in kernels.inl).
struct Tile {
  static constexpr int rows = 8, vecs = 2;  // 8 x 32 columns: 16 sums, 2 weights, 1 input of 32 registers
  static constexpr int dot_rows = 4;        // rows that share a weight in `linear`: 8 sums hide the latency of fma
};

inline vec broadcast(float x) { return _mm512_set1_ps(x); }
inline vec load(const float* p) { return _mm512_loadu_ps(p); }
inline vec load(const bf16* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(every, _mm512_maskz_cvtepu16_epi32(every, halves), 16));
}
inline vec load(const f16* p) {
  return _mm512_maskz_cvtph_ps(every, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(float* p, vec v) { _mm512_storeu_ps(p, v); }
/// As bf16(float): half of the last bit is added, ties to even; NaN keeps its upper bits and becomes quiet.
inline void store(bf16* p, vec v) {
  const __m512i bits = _mm512_castps_si512(v), upper = _mm512_maskz_srli_epi32(every, bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_maskz_srli_epi32(every, _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
  const __m512i words = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), rounded, quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(every, words));
}
inline void store(f16* p, vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(every, v, _MM_FROUND_TO_NEAREST_INT));
}
inline vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
inline vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
inline vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
inline vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
inline vec div(vec a, vec b) { return _mm512_div_ps(a, b); }
inline vec min(vec a, vec b) { return _mm512_maskz_min_ps(every, a, b); }  // b if either is NaN
inline vec max(vec a, vec b) { return _mm512_maskz_max_ps(every, a, b); }  // b if either is NaN
inline __mmask16 less(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline vec select(__mmask16 which, vec yes, vec no) { return _mm512_mask_blend_ps(which, no, yes); }
inline ivec to_int(vec v) { return _mm512_maskz_cvtps_epi32(every, v); }
inline ivec half(ivec v) { return _mm512_maskz_srai_epi32(every, v, 1); }
inline ivec sub(ivec a, ivec b) { return _mm512_sub_epi32(a, b); }
inline vec power_of_two(ivec n) {
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(every, _mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

inline vec panel(const float* codes, int v) { return load(codes + 16 * v); }
inline vec panel(const bf16* codes, int v) {
  const __m512i pairs = _mm512_loadu_si512(codes);
  return _mm512_castsi512_ps(v == 0 ? _mm512_maskz_slli_epi32(every, pairs, 16)
                                    : _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline vec panel(const f16* codes, int v) {
  return _mm512_maskz_cvtph_ps(every, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 16 * v)));
}
inline vec panel(const std::int8_t* codes, int v) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * v));
  return _mm512_maskz_cvtepi32_ps(every, _mm512_maskz_cvtepi8_epi32(every, bytes));
}
/// The permutation looks at the low four bits of each index only: no mask is needed.
inline vec look_up(__m512 values, const nibble_pair* codes, int v) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m512i pairs = _mm512_maskz_cvtepu8_epi32(every, bytes);
  return _mm512_maskz_permutexvar_ps(every, v == 0 ? pairs : _mm512_maskz_srli_epi32(every, pairs, 4), values);
}
inline vec panel(const e2m1_pair* codes, int v) {
  const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f,
                                       -2.0f, -3.0f, -4.0f, -6.0f);
  return look_up(values, codes, v);
}
inline vec panel(const q4_pair* codes, int v) {
  const __m512 values = _mm512_setr_ps(-8.0f, -7.0f, -6.0f, -5.0f, -4.0f, -3.0f, -2.0f, -1.0f, 0.0f, 1.0f, 2.0f, 3.0f,
                                       4.0f, 5.0f, 6.0f, 7.0f);
  return look_up(values, codes, v);
}
/// The byte is the exponent of the float; 0 and 255 need a bit of the mantissa, for 2^-127 and NaN.
inline vec panel(const e8m0* scales, int v) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + 16 * v));
  const __mmask16 special = static_cast<__mmask16>(_mm_cmpeq_epi8_mask(bytes, _mm_setzero_si128()) |
                                                   _mm_cmpeq_epi8_mask(bytes, _mm_set1_epi8(-1)));
  const __m512i exponent = _mm512_maskz_slli_epi32(every, _mm512_maskz_cvtepu8_epi32(every, bytes), 23);
  return _mm512_castsi512_ps(_mm512_mask_or_epi32(exponent, special, exponent, _mm512_set1_epi32(0x400000)));
}

// clang-format off
#include <moe/cpu/activations.inl>
#include <moe/cpu/kernels.inl>
// clang-format on

MOE_END_TARGET

#else
using scalar::Kernels;
inline bool here() noexcept { return false; }
#endif

}  // namespace avx512
}  // namespace MOE_BASELINE
}  // namespace moe::cpu

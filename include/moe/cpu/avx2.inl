// AVX2 with FMA and F16C: eight lanes.

namespace moe::cpu {
inline namespace MOE_BASELINE {
namespace avx2 {

#if MOE_X86

inline bool here() noexcept {
  // No name in clang 14. Asked once: under a hypervisor the instruction costs many microseconds.
  static const bool f16c = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
  }();
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

MOE_BEGIN_TARGET("avx2,fma,f16c")

using vec = __m256;
using ivec = __m256i;
inline constexpr int lanes = 8;

/// What registers hold at a time (drawn in kernels.inl).
struct Tile {
  static constexpr int rows = 6, vecs = 2;  // 6 x 16 columns: 12 sums, 2 weights, 1 input of 16 registers
  static constexpr int dot_rows = 3;        // rows that share a weight in `linear`: 12 sums
};

inline vec broadcast(float x) { return _mm256_set1_ps(x); }
inline vec load(const float* p) { return _mm256_loadu_ps(p); }
inline vec load(const bf16* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline vec load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store(float* p, vec v) { _mm256_storeu_ps(p, v); }
/// As bf16(float): half of the last bit is added, ties to even; NaN keeps its upper bits and becomes quiet.
inline void store(bf16* p, vec v) {
  const __m256i bits = _mm256_castps_si256(v), upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m256i packed = _mm256_packus_epi32(words, words);  // within each half
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}
inline void store(f16* p, vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
inline vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
inline vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
inline vec div(vec a, vec b) { return _mm256_div_ps(a, b); }
inline vec min(vec a, vec b) { return _mm256_min_ps(a, b); }  // b if either is NaN
inline vec max(vec a, vec b) { return _mm256_max_ps(a, b); }  // b if either is NaN
inline vec less(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline vec select(vec which, vec yes, vec no) { return _mm256_blendv_ps(no, yes, which); }
inline ivec to_int(vec v) { return _mm256_cvtps_epi32(v); }
inline ivec half(ivec v) { return _mm256_srai_epi32(v, 1); }
inline ivec sub(ivec a, ivec b) { return _mm256_sub_epi32(a, b); }
inline vec power_of_two(ivec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

inline vec panel(const float* codes, int v) { return load(codes + 8 * v); }
inline vec panel(const bf16* codes, int v) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 16 * (v % 2)));
  return _mm256_castsi256_ps(v < 2 ? _mm256_slli_epi32(pairs, 16)
                                   : _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline vec panel(const f16* codes, int v) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 8 * v)));
}
inline vec panel(const std::int8_t* codes, int v) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + 8 * v))));
}
/// 4-bit codes become the upper bytes of binary16 numbers, whose lower bytes are all zero.
inline vec look_up(__m128i upper_bytes, const nibble_pair* codes, int v) {
  __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  if (v >= 2) pairs = _mm_srli_epi16(pairs, 4);
  const __m128i halves = _mm_shuffle_epi8(upper_bytes, _mm_and_si128(pairs, _mm_set1_epi8(15)));
  const __m128i zero = _mm_setzero_si128();
  return _mm256_cvtph_ps(v % 2 == 0 ? _mm_unpacklo_epi8(zero, halves) : _mm_unpackhi_epi8(zero, halves));
}
inline vec panel(const e2m1_pair* codes, int v) {
  const __m128i upper_bytes = _mm_setr_epi8(0x00, 0x38, 0x3c, 0x3e, 0x40, 0x42, 0x44, 0x46, -0x80, -0x48, -0x44, -0x42,
                                            -0x40, -0x3e, -0x3c, -0x3a);
  return look_up(upper_bytes, codes, v);
}
inline vec panel(const q4_pair* codes, int v) {
  const __m128i upper_bytes = _mm_setr_epi8(-0x38, -0x39, -0x3a, -0x3b, -0x3c, -0x3e, -0x40, -0x44, 0x00, 0x3c, 0x40,
                                            0x42, 0x44, 0x45, 0x46, 0x47);
  return look_up(upper_bytes, codes, v);
}
/// The byte is the exponent of the float; 0 and 255 need a bit of the mantissa, for 2^-127 and NaN.
inline vec panel(const e8m0* scales, int v) {
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + 8 * v)));
  const __m256i special = _mm256_or_si256(_mm256_cmpeq_epi32(bytes, _mm256_setzero_si256()),
                                          _mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(255)));
  const __m256i mantissa = _mm256_and_si256(special, _mm256_set1_epi32(0x400000));
  return _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32(bytes, 23), mantissa));
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

}  // namespace avx2
}  // namespace MOE_BASELINE
}  // namespace moe::cpu

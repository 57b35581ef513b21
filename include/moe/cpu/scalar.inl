// Plain C++: one lane.

namespace moe::cpu {
inline namespace MOE_BASELINE {
namespace scalar {

inline bool here() noexcept { return true; }

using vec = float;
using ivec = std::int32_t;
inline constexpr int lanes = 1;

/// What is summed at a time (drawn in kernels.inl). One row: where fma is a call, a larger tile saves nothing.
struct Tile {
  static constexpr int rows = 1, vecs = 8;
  static constexpr int dot_rows = 1;  // rows that share a weight in `linear`
};

inline vec broadcast(float x) { return x; }
inline vec load(const float* p) { return *p; }
inline vec load(const bf16* p) { return float(*p); }
inline vec load(const f16* p) { return float(*p); }
inline void store(float* p, vec v) { *p = v; }
inline void store(bf16* p, vec v) { *p = bf16(v); }
inline void store(f16* p, vec v) { *p = f16(v); }
inline vec fma(vec a, vec b, vec c) { return std::fma(a, b, c); }
inline vec add(vec a, vec b) { return a + b; }
inline vec sub(vec a, vec b) { return a - b; }
inline vec mul(vec a, vec b) { return a * b; }
inline vec div(vec a, vec b) { return a / b; }
inline vec min(vec a, vec b) { return a < b ? a : b; }
inline vec max(vec a, vec b) { return a > b ? a : b; }
inline bool less(vec a, vec b) { return a < b; }
inline vec select(bool which, vec yes, vec no) { return which ? yes : no; }
inline ivec to_int(vec v) { return v == v ? static_cast<ivec>(v) : 0; }
inline ivec half(ivec v) { return v >> 1; }
inline ivec sub(ivec a, ivec b) { return a - b; }
inline vec power_of_two(ivec n) { return ::moe::power_of_two(n); }
inline void prefetch(const void*) {}

inline vec panel(const float* codes, int v) { return codes[v]; }
inline vec panel(const bf16* codes, int v) { return float(codes[v < 16 ? 2 * v : 2 * v - 31]); }
inline vec panel(const f16* codes, int v) { return float(codes[v]); }
inline vec panel(const std::int8_t* codes, int v) { return static_cast<float>(codes[v]); }
inline constexpr auto e2m1_values = [] {
  std::array<float, 16> values{};
  for (unsigned code = 0; code < 16; ++code) values[code] = e2m1_value(code);
  return values;
}();
inline vec panel(const e2m1_pair* codes, int v) { return e2m1_values[codes[v % 16].code(v / 16)]; }
inline vec panel(const q4_pair* codes, int v) { return codes[v % 16].value(v / 16); }
inline vec panel(const e8m0* scales, int v) { return float(scales[v]); }

// clang-format off
#include <moe/cpu/activations.inl>
#include <moe/cpu/kernels.inl>
// clang-format on

}  // namespace scalar
}  // namespace MOE_BASELINE
}  // namespace moe::cpu

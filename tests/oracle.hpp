// The layer once more, in double-precision loops that share no code with include/, with a derived error bound.
//
// Every number is a Value: what exact arithmetic on the stored weights gives, and how far float32 may be away from it.
// With u = 2^-24, the relative error of one rounding, the bounds follow from two facts:
//  * one operation on computed operands: the operands' errors, propagated, plus u times the result (and 2^-149, the
//    spacing of subnormals);
//  * a sum of n products, in any order, with or without fma: every term passes at most n roundings, so the error is at
//    most gamma_n * sum |a_i b_i| with gamma_n = n u / (1 - n u) (Higham 2002, section 3.1). The sum is the one of the
//    actual numbers.
// An exponential within 2 ulp counts as 4 roundings, because an ulp is at most 2 u times the number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace oracle {

// ---- numbers with bounds

struct Value {
  double v = 0, e = 0;  // |computed - v| <= e
};

inline constexpr double unit = 0x1p-24, spacing = 0x1p-149, largest = std::numeric_limits<float>::max();

inline double gamma(int n) { return n * unit / (1 - n * unit); }
inline Value rounded(double v, double error, int roundings = 1) {
  return {v, error + gamma(roundings) * (std::fabs(v) + error) + roundings * spacing};
}
inline Value operator+(Value a, Value b) { return rounded(a.v + b.v, a.e + b.e); }
inline Value operator*(Value a, Value b) {
  return rounded(a.v * b.v, std::fabs(a.v) * b.e + std::fabs(b.v) * a.e + a.e * b.e);
}
inline Value operator/(Value a, Value b) {
  const double q = a.v / b.v;
  return rounded(q, (a.e + std::fabs(q) * b.e) / (std::fabs(b.v) - b.e));
}
inline Value exp(Value x) {
  if (x.v > 700) return {HUGE_VAL, 0};
  return rounded(std::exp(x.v), std::exp(x.v) * std::expm1(x.e), 4);
}

/// a / (1 + e^-x). Where e^-x overflows in float32 the computed quotient is zero, the exact one below |a| / largest.
inline Value over_logistic(Value a, Value x) {
  const Value e = exp({-x.v, x.e});
  if (e.v + e.e > largest) return {a.v / (1 + e.v), 2 * (std::fabs(a.v) + a.e) / largest + spacing};
  return a / (Value{1} + e);
}
inline Value sqrt(Value x) { return rounded(std::sqrt(x.v), x.e / std::sqrt(std::max(x.v - x.e, 0x1p-126))); }
/// The library's own error, and the input's times the largest slope, 1.129.
inline Value gelu(Value x) {
  return {0.5 * x.v * std::erfc(-x.v / std::sqrt(2.0)), 1.13 * x.e + 0x1p-23 * (std::fabs(x.v) + x.e)};
}
inline Value swiglu(Value gate, Value up) { return over_logistic(gate, gate) * up; }
inline Value relu(Value, Value up) { return {std::max(up.v, 0.0), up.e}; }

/// Two roundings more than a plain sum: formats with scales, and weights applied to the inputs.
template <class W>
Value dot(const W* w, const std::vector<Value>& x) {
  double sum = 0, mass = 0, spread = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = static_cast<double>(w[i]);
    sum += a * x[i].v;
    mass += std::fabs(a) * (std::fabs(x[i].v) + x[i].e);
    spread += std::fabs(a) * x[i].e;
  }
  const int n = static_cast<int>(x.size()) + 2;
  return {sum, spread + gamma(n) * mass + n * spacing};
}
inline Value sum_of_squares(const std::vector<Value>& x) {
  Value sum;
  for (const Value& value : x) {
    sum.v += value.v * value.v;
    sum.e += (2 * std::fabs(value.v) + value.e) * value.e;
  }
  return rounded(sum.v, sum.e, static_cast<int>(x.size()) + 1);
}
/// gain * x / rms(x), times a constant that is rounded once.
inline std::vector<Value> normalised(const std::vector<Value>& x, const float* gain, double epsilon, double scale) {
  const Value mean = sum_of_squares(x) / Value{static_cast<double>(x.size())};
  const Value inverse = rounded(scale, 0) / sqrt(mean + rounded(epsilon, 0));
  std::vector<Value> out;
  for (std::size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * inverse * Value{static_cast<double>(gain[i])});
  return out;
}
inline std::vector<Value> exact(const float* x, int n) {
  std::vector<Value> values;
  for (int i = 0; i < n; ++i) values.push_back({static_cast<double>(x[i])});
  return values;
}

// ---- weight formats

enum class Format { f32, bf16, f16, q8_0, mxfp4, q4_0 };

/// x with `digits` significant bits, ties to even; the last bit is never below 2^lowest; infinite beyond `most`.
inline double round_to(double x, int digits, int lowest, double most) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  const int last = std::max(exponent - digits, lowest);
  const double r = std::ldexp(std::nearbyint(std::ldexp(x, -last)), last);
  return std::fabs(r) > most ? std::copysign(HUGE_VAL, x) : r;
}
inline double to_f32(double x) { return round_to(x, 24, -149, largest); }
inline double to_bf16(double x) { return round_to(x, 8, -133, 0x1.fep127); }
inline double to_f16(double x) { return round_to(x, 11, -24, 65504); }

/// One block of GGUF's Q8_0, as its reference text computes it: in float32, ties away from zero.
inline void to_q8_0(const float* block, int n, double* out) {
  double most = 0;
  for (int i = 0; i < n; ++i) most = std::max(most, std::fabs(static_cast<double>(block[i])));
  const double step = to_f32(most / 127), inverse = step > 0 ? to_f32(1 / step) : 0;
  for (int i = 0; i < n; ++i) {
    const double scaled = to_f32(static_cast<double>(block[i]) * inverse);
    out[i] = to_f16(step) * std::copysign(std::floor(std::fabs(scaled) + 0.5), scaled);
  }
}
/// One block of OCP's MXFP4: the scale by its definition, then the nearest of all codes, ties to the even one.
inline void to_mxfp4(const float* block, int n, double* out) {
  constexpr double grid[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  double most = 0;
  for (int i = 0; i < n; ++i) most = std::max(most, std::fabs(static_cast<double>(block[i])));
  int exponent = -127;
  while (std::ldexp(1.0, exponent + 1) <= most / 4) ++exponent;
  for (int i = 0; i < n; ++i) {
    const double scaled = std::ldexp(std::fabs(static_cast<double>(block[i])), -exponent);
    int best = 0;
    for (int code = 1; code < 8; ++code) {
      const double gain = std::fabs(scaled - grid[best]) - std::fabs(scaled - grid[code]);
      if (gain > 0 || (gain == 0 && code % 2 == 0)) best = code;
    }
    out[i] = std::copysign(std::ldexp(grid[best], exponent), static_cast<double>(block[i]));
  }
}
/// One block of GGUF's Q4_0, in float32 with fma: the first number of the largest magnitude is -8 steps, the others go
/// to the nearest step, ties up.
inline void to_q4_0(const float* block, int n, double* out) {
  double extreme = 0;
  for (int i = n - 1; i >= 0; --i)
    if (std::fabs(static_cast<double>(block[i])) >= std::fabs(extreme)) extreme = static_cast<double>(block[i]);
  const double step = to_f32(extreme / -8), kept = to_f16(step), inverse = kept == 0 ? 0 : to_f32(1 / step);
  for (int i = 0; i < n; ++i)
    out[i] = kept * (std::min(15.0, std::floor(to_f32(static_cast<double>(block[i]) * inverse + 8.5))) - 8);
}
using BlockEncoder = void (*)(const float* block, int n, double* out);
inline BlockEncoder block_encoder(Format format) {
  if (format == Format::q8_0) return to_q8_0;
  if (format == Format::mxfp4) return to_mxfp4;
  return format == Format::q4_0 ? to_q4_0 : nullptr;
}
/// The weights of a row-major [rows, cols] matrix after a trip through `format`.
inline std::vector<double> stored(Format format, const std::vector<float>& m, int cols) {
  std::vector<double> out(m.begin(), m.end());
  if (const BlockEncoder encode = block_encoder(format); encode != nullptr) {
    for (std::size_t row = 0; row < m.size(); row += static_cast<std::size_t>(cols))
      for (int i = 0; i < cols; i += 32) {
        const std::size_t at = row + static_cast<std::size_t>(i);
        encode(m.data() + at, std::min(32, cols - i), out.data() + at);
      }
  } else if (format != Format::f32) {
    for (double& x : out) x = format == Format::bf16 ? to_bf16(x) : to_f16(x);
  }
  return out;
}

// ---- routing

enum class Score { softmax_of_picked, softmax, sigmoid };
enum class Divide { by_nothing, by_sum, by_norm };
struct Routing {
  Score score = Score::softmax_of_picked;
  Divide divide = Divide::by_nothing;
  double epsilon = 0, floor = 0, power = 1, scale = 1;
};
struct Pick {
  int expert = -1;
  Value weight{};
};

/// Best first, ties to the lower id; NaN below every number, infinities as the largest float.
inline std::vector<Pick> ranked(const std::vector<float>& logits, const std::vector<bool>& allowed) {
  std::vector<Pick> all;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    const double l = static_cast<double>(logits[e]);
    if (allowed.empty() || allowed[e])
      all.push_back({static_cast<int>(e), {std::isnan(l) ? -HUGE_VAL : std::clamp(l, -largest, largest)}});
  }
  std::stable_sort(all.begin(), all.end(), [](const Pick& a, const Pick& b) { return a.weight.v > b.weight.v; });
  return all;
}
inline Value divisor(const Routing& r, const std::vector<Pick>& picked) {
  Value sum{};
  const bool powers = r.divide == Divide::by_norm && r.power != 1;
  // pow is within one ulp in the C library, so two roundings; the root shrinks relative errors by 1 / power.
  for (const Pick& p : picked) {
    const double relative = p.weight.v > 0 ? r.power * p.weight.e / p.weight.v : 0;
    const double power = std::pow(p.weight.v, r.power);
    sum = sum + (powers ? rounded(power, power * std::expm1(relative), 2) : p.weight);
  }
  if (powers && sum.v > 0) {
    const double root = std::pow(sum.v, 1 / r.power);
    sum = rounded(root, root * std::expm1(sum.e / sum.v / r.power + unit * std::fabs(std::log(sum.v))), 2);
  }
  if (r.epsilon > 0) sum = sum + Value{r.epsilon};
  return sum.v < r.floor ? Value{r.floor, sum.e} : sum;
}
inline std::vector<Pick> route(const Routing& r, const std::vector<float>& logits, int k,
                               const std::vector<bool>& allowed = {}) {
  const std::vector<Pick> all = ranked(logits, allowed);
  const std::size_t kept = std::min(all.size(), static_cast<std::size_t>(k));
  std::vector<Pick> picked(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kept));
  if (picked.empty()) return picked;
  const double best = picked[0].weight.v;
  const auto relative = [&](const Pick& p) {  // e^(l - best): the difference is rounded once
    const double d = p.weight.v - best;
    return !std::isfinite(best) || d < -200 ? Value{0, spacing} : exp(rounded(d, 0));
  };
  Value sum{};
  for (const Pick& p : r.score == Score::softmax ? all : picked) sum = sum + relative(p);
  for (Pick& p : picked) {
    if (r.score == Score::sigmoid)
      p.weight = over_logistic({1}, p.weight);
    else
      p.weight = std::isfinite(best) ? relative(p) / sum : Value{};
  }
  if (r.divide != Divide::by_nothing)
    if (const Value d = divisor(r, picked); d.v > 0)
      for (Pick& p : picked) p.weight = p.weight / d;
  for (Pick& p : picked) p.weight = p.weight * Value{r.scale};
  return picked;
}

// ---- experts

struct Expert {
  std::vector<double> gate, up, down, gate_bias, up_bias, down_bias;  // [F,H] [F,H] [H,F] [F] [F] [H]; empty: absent
};
struct Layer {
  int hidden = 0, ffn = 0, identities = 0;
  std::vector<Expert> experts;
  bool weight_on_input = false;
  Value (*activation)(Value gate, Value up) = swiglu;
};

inline std::vector<Value> multiply(const std::vector<double>& w, const std::vector<double>& bias,
                                   const std::vector<Value>& x, Value weight) {
  std::vector<Value> out;
  for (std::size_t row = 0; row * x.size() < w.size(); ++row) {
    const Value product = dot(w.data() + row * x.size(), x) * weight;
    out.push_back(bias.empty() ? product : product + Value{bias[row]});
  }
  return out;
}
inline std::vector<Value> run_expert(const Layer& layer, const Expert& e, const std::vector<Value>& x, Value weight) {
  const std::vector<Value> up = multiply(e.up, e.up_bias, x, weight);
  const std::vector<Value> gate = e.gate.empty() ? up : multiply(e.gate, e.gate_bias, x, weight);
  std::vector<Value> mid;
  for (std::size_t i = 0; i < up.size(); ++i) mid.push_back(layer.activation(gate[i], up[i]));
  return multiply(e.down, e.down_bias, mid, {1});
}
/// One row of the result. The sum over slots is in slot order, but its bound holds for every order.
inline std::vector<Value> run_token(const Layer& layer, const std::vector<Value>& in, const std::vector<Pick>& picks) {
  const int networks = static_cast<int>(layer.experts.size());
  std::vector<Value> y(in.size());
  std::vector<double> mass(in.size());
  for (const Pick& p : picks) {
    const bool network = p.expert >= 0 && p.expert < networks;
    if (!network && (p.expert < networks || p.expert - networks >= layer.identities)) continue;
    const bool inside = network && layer.weight_on_input;
    const std::vector<Value> part =
        network ? run_expert(layer, layer.experts[static_cast<std::size_t>(p.expert)], in, inside ? p.weight : Value{1})
                : in;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const Value term = inside ? part[i] : part[i] * p.weight;
      y[i].v += term.v;
      y[i].e += term.e;
      mass[i] += std::fabs(term.v) + term.e;
    }
  }
  for (std::size_t i = 0; i < y.size(); ++i) y[i].e += gamma(static_cast<int>(picks.size())) * mass[i];
  return y;
}

inline std::vector<Value> run_token(const Layer& layer, const float* x, const std::vector<Pick>& picks) {
  return run_token(layer, exact(x, layer.hidden), picks);
}

// ---- random inputs

/// The same numbers for the same seed on every machine. Tests print the seed: CAPTURE(random.seed).
struct Random {
  explicit Random(std::uint64_t s) : seed(s), engine(s) {}
  int below(int n) { return static_cast<int>(engine() % static_cast<std::uint64_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  bool coin() { return below(2) == 1; }
  /// Any of 2^25 floats in [-range, range), for ranges that are powers of two.
  float real(float range = 1) { return static_cast<float>(below(1 << 25) * 0x1p-24 - 1) * range; }
  std::vector<float> reals(int n, float range = 1) {
    std::vector<float> out(static_cast<std::size_t>(n));
    for (float& x : out) x = real(range);
    return out;
  }
  std::uint64_t seed;
  std::mt19937_64 engine;
};

}  // namespace oracle

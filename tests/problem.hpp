// A random layer twice: as the oracle knows it and as the library stores it.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <iterator>
#include <limits>
#include <moe/frame.hpp>
#include <moe/layout.hpp>
#include <moe/storage/resident.hpp>
#include <string>
#include <vector>

#include "oracle.hpp"

// ---- numbers

inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// What "the same bits" means: 0 and -0 differ, a NaN equals itself.
inline std::vector<std::uint32_t> bits(moe::Row<const float> row) {
  std::vector<std::uint32_t> out(static_cast<std::size_t>(row.size()));
  if (!row.empty()) std::memcpy(out.data(), row.data(), out.size() * sizeof(float));
  return out;
}
inline std::vector<std::uint32_t> bits(const std::vector<float>& values) {
  return bits(moe::Row<const float>{values.data(), static_cast<int>(values.size())});
}

inline bool within(float computed, const oracle::Value& expected) {
  return std::fabs(static_cast<double>(computed) - expected.v) <= expected.e;
}
/// Index of the first number outside its bound, or -1.
inline int first_outside(moe::Row<const float> computed, const std::vector<oracle::Value>& expected) {
  if (static_cast<std::size_t>(computed.size()) != expected.size()) return 0;
  for (int i = 0; i < computed.size(); ++i)
    if (!within(computed[i], expected[static_cast<std::size_t>(i)])) return i;
  return -1;
}

/// Views of a vector as a [rows, cols] matrix.
inline moe::View<const float> view(const std::vector<float>& v, int cols) {
  return {v.data(), static_cast<int>(v.size()) / cols, cols};
}
inline moe::View<float> view(std::vector<float>& v, int cols) {
  return {v.data(), static_cast<int>(v.size()) / cols, cols};
}

// ---- formats

template <class F>
inline constexpr oracle::Format oracle_format = oracle::Format::f32;
template <>
inline constexpr oracle::Format oracle_format<moe::bf16> = oracle::Format::bf16;
template <>
inline constexpr oracle::Format oracle_format<moe::f16> = oracle::Format::f16;
template <>
inline constexpr oracle::Format oracle_format<moe::q8_0> = oracle::Format::q8_0;
template <>
inline constexpr oracle::Format oracle_format<moe::mxfp4> = oracle::Format::mxfp4;
template <>
inline constexpr oracle::Format oracle_format<moe::q4_0> = oracle::Format::q4_0;

// ---- layers

struct Setup {
  int tokens = 3, hidden = 37, ffn = 21, experts = 5, k = 2;
  bool gated = true, biased = false;
};

/// Raw weights of one expert, row-major float32.
struct RawExpert {
  std::vector<float> gate, up, down, gate_bias, up_bias, down_bias;
};

template <class Format>
class Problem {
 public:
  using Up = typename moe::projection_formats<Format>::up;
  using Down = typename moe::projection_formats<Format>::down;

  Problem(const Setup& s, oracle::Random& random) : setup(s) {
    layer.hidden = s.hidden;
    layer.ffn = s.ffn;
    if (!s.gated) layer.activation = oracle::relu;
    for (int e = 0; e < s.experts; ++e) add_expert(random);
    x = random.reals(s.tokens * s.hidden);
    gate = random.reals(s.experts * s.hidden);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  moe::ExpertShape shape() const { return {setup.hidden, setup.ffn, setup.gated, setup.biased}; }
  std::span<const moe::ExpertMatrices> matrices() const { return matrices_; }
  moe::Packed<Format> source() const { return {shape(), matrices_}; }
  moe::Resident<moe::PanelLayout, moe::formats<Format>> storage() const { return moe::Resident(source()); }

  moe::View<const float> x_view() const { return {x.data(), setup.tokens, setup.hidden}; }
  moe::View<const float> gate_view() const { return {gate.data(), setup.experts, setup.hidden}; }
  const float* token(int t) const { return x.data() + t * setup.hidden; }

  Setup setup;
  oracle::Layer layer;
  std::vector<float> x, gate;  // [T,H], [E,H]

 private:
  void add_expert(oracle::Random& random) {
    const int h = setup.hidden, f = setup.ffn;
    RawExpert& raw = raw_.emplace_back();
    if (setup.gated) raw.gate = random.reals(f * h);
    raw.up = random.reals(f * h);
    raw.down = random.reals(h * f);
    if (setup.biased) {
      if (setup.gated) raw.gate_bias = random.reals(f);
      raw.up_bias = random.reals(f);
      raw.down_bias = random.reals(h);
    }
    const auto wide = [](const std::vector<float>& v) { return std::vector<double>(v.begin(), v.end()); };
    layer.experts.push_back({oracle::stored(oracle_format<Up>, raw.gate, h),
                             oracle::stored(oracle_format<Up>, raw.up, h),
                             oracle::stored(oracle_format<Down>, raw.down, f), wide(raw.gate_bias), wide(raw.up_bias),
                             wide(raw.down_bias)});
    moe::ExpertMatrices m;
    if (setup.gated) m.gate = moe::Matrix(raw.gate.data(), f, h);
    m.up = moe::Matrix(raw.up.data(), f, h);
    m.down = moe::Matrix(raw.down.data(), h, f);
    if (setup.biased) {
      if (setup.gated) m.gate_bias = raw.gate_bias.data();
      m.up_bias = raw.up_bias.data();
      m.down_bias = raw.down_bias.data();
    }
    matrices_.push_back(m);
  }

  std::deque<RawExpert> raw_;  // never moves
  std::vector<moe::ExpertMatrices> matrices_;
};

/// A routing table with its memory: row t holds `count[t]` slots.
struct Table {
  Table(int tokens, int slots)
      : columns(slots),
        slots_of_all(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(slots)),
        count(static_cast<std::size_t>(tokens), slots) {}

  moe::Slot& at(int t, int k) { return slots_of_all[static_cast<std::size_t>(t * columns + k)]; }
  moe::RoutingTable<> get() { return {{slots_of_all.data(), static_cast<int>(count.size()), columns}, count.data()}; }
  std::vector<oracle::Pick> picks(int t) const {
    std::vector<oracle::Pick> out;
    for (int k = 0; k < count[static_cast<std::size_t>(t)]; ++k) {
      const moe::Slot& s = slots_of_all[static_cast<std::size_t>(t * columns + k)];
      out.push_back({s.expert, {static_cast<double>(s.weight)}});
    }
    return out;
  }

  int columns;
  std::vector<moe::Slot> slots_of_all;
  std::vector<int> count;
};

/// Every slot filled: distinct experts in a row while there are enough, weights in [0, 1).
inline Table random_table(oracle::Random& random, int tokens, int slots, int experts) {
  Table table(tokens, slots);
  for (int t = 0; t < tokens; ++t) {
    const int first = random.below(experts);
    for (int k = 0; k < slots; ++k) table.at(t, k) = {(first + k) % experts, std::fabs(random.real())};
  }
  return table;
}

/// The message of the moe::Error that `f` throws; empty if it throws none.
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const moe::Error& error) {
    return error.what();
  }
  return {};
}

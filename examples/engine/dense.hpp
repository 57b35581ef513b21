// Matrices, projections and norms: the engine's arithmetic outside attention and the experts.
#pragma once

#include <cmath>
#include <cstddef>
#include <moe/executors/cpu.hpp>
#include <span>
#include <utility>
#include <vector>

namespace engine {

using Rows = moe::View<float>;
using ConstRows = moe::View<const float>;

/// A row-major matrix that owns its floats.
class Matrix {
 public:
  Matrix() = default;
  Matrix(int rows, int cols) : Matrix(std::vector<float>(size_of(rows, cols)), rows, cols) {}
  Matrix(std::vector<float> values, int rows, int cols) : values_(std::move(values)), rows_(rows), cols_(cols) {}

  int rows() const noexcept { return rows_; }
  int cols() const noexcept { return cols_; }
  Rows view() noexcept { return {values_.data(), rows_, cols_}; }
  ConstRows view() const noexcept { return {values_.data(), rows_, cols_}; }
  Rows first(int rows) noexcept { return view().slice(0, rows); }

 private:
  static std::size_t size_of(int rows, int cols) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
  }
  std::vector<float> values_;
  int rows_ = 0, cols_ = 0;
};

/// out = in W^T + b, with W [outputs, inputs] as checkpoints hold it; an empty bias is none.
struct Projection {
  Matrix weight;
  std::vector<float> bias;

  void apply(const moe::Cpu& cpu, ConstRows in, Rows out) const {
    moe::Frame<> unused;
    cpu.linear(unused, in, weight.view(), bias.empty() ? nullptr : bias.data(), out);
  }
};

/// Sum of a[i] * b[i] in eight chains, which a compiler turns into vectors without changing the order of the sum.
inline float dot(const float* a, const float* b, int n) {
  constexpr int chains = 8;
  float sums[chains] = {};
  int i = 0;
  for (; i + chains <= n; i += chains) {
    for (int j = 0; j < chains; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

/// out = gain * in / rms(in) (Zhang & Sennrich 2019); `out` may be `in`.
inline void rms_norm(const float* in, std::span<const float> gain, float epsilon, float* out) {
  const auto n = static_cast<int>(gain.size());
  const float inverse = 1.0f / std::sqrt(dot(in, in, n) / static_cast<float>(n) + epsilon);
  for (int i = 0; i < n; ++i) out[i] = gain[static_cast<std::size_t>(i)] * (in[i] * inverse);
}
inline void rms_norm(ConstRows in, std::span<const float> gain, float epsilon, Rows out) {
  for (int t = 0; t < in.rows; ++t) rms_norm(in.row(t).data(), gain, epsilon, out.row(t).data());
}

/// to += what
inline void add(Rows to, ConstRows what) {
  for (int t = 0; t < to.rows; ++t) {
    const moe::Row<float> row = to.row(t);
    for (int i = 0; i < to.cols; ++i) row[i] += what.row(t)[i];
  }
}

}  // namespace engine

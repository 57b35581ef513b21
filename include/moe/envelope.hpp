// What surrounds the experts: latent projections, and what happens to the layer's whole output.
#pragma once

#include <moe/concepts.hpp>
#include <moe/error.hpp>
#include <moe/gate.hpp>

namespace moe {

/// Experts work in a narrower space (Nemotron-H 3): x' = enter x, y = leave y'. enter [M,H], leave [H,M], optional
/// biases [M], [H], and an optional RMS norm of x' (Muse-Spark). The caller keeps all of them alive.
template <class Mem = host_memory>
struct Latent {
  ConstElementView<Mem> enter_weight, leave_weight;
  const float* enter_bias = nullptr;
  const float* leave_bias = nullptr;
  const float* norm = nullptr;  // [M]
  float norm_eps = 0;           // above 0: x' is normalised

  int width() const noexcept { return enter_weight.rows; }
  int outer_width() const noexcept { return enter_weight.cols; }
  template <class F>
  void tables(F&& f) {
    f(enter_bias, width());
    f(leave_bias, outer_width());
    f(norm, width());
  }
  template <class X>
  void enter(const X& executor, Frame<Mem>& f, ConstElementView<Mem> in, View<float, Mem> out) const {
    executor.linear(f, in, enter_weight, enter_bias, out);
    if (norm_eps > 0) executor.rows(f, out.rows, detail::NormaliseRow<Mem>{out, out, norm, norm_eps, 1.0f});
  }
  template <class X>
  void leave(const X& executor, Frame<Mem>& f, View<const float, Mem> in, View<float, Mem> out) const {
    executor.linear(f, in, leave_weight, leave_bias, out);
  }
};

/// y += bias [H] (JetMoE).
struct OutputBias {
  Row<const float> bias{};  // the caller keeps it alive
  template <class F>
  void tables(F&& f) {
    f(bias);
  }
  /// Throws Error unless there is a number for each column of y.
  void check(int hidden) const { require_equal("moe::OutputBias", "biases", hidden, bias.size()); }
  template <class X, class M>
  void finish(const X& executor, Frame<M>& f, View<float, M> y) const {
    executor.rows(f, y.rows, detail::AddBias<M>{y, bias.data()});
  }
};

/// y = gain * y / rms(y), over routed and shared experts together (A.X-K1); gain [H], or empty: 1.
struct OutputNorm {
  Row<const float> gain{};  // the caller keeps it alive
  float epsilon = 1e-6f;
  template <class F>
  void tables(F&& f) {
    f(gain);
  }
  /// Throws Error unless there is a number for each column of y, or none.
  void check(int hidden) const {
    if (!gain.empty()) require_equal("moe::OutputNorm", "gains", hidden, gain.size());
  }
  template <class X, class M>
  void finish(const X& executor, Frame<M>& f, View<float, M> y) const {
    executor.rows(f, y.rows, detail::NormaliseRow<M>{y, y, gain.data(), epsilon, 1.0f});
  }
};

}  // namespace moe

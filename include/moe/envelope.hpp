// What surrounds the experts: latent projections, and what happens to the layer's whole output.
#pragma once

#include <moe/concepts.hpp>
#include <moe/gate.hpp>

namespace moe {

/// Experts work in a narrower space (Nemotron-H 3): x' = enter x, y = leave y'. enter [M,H], leave [H,M], optional
/// biases [M], [H], and an optional RMS norm of x' (Muse-Spark). The caller keeps all of them alive.
template <class Mem = host_memory>
struct Latent {
  View<const float, Mem> enter_weight, leave_weight;
  const float* enter_bias = nullptr;
  const float* leave_bias = nullptr;
  const float* norm = nullptr;  // [M]
  float norm_eps = 0;           // above 0: x' is normalised

  int width() const noexcept { return enter_weight.rows; }
  int outer_width() const noexcept { return enter_weight.cols; }
  template <class X>
  void enter(const X& executor, Frame<Mem>& f, View<const float, Mem> in, View<float, Mem> out) const {
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
  const float* bias = nullptr;
  template <class X, class M>
  void finish(const X& executor, Frame<M>& f, View<float, M> y) const {
    executor.rows(f, y.rows, detail::AddBias<M>{y, bias});
  }
};

/// y = gain * y / rms(y), over routed and shared experts together (A.X-K1); gain [H] or null.
struct OutputNorm {
  const float* gain = nullptr;
  float epsilon = 1e-6f;
  template <class X, class M>
  void finish(const X& executor, Frame<M>& f, View<float, M> y) const {
    executor.rows(f, y.rows, detail::NormaliseRow<M>{y, y, gain, epsilon, 1.0f});
  }
};

}  // namespace moe

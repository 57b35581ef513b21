// Gates: how inputs become logits.
#pragma once

#include <cmath>
#include <string>

#include <moe/concepts.hpp>
#include <moe/error.hpp>
#include <moe/layer/rows.hpp>

namespace moe {

namespace detail {

template <class M>
View<float, M> columns(View<float, M> v, int first, int count) {
  return {v.data + first, v.rows, count, v.stride};
}

}  // namespace detail

/// logits = x W^T + b in float32, of x and W in float, bf16 or f16. Holds no weights: the host application keeps [L,H]
/// (and [L]) alive.
template <class M = host_memory>
class Linear {
 public:
  /// `rounded_to`: the type in which the model keeps its logits; picks of a bfloat16 model may depend on it.
  explicit Linear(ConstElementView<M> weight, const float* bias = nullptr,
                  ElementType rounded_to = ElementType::float32)
      : weight_(weight), bias_(bias), rounded_to_(rounded_to) {}

  int outputs() const noexcept { return weight_.rows; }
  int inputs() const noexcept { return weight_.cols; }
  ConstElementView<M> weight() const noexcept { return weight_; }
  const float* bias() const noexcept { return bias_; }
  template <class F>
  void tables(F&& f) {
    f(bias_, outputs());
  }

  template <class X>
  void logits(const X& executor, Frame<M>& f, const GateCall<M>& c) const {
    executor.linear(f, c.in, weight_, bias_, c.logits);
    if (rounded_to_ != ElementType::float32)
      executor.rows(f, c.logits.rows, detail::RoundRow<M>{c.logits, rounded_to_});
  }

 private:
  ConstElementView<M> weight_;
  const float* bias_;
  ElementType rounded_to_;
};
template <class T, class M>
Linear(View<T, M>) -> Linear<M>;
template <class T, class M>
Linear(View<T, M>, const float*) -> Linear<M>;
template <class T, class M>
Linear(View<T, M>, const float*, ElementType) -> Linear<M>;

/// logits = W (H^-1/2 * gain * x / rms(x)): Gemma-4's router. `gain` [H], `weight` [L,H]; the caller keeps both alive.
template <class M = host_memory>
class NormalisedLinear {
 public:
  NormalisedLinear(ConstElementView<M> weight, const float* gain, float epsilon)
      : weight_(weight), gain_(gain), epsilon_(epsilon) {}

  int outputs() const noexcept { return weight_.rows; }
  int inputs() const noexcept { return weight_.cols; }
  int scratch_columns() const noexcept { return weight_.cols; }
  template <class F>
  void tables(F&& f) {
    f(gain_, inputs());
  }

  template <class X>
  void logits(const X& executor, Frame<M>& f, const GateCall<M>& c) const {
    const float scale = 1 / std::sqrt(static_cast<float>(c.in.cols));
    executor.rows(f, c.in.rows, detail::NormaliseRow<M>{c.in, c.scratch, gain_, epsilon_, scale});
    executor.linear(f, c.scratch, weight_, nullptr, c.logits);
  }

 private:
  ConstElementView<M> weight_;
  const float* gain_;
  float epsilon_;
};
template <class T, class M>
NormalisedLinear(View<T, M>, const float*, float) -> NormalisedLinear<M>;

/// The weights of a CarriedMlp, kept alive by the caller; R is the width of the state.
template <class M = host_memory>
struct CarriedMlpWeights {
  ConstElementView<M> enter;          // [R,H]
  const float* enter_bias = nullptr;  // [R]
  const float* carried = nullptr;     // [R], multiplies the state of the layer before; null: 1
  const float* norm = nullptr;        // [R]
  float norm_eps = 1e-5f;
  ConstElementView<M> first;          // [R,R]
  const float* first_bias = nullptr;  // [R]
  ConstElementView<M> second;
  const float* second_bias = nullptr;
  ConstElementView<M> leave;  // [L,R]
};

/// Zaya's router: s = W x + b + carried * state of the layer before; logits = W3 gelu(W2 gelu(W1 norm(s))).
/// Reads Call::router_state_in [T,R] where there is one, and writes s to Call::router_state_out.
template <class M = host_memory>
class CarriedMlp {
 public:
  explicit CarriedMlp(const CarriedMlpWeights<M>& weights) : w_(weights) {}

  int outputs() const noexcept { return w_.leave.rows; }
  int inputs() const noexcept { return w_.enter.cols; }
  int state_columns() const noexcept { return w_.enter.rows; }
  int scratch_columns() const noexcept { return 2 * state_columns(); }
  template <class F>
  void tables(F&& f) {
    for (const float** table : {&w_.enter_bias, &w_.carried, &w_.norm, &w_.first_bias, &w_.second_bias})
      f(*table, state_columns());
  }

  template <class X>
  void logits(const X& executor, Frame<M>& f, const GateCall<M>& c) const {
    const int width = state_columns(), rows = c.in.rows;
    const View<float, M> state = detail::columns(c.scratch, 0, width);
    const View<float, M> hidden = detail::columns(c.scratch, width, width);
    executor.linear(f, c.in, w_.enter, w_.enter_bias, state);
    if (c.state_in.data != nullptr) executor.rows(f, rows, detail::AddScaledRow<M>{c.state_in, state, w_.carried});
    if (c.state_out.data != nullptr) executor.rows(f, rows, detail::CopyFloats<M>{state, c.state_out});
    executor.rows(f, rows, detail::NormaliseRow<M>{state, hidden, w_.norm, w_.norm_eps, 1.0f});
    executor.linear(f, hidden, w_.first, w_.first_bias, state);
    executor.rows(f, rows, detail::GeluOfRow<M>{state});
    executor.linear(f, state, w_.second, w_.second_bias, hidden);
    executor.rows(f, rows, detail::GeluOfRow<M>{hidden});
    executor.linear(f, hidden, w_.leave, nullptr, c.logits);
  }

 private:
  CarriedMlpWeights<M> w_;
};
template <class M>
CarriedMlp(CarriedMlpWeights<M>) -> CarriedMlp<M>;

/// logits = W x + G (logits of the layer before): MoE++'s gating residuals (Jin et al. 2024, eq. 6). The carried router
/// state are the logits. `weight` [L,H], `residual` [L,L]; the caller keeps both alive.
template <class M = host_memory>
class ResidualLinear {
 public:
  ResidualLinear(ConstElementView<M> weight, ConstElementView<M> residual) : weight_(weight), residual_(residual) {}

  int outputs() const noexcept { return weight_.rows; }
  int inputs() const noexcept { return weight_.cols; }
  int state_columns() const noexcept { return weight_.rows; }
  int scratch_columns() const noexcept { return weight_.rows; }

  template <class X>
  void logits(const X& executor, Frame<M>& f, const GateCall<M>& c) const {
    executor.linear(f, c.in, weight_, nullptr, c.logits);
    if (c.state_in.data != nullptr) {
      executor.linear(f, c.state_in, residual_, nullptr, c.scratch);
      executor.rows(f, c.in.rows, detail::AddScaledRow<M>{c.scratch, c.logits, nullptr});
    }
    if (c.state_out.data != nullptr) executor.rows(f, c.in.rows, detail::CopyFloats<M>{c.logits, c.state_out});
  }

 private:
  ConstElementView<M> weight_, residual_;
};
template <class T, class U, class M>
ResidualLinear(View<T, M>, View<U, M>) -> ResidualLinear<M>;

/// A gate for each modality, chosen row by row: logits_t = W_m x_t + b_m, where m is the modality of row t (Ming-Omni's
/// MultiRouter). `weight` [modalities L, H] and `bias` [modalities L] stand below each other in the order of
/// modalities; the caller keeps both alive. A modality that is none of the model's, and a call that names none, is the
/// first. Costs the gates of all modalities for each row of a call that names them.
template <class M = host_memory>
class LinearByModality {
 public:
  /// Throws Error unless the rows of `weight` are the same number for each modality.
  LinearByModality(ConstElementView<M> weight, int modalities, const float* bias = nullptr)
      : weight_(weight), modalities_(modalities), bias_(bias) {
    if (modalities < 1 || weight.rows % modalities != 0)
      raise(Error("moe::LinearByModality", "modalities", concat("a divisor of the ", weight.rows, " rows"),
                  std::to_string(modalities)));
  }

  int outputs() const noexcept { return weight_.rows / modalities_; }
  int inputs() const noexcept { return weight_.cols; }
  int scratch_columns() const noexcept { return weight_.rows; }
  template <class F>
  void tables(F&& f) {
    f(bias_, weight_.rows);
  }

  template <class X>
  void logits(const X& executor, Frame<M>& f, const GateCall<M>& c) const {
    if (c.modalities == nullptr) return executor.linear(f, c.in, weight_.slice(0, outputs()), bias_, c.logits);
    executor.linear(f, c.in, weight_, bias_, c.scratch);
    executor.rows(f, c.in.rows, detail::PickModality<M>{c.scratch, c.logits, c.modalities});
  }

 private:
  ConstElementView<M> weight_;
  int modalities_;
  const float* bias_;
};
template <class T, class M>
LinearByModality(View<T, M>, int) -> LinearByModality<M>;
template <class T, class M>
LinearByModality(View<T, M>, int, const float*) -> LinearByModality<M>;

/// For layers whose calls always bring logits or a table.
struct NoGate {
  static constexpr int outputs() noexcept { return 0; }
  static constexpr int inputs() noexcept { return 0; }
  template <class X, class M>
  static void logits(const X&, Frame<M>&, const GateCall<M>&) {}
};

/// Floats per row that a gate works in.
template <class G>
constexpr int scratch_columns([[maybe_unused]] const G& gate) noexcept {
  if constexpr (requires { gate.scratch_columns(); })
    return gate.scratch_columns();
  else
    return 0;
}
/// Width of the router state that a gate takes from the layer before and hands on; 0: none.
template <class G>
constexpr int state_columns([[maybe_unused]] const G& gate) noexcept {
  if constexpr (requires { gate.state_columns(); })
    return gate.state_columns();
  else
    return 0;
}

}  // namespace moe

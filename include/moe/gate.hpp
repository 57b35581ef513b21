// Gates: how inputs become logits.
#pragma once

#include <moe/concepts.hpp>

namespace moe {

/// logits = x W^T + b in float32. Holds no weights: the host application keeps [L,H] (and [L]) alive.
template <class M = host_memory>
class Linear {
 public:
  explicit Linear(View<const float, M> weight, const float* bias = nullptr) : weight_(weight), bias_(bias) {}

  int outputs() const noexcept { return weight_.rows; }
  int inputs() const noexcept { return weight_.cols; }
  View<const float, M> weight() const noexcept { return weight_; }
  const float* bias() const noexcept { return bias_; }

  template <class X>
  void logits(const X& executor, Frame<M>& f, View<const float, M> in, View<float, M> out) const {
    executor.linear(f, in, weight_, bias_, out);
  }

 private:
  View<const float, M> weight_;
  const float* bias_;
};
template <class T, class M>
Linear(View<T, M>) -> Linear<M>;
template <class T, class M>
Linear(View<T, M>, const float*) -> Linear<M>;

/// For layers whose calls always bring logits or a table.
struct NoGate {
  static constexpr int outputs() noexcept { return 0; }
  static constexpr int inputs() noexcept { return 0; }
  template <class X, class F, class In, class Out>
  static void logits(const X&, F&, In, Out) {}
};

}  // namespace moe

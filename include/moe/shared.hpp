// Shared experts, which every token passes: where they live, their form, and how they are mixed with the routed ones.
#pragma once

#include <string>
#include <utility>

#include <moe/concepts.hpp>
#include <moe/gate.hpp>

namespace moe {

namespace detail {

template <class X, class M, class Weight>
void fill_shared(const X& executor, Frame<M>& f, const Weight& weight) {
  executor.rows(f, f.dims.tokens, FillShared<Weight, M>{f.table, weight});
}
template <class X, class M, class Factor>
void scale_rows(const X& executor, Frame<M>& f, const Factor& factor) {
  executor.rows(f, f.dims.tokens, ScaleRow<Factor, M>{f.table, factor});
}

/// Row t of the shared table = what the router makes of the logits behind those of the routed experts.
template <class Router, class M>
struct WeighByRouter {
  Router router;
  View<const float, M> logits;
  RoutingTable<M> routed;
  View<float, M> weights;  // [T,S]
  RoutingTable<M> shared;
  MOE_HD void operator()(int t) const noexcept {
    RowContext row;
    row.logits = logits.row(t);
    router.weigh_shared(row, routed.slots.row(t).first(routed.size(t)), weights.row(t));
    for (int s = 0; s < shared.slots.cols; ++s) shared.slots.row(t)[s] = {s, weights.row(t)[s]};
    shared.count[t] = shared.slots.cols;
  }
};

/// y += w (a0 x + a1 v) for the choices of row t in [first, first + C).
template <class M>
struct AddConstants {
  ExpertId first;
  View<const float, M> gate, value;
  RoutingTable<M> table;
  ConstElementView<M> in;
  View<float, M> y;
  MOE_HD void operator()(int t) const noexcept {
    for (int k = 0; k < table.size(t); ++k) {
      const Slot slot = table.slots.row(t)[k];
      const int c = slot.expert - first;
      if (c >= 0 && c < value.rows) add(t, c, slot.weight);
    }
  }
  MOE_HD void add(int t, int c, float weight) const noexcept {
    const ElementRow x = in.row(t);
    const Row<const float> v = value.row(c);
    const float a0 = sigmoid(dot(gate.row(2 * c), x) - dot(gate.row(2 * c + 1), x));
    for (int i = 0; i < x.size(); ++i) y.row(t)[i] = fma(weight, fma(a0, x[i], (1 - a0) * v[i]), y.row(t)[i]);
  }
};

}  // namespace detail

// ---- mixing: `weigh(executor, shared frame, in, routed frame)` gives each row's weight of each shared expert

/// y = routed + sum of the shared experts (DeepSeekMoE, Dai et al. 2024, eq. 9).
struct AddShared {
  static constexpr int num_logits() noexcept { return 0; }
  template <class X, class M>
  void weigh(const X& executor, Frame<M>& f, ConstElementView<M>, Frame<M>&) const {
    detail::fill_shared(executor, f, detail::SameWeight{1.0f});
  }
};

/// y = (routed + shared) / 2 (Cohere2-MoE's `average`); with S shared experts their sum counts as one.
struct AverageShared {
  static constexpr int num_logits() noexcept { return 0; }
  template <class X, class M>
  void weigh(const X& executor, Frame<M>& f, ConstElementView<M>, Frame<M>& routed) const {
    detail::fill_shared(executor, f, detail::SameWeight{0.5f});
    detail::scale_rows(executor, routed, detail::SameWeight{0.5f});
  }
};

/// y = routed + sigmoid(x . v) * shared (Qwen1.5-MoE). `gate` is [1,H], or [S,H] for a gate of each shared expert.
template <class M = host_memory>
struct SigmoidShared {
  ConstElementView<M> gate;
  int num_logits() const noexcept { return gate.rows; }
  template <class X>
  void weigh(const X& executor, Frame<M>& f, ConstElementView<M> in, Frame<M>&) const {
    executor.linear(f, in, gate, nullptr, f.logits);
    detail::fill_shared(executor, f, detail::SigmoidWeight<M>{f.logits});
  }
};

/// y = c0 * routed + c1 * dense, c = softmax(x W^T + b): the residual expert of PR-MoE (Rajbhandari et al. 2022,
/// section 4.1; the training layer's order of coefficients). `coefficient` [2,H], `bias` [2].
template <class M = host_memory>
struct LearnedMix {
  ConstElementView<M> coefficient;
  const float* bias = nullptr;
  static constexpr int num_logits() noexcept { return 2; }
  template <class F>
  void tables(F&& f) {
    f(bias, 2);
  }
  template <class X>
  void weigh(const X& executor, Frame<M>& f, ConstElementView<M> in, Frame<M>& routed) const {
    executor.linear(f, in, coefficient, bias, f.logits);
    detail::fill_shared(executor, f, detail::MixWeight<M>{f.logits, 1});
    detail::scale_rows(executor, routed, detail::MixWeight<M>{f.logits, 0});
  }
};

/// Weights of the shared experts come from logits of the router behind those of the routed experts, normalised with
/// them (Inkling). `router` is the layer's own, with `weigh_shared`.
template <class Router>
struct RouterWeightedShared {
  Router router;
  int num_logits() const noexcept { return router.shared; }
  template <class F>
  void tables(F&& f) {
    visit_tables(router, f);
  }
  template <class X, class M>
  void weigh(const X& executor, Frame<M>& f, ConstElementView<M>, Frame<M>& routed) const {
    if (routed.routing_logits.data == nullptr && f.dims.tokens > 0)
      raise(Error("moe::RouterWeightedShared", "the call", "logits, by the gate or in the call", "a table"));
    executor.rows(f, f.dims.tokens,
                  detail::WeighByRouter<Router, M>{router, routed.routing_logits, routed.table, f.logits, f.table});
  }
};

/// Shared experts of one layer: a resident storage of S experts with the routed ones' outer width, and their mixing.
template <class Storage, class Mixing = AddShared, class Form = ExpertForm<SwiGlu>>
struct SharedExperts {
  Storage storage;
  Mixing mixing{};
  Form form{};

  int num_logits() const noexcept { return mixing.num_logits(); }
  template <class F>
  void tables(F&& f) {
    visit_tables(mixing, f);
  }
  template <class X, class M>
  void weigh(const X& executor, Frame<M>& f, ConstElementView<M> in, Frame<M>& routed) const {
    mixing.weigh(executor, f, in, routed);
  }
};
template <class S>
SharedExperts(S) -> SharedExperts<S>;
template <class S, class M>
SharedExperts(S, M) -> SharedExperts<S, M>;
template <class S, class M, class F>
SharedExperts(S, M, F) -> SharedExperts<S, M, F>;

/// MoE++'s constant experts (Jin et al. 2024, eq. 5): for ids in [first, first + C), y += w (a0 x + a1 v) with
/// a = softmax(W x). `gate` is [2C,H], two rows for each; `value` [C,H]. The caller keeps both alive.
template <class M = host_memory>
struct ConstantExperts {
  ExpertId first = 0;
  View<const float, M> gate, value;

  template <class X>
  void add(const X& executor, Frame<M>& f, ConstElementView<M> in, View<float, M> y) const {
    executor.rows(f, in.rows, detail::AddConstants<M>{first, gate, value, f.table, in, y});
  }
};

}  // namespace moe

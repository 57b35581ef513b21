// Row functors: what a layer computes row by row beside products. Named types, because device executors run them inside
// kernels.
#pragma once

#include <moe/activations.hpp>
#include <moe/math.hpp>
#include <moe/router_hooks.hpp>
#include <moe/routing.hpp>
#include <moe/tensor.hpp>

namespace moe::detail {

// ---- routing

/// Row t of the table = the router's choices.
template <class R, class M>
struct SelectRow {
  R router;
  RoutingTable<M> table;
  RouteContext<M> context;
  View<const float, M> logits;
  MOE_HD void operator()(int t) const noexcept {
    const RowContext row = context.at(t, logits.row(t));
    const Row<Slot> out = table.slots.row(t);
    table.count[t] = select(router, row, row.picks >= 0 && row.picks < out.size() ? out.first(row.picks) : out);
  }
};
/// Row t of the table = what the call brings, as far as it is filled.
template <class M>
struct CopyRow {
  RoutingTable<M> from, to;
  MOE_HD void operator()(int t) const noexcept {
    const int most = to.slots.cols;
    const int n = from.size(t) < 0 ? 0 : (from.size(t) < most ? from.size(t) : most);
    for (int k = 0; k < n; ++k) to.slots.row(t)[k] = from.slots.row(t)[k];
    to.count[t] = n;
  }
};
/// The column rule looks at the choices of expert e,
template <class R, class M>
struct AdmitColumn {
  R router;
  RoutingTable<M> table;
  Dispatch<M> dispatch;
  RouteContext<M> context;
  MOE_HD void operator()(int e) const noexcept {
    const View<Slot, M>& slots = table.slots;
    admit(router, Column{.expert = e,
                         .entries = dispatch.entries(e),
                         .slots = {slots.data, slots.rows * slots.cols},
                         .slots_per_row = slots.cols,
                         .tokens = slots.rows,
                         .first_row = context.first_row,
                         .seed = context.seed,
                         .positions = context.positions});
  }
};
/// and then at what is left of row t.
template <class R, class M>
struct FinishRow {
  R router;
  RoutingTable<M> table;
  MOE_HD void operator()(int t) const noexcept { finish(router, table.slots.row(t).first(table.count[t])); }
};

/// Row t of y = the float32 sums, rounded to its type.
template <class M>
struct NarrowRow {
  View<const float, M> sums;
  ElementView<M> y;
  MOE_HD void operator()(int t) const noexcept {
    for (int i = 0; i < y.cols; ++i) y.set(t, i, sums.row(t)[i]);
  }
};

// ---- gates, envelopes, outputs

/// out = gain * in / rms(in), times a constant (Zhang & Sennrich 2019); no gain: 1. `out` may be `in`.
template <class M>
struct NormaliseRow {
  ConstElementView<M> in;
  View<float, M> out;
  const float* gain;
  float epsilon, scale;
  MOE_HD void operator()(int t) const noexcept {
    const ElementRow x = in.row(t);
    const float inverse = scale / root_mean_square(x, epsilon);
    for (int i = 0; i < x.size(); ++i) out.row(t)[i] = x[i] * inverse * (gain != nullptr ? gain[i] : 1.0f);
  }
};

/// out [T,L] = those L columns of in [T, modalities L] that belong to the row's modality.
template <class M>
struct PickModality {
  View<const float, M> in;
  View<float, M> out;
  const int* modalities;
  MOE_HD void operator()(int t) const noexcept {
    const int m = modalities[t];
    const int first = m >= 0 && m < in.cols / out.cols ? m * out.cols : 0;
    for (int i = 0; i < out.cols; ++i) out.row(t)[i] = in.row(t)[first + i];
  }
};

/// out += in * gain, by column; no gain: 1.
template <class M>
struct AddScaledRow {
  View<const float, M> in;
  View<float, M> out;
  const float* gain;
  MOE_HD void operator()(int t) const noexcept {
    for (int i = 0; i < out.cols; ++i)
      out.row(t)[i] = fma(in.row(t)[i], gain != nullptr ? gain[i] : 1.0f, out.row(t)[i]);
  }
};

template <class M>
struct CopyFloats {
  View<const float, M> in;
  View<float, M> out;
  MOE_HD void operator()(int t) const noexcept {
    for (int i = 0; i < out.cols; ++i) out.row(t)[i] = in.row(t)[i];
  }
};

template <class M>
struct GeluOfRow {
  View<float, M> rows;
  MOE_HD void operator()(int t) const noexcept {
    for (float& x : rows.row(t)) x = gelu(x);
  }
};

/// Rounds to the numbers of a narrower type.
template <class M>
struct RoundRow {
  View<float, M> rows;
  ElementType type;
  MOE_HD void operator()(int t) const noexcept {
    for (float& x : rows.row(t)) x = type == ElementType::bfloat16 ? float(bf16(x)) : float(f16(x));
  }
};

template <class M>
struct AddBias {
  View<float, M> rows;
  const float* bias;
  MOE_HD void operator()(int t) const noexcept {
    for (int i = 0; i < rows.cols; ++i) rows.row(t)[i] += bias[i];
  }
};

/// Divides each expert's output for row t by its root mean square.
template <class M>
struct NormaliseExperts {
  RoutingTable<M> table;
  View<float, M> partial;
  IdMap ids;
  float epsilon;
  MOE_HD void operator()(int t) const noexcept {
    for (int k = 0; k < table.size(t); ++k) {
      if (!ids.network(table.slots.row(t)[k].expert)) continue;
      const Row<float> row = partial.row(t * table.slots.cols + k);
      const float inverse = 1 / root_mean_square(row, epsilon);
      for (float& x : row) x *= inverse;
    }
  }
};

// ---- shared experts

/// Shared expert s in slot s, with the weight that `weight(t, s)` gives.
template <class Weight, class M>
struct FillShared {
  RoutingTable<M> table;
  Weight weight;
  MOE_HD void operator()(int t) const noexcept {
    for (int s = 0; s < table.slots.cols; ++s) table.slots.row(t)[s] = {s, weight(t, s)};
    table.count[t] = table.slots.cols;
  }
};
struct SameWeight {
  float weight;
  MOE_HD float operator()(int, int) const noexcept { return weight; }
};
/// sigmoid of column s, or of the only one.
template <class M>
struct SigmoidWeight {
  View<const float, M> logits;
  MOE_HD float operator()(int t, int s) const noexcept { return sigmoid(logits.row(t)[logits.cols > 1 ? s : 0]); }
};
/// softmax over two columns.
template <class M>
struct MixWeight {
  View<const float, M> logits;
  int column;
  MOE_HD float operator()(int t, int) const noexcept {
    const Row<const float> l = logits.row(t);
    return sigmoid(l[column] - l[1 - column]);
  }
};
/// Multiplies the weights of row t by `factor(t, 0)`.
template <class Factor, class M>
struct ScaleRow {
  RoutingTable<M> table;
  Factor factor;
  MOE_HD void operator()(int t) const noexcept {
    const float scale = factor(t, 0);
    for (int k = 0; k < table.size(t); ++k) table.slots.row(t)[k].weight *= scale;
  }
};

}  // namespace moe::detail

// EigenReference: the readable executor, every step a plain Eigen expression. Needs Eigen 3.4.
#pragma once

#include <Eigen/Core>
#include <moe/concepts.hpp>
#include <moe/layout.hpp>

namespace moe {

/// Computes experts with Eigen, one token at a time on the calling thread; unpacks every expert at every use.
/// For reading, and for checking faster executors against: results agree with theirs up to rounding.
struct EigenReference {
  using memory = host_memory;
  using layout = PanelLayout;

  Frame<memory> carve(Arena& main, Arena& staging, const Dims& d, IdMap ids) const {
    Frame<memory> f = carve_tables<memory>(main, staging, d, ids);
    f.partial = main.matrix<float, memory>(d.tokens * d.slots, d.hidden);
    return f;
  }

  template <class F>
  void rows(Frame<memory>&, int n, const F& row) const {
    for (int i = 0; i < n; ++i) row(i);
  }
  void linear(Frame<memory>&, View<const float> in, View<const float> w, const float* bias, View<float> out) const {
    for (int t = 0; t < in.rows; ++t)
      for (int n = 0; n < w.rows; ++n)
        out.row(t)[n] = vector(w.row(n)).dot(vector(in.row(t))) + (bias == nullptr ? 0.0f : bias[n]);
  }

  /// partial row = down activation(gate x, up x); zero if the expert was skipped by choice.
  template <class... F, class Form>
  void experts(Frame<memory>& f, View<const float> in, Row<const ExpertRef> refs, formats<F...> list,
               const ExpertShape& s, const Form& form, WavePosition) const {
    for (const ExpertRef& ref : refs) {
      const Row<const int> entries = f.dispatch.entries(ref.expert), rows = f.dispatch.rows(ref.expert);
      for (const int entry : entries) vector(f.partial.row(entry)).setZero();
      if (entries.empty() || ref.bytes == nullptr) continue;
      with_format(list, ref.format, [&](auto format) {
        const Expert expert = unpack<typename decltype(format)::type>(ref.bytes, s);
        for (int i = 0; i < entries.size(); ++i) run(expert, f, in.row(rows[i]), entries[i], form);
      });
    }
  }

  /// y = [y +] sum over slots, in slot order, of weight * partial row; identities add weight * x.
  template <class Form>
  void combine(Frame<memory>& f, View<const float> in, const Form& form, View<float> y, bool add) const {
    for (int t = 0; t < f.dims.tokens; ++t) {
      auto sum = vector(y.row(t));
      if (!add) sum.setZero();
      for (int k = 0; k < f.table.size(t); ++k) {
        const Slot slot = f.table.slots.row(t)[k];
        const float weight = form.weight_on == WeightOn::output ? slot.weight : 1.0f;
        if (f.ids.network(slot.expert)) sum += weight * vector(f.partial.row(t * f.dims.slots + k));
        if (f.ids.identity(slot.expert)) sum += slot.weight * vector(in.row(t));
      }
    }
  }

 private:
  using Vector = Eigen::VectorXf;
  struct Projection {
    Eigen::MatrixXf weights;
    Vector bias;
  };
  struct Expert {
    Projection gate, up, down;  // [F,H] [F,H] [H,F]
  };
  static Eigen::Map<const Vector> vector(Row<const float> row) { return {row.data(), row.size()}; }
  static Eigen::Map<Vector> vector(Row<float> row) { return {row.data(), row.size()}; }

  template <class Form>
  static void run(const Expert& e, Frame<memory>& f, Row<const float> in, int entry, const Form& form) {
    const auto x = vector(in);
    const float weight = form.weight_on == WeightOn::input ? f.table.slots.data[entry].weight : 1.0f;
    const Vector up = weight * (e.up.weights * x) + e.up.bias;
    Vector gate = up;
    if constexpr (Form::activation::gated) gate = weight * (e.gate.weights * x) + e.gate.bias;
    const Vector mid = gate.binaryExpr(up, form.act);
    vector(f.partial.row(entry)) = e.down.weights * mid + e.down.bias;
  }

  template <class Format>
  static Expert unpack(const std::byte* record, const ExpertShape& s) {
    using Formats = projection_formats<Format>;
    const Panels up = layout::up_panels<Format>(record, s), down = layout::down_panels<Format>(record, s);
    return {s.gated ? projection<typename Formats::up>(up, 0, s.ffn) : Projection{},
            projection<typename Formats::up>(up, s.gated ? 1 : 0, s.ffn),
            projection<typename Formats::down>(down, 0, s.hidden)};
  }
  template <class Format>
  static Projection projection(const Panels& panels, int side, int outputs) {
    Projection p{Eigen::MatrixXf(outputs, panels.inputs), Vector::Zero(outputs)};
    for (int i = 0; i < outputs; ++i) {
      const int panel = i / layout::width, column = i % layout::width;
      for (int k = 0; k < panels.inputs; ++k)
        p.weights(i, k) = layout::element<Format>(panels.panel(panel, side), panels.stride, column, k);
      if (const float* bias = panels.panel_bias(panel, side)) p.bias[i] = bias[column];
    }
    return p;
  }
};

}  // namespace moe

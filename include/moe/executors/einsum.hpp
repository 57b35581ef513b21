// EinsumReference: experts by one-hot dispatch and combine products, as sparse einsums of DeepSpeed and GShard do.
#pragma once

#include <cmath>
#include <cstring>
#include <span>
#include <string>

#include <moe/concepts.hpp>
#include <moe/cpu/targets.hpp>

namespace moe {

/// The baseline that mapping tables replaced (DeepSpeed-MoE, section 5.4): with C places per expert and a one-hot mask
/// [T,E,C], dispatch is the product `sec,sm->ecm`, every expert computes all of its C places, empty ones too, and
/// combine is the product `sec,ecm->sm` with the weights in the mask. 4 T E C M operations that mapping tables do not
/// need.
///
/// For checking and measuring: results agree with the inner executor's up to the order of sums, and are those of its
/// own kernels where a row has one expert. Products run on the calling thread with the inner executor's instruction
/// set, by the kernel that computes experts; the masks are made block by block. Infinities and NaN in one row reach all
/// others, as in every product with zeros.
template <class Inner>
struct EinsumReference {
  using memory = host_memory;
  using layout = PanelLayout;

  Inner inner;       // gates, rows, and the instruction set: a CpuExecutor
  int capacity = 0;  // C; 0: as many as there are rows

  Frame<memory> carve(Arena& main, Arena& staging, const Dims& d, IdMap ids) const {
    Frame<memory> f = carve_tables<memory>(main, staging, d, ids);
    f.partial = padded(main, d.tokens * d.slots, d.hidden);
    auto* s = main.take<Scratch>(1);
    Scratch scratch;
    scratch.places = capacity > 0 && capacity < d.tokens ? capacity : d.tokens;
    const int columns = d.experts * scratch.places, block = larger(scratch.places, token_block);
    scratch.rows = padded(main, block, d.hidden);
    scratch.mid = padded(main, scratch.places, d.ffn);
    scratch.out = padded(main, scratch.places, d.hidden);
    scratch.mask = main.matrix<float, memory>(block, larger(d.tokens, columns));
    scratch.x = main.matrix<float, memory>(panels(d.hidden) * d.tokens, PanelLayout::width);
    scratch.y = main.matrix<float, memory>(panels(d.hidden) * columns, PanelLayout::width);
    scratch.in_order = main.take<int>(static_cast<std::size_t>(block));
    f.scratch = s;
    if (s != nullptr) {
      *s = scratch;
      for (int i = 0; i < block; ++i) s->in_order[i] = i;
    }
    return f;
  }

  template <class F>
  void rows(Frame<memory>& f, int n, const F& row) const {
    inner.rows(f, n, row);
  }
  void linear(Frame<memory>& f, View<const float> in, View<const float> w, const float* bias, View<float> out) const {
    inner.linear(f, in, w, bias, out);
  }
  void group(Frame<memory>& f) const { group_by_expert(f.table, f.ids, f.dispatch); }
  std::span<ExpertNeed> needs(Frame<memory>& f) const { return collect_needs(f.table, f.ids, f.dispatch, f.needs); }

  /// Throws Error if an expert has more rows than places. Partial rows are written by entry, as other executors do.
  template <class... F, class Form>
  void experts(Frame<memory>& f, View<const float> in, Row<const ExpertRef> refs, formats<F...> list,
               const ExpertShape& shape, const Form& form, Part) const {
    take_rows(f, in);
    for (const ExpertRef& ref : refs) {
      const Row<const int> entries = f.dispatch.entries(ref.expert);
      if (entries.empty()) continue;
      if (ref.bytes != nullptr) {
        dispatch(f, ref.expert, form.weight_on == WeightOn::input);
        with_format(list, ref.format, [&](auto tag) { run<typename decltype(tag)::type>(f, ref, shape, form); });
      }
      for (int c = 0; c < entries.size(); ++c) {
        const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(f.partial.cols);
        if (ref.bytes != nullptr)
          std::memcpy(f.partial.row(entries[c]).data(), scratch(f).out.row(c).data(), bytes);
        else
          std::memset(f.partial.row(entries[c]).data(), 0, bytes);
      }
    }
  }

  template <class Form>
  void combine(Frame<memory>& f, View<const float> in, const Form& form, View<float> y, bool add) const {
    take_partials(f);
    for (int first = 0; first < f.dims.tokens; first += token_block) {
      const int count = f.dims.tokens - first < token_block ? f.dims.tokens - first : token_block;
      combine_mask(f, first, count, form.weight_on == WeightOn::output);
      product(scratch(f).y, columns(f), count, scratch(f).rows, f);
      for (int r = 0; r < count; ++r) {
        const Row<float> to = y.row(first + r);
        for (int i = 0; i < to.size(); ++i) to[i] = (add ? to[i] : 0.0f) + scratch(f).rows.row(r)[i];
        add_identities(f, first + r, in.row(first + r), to);
      }
    }
  }

  /// Before `dispatch`: the rows of x as the weights of a product.
  void take_rows(Frame<memory>& f, View<const float> in) const {
    for (int t = 0; t < in.rows; ++t) to_panels(in.row(t), t, in.rows, scratch(f).x);
  }
  /// The rows of one expert's places [C,H]: mask [C,T] times x [T,H]; zero in empty places.
  void dispatch(Frame<memory>& f, ExpertId e, bool weighted) const {
    const Row<const int> entries = f.dispatch.entries(e);
    const Scratch& s = scratch(f);
    if (entries.size() > s.places)
      raise(Error("moe::EinsumReference", concat("rows of expert ", e), concat("at most the capacity of ", s.places),
                  std::to_string(entries.size())));
    for (int c = 0; c < s.places; ++c) clear(s.mask.row(c).first(f.dims.tokens));
    for (int c = 0; c < entries.size(); ++c) {
      const int t = entries[c] / f.dims.slots;
      s.mask.row(c)[t] = weighted ? f.table.slots.row(t)[entries[c] % f.dims.slots].weight : 1.0f;
    }
    product(s.x, f.dims.tokens, s.places, s.rows, f);
  }

 private:
  static constexpr int token_block = 32;

  struct Scratch {
    int places = 0;           // C
    View<float> mask;         // a block of a mask: [C,T] or [32, E C]
    View<float> x, y;         // [T,H] and [E C, H] in panels
    View<float> rows;         // [C,H] dispatched, or [32,H] combined
    View<float> mid, out;     // [C,F], [C,H]
    int* in_order = nullptr;  // 0, 1, 2, ...
  };
  static Scratch& scratch(const Frame<memory>& f) { return *static_cast<Scratch*>(f.scratch); }
  static int columns(const Frame<memory>& f) { return f.dims.experts * scratch(f).places; }
  static int larger(int a, int b) { return a > b ? a : b; }
  static int panels(int width) { return pieces(width, PanelLayout::width); }
  static View<float, memory> padded(Arena& arena, int rows, int columns) {
    View<float, memory> v = arena.matrix<float, memory>(rows, round_up(columns, PanelLayout::width));
    v.cols = columns;
    return v;
  }
  static void clear(Row<float> row) {
    if (!row.empty()) std::memset(row.data(), 0, sizeof(float) * static_cast<std::size_t>(row.size()));
  }

  /// Row `input` of `inputs` rows of a matrix, as PanelLayout holds the weights of float32.
  static void to_panels(Row<const float> row, int input, int inputs, View<float> panels) {
    constexpr int width = PanelLayout::width;
    for (int first = 0; first < row.size(); first += width) {
      const int count = row.size() - first < width ? row.size() - first : width;
      const Row<float> to = panels.row(first / width * inputs + input);
      clear(to);
      std::memcpy(to.data(), row.data() + first, sizeof(float) * static_cast<std::size_t>(count));
    }
  }
  /// out [count, H] = mask [count, inputs] times the matrix in `panels`.
  void product(View<float> panels_of, int inputs, int count, View<float> out, const Frame<memory>& f) const {
    const Scratch& s = scratch(f);
    cpu::down_kernel<float>(inner.isa)({.panels = reinterpret_cast<const std::byte*>(panels_of.data),
                                        .panel_bytes = PanelLayout::panel_bytes<float>(inputs),
                                        .panel_count = panels(out.cols),
                                        .inputs = inputs,
                                        .in = s.mask.data,
                                        .in_stride = s.mask.stride,
                                        .entry = s.in_order,
                                        .rows = count,
                                        .out = out.data,
                                        .out_stride = out.stride});
  }

  template <class Format, class Form>
  void run(Frame<memory>& f, const ExpertRef& ref, const ExpertShape& shape, const Form& form) const {
    using Act = typename Form::activation;
    using Up = typename projection_formats<Format>::up;
    using Down = typename projection_formats<Format>::down;
    const Scratch& s = scratch(f);
    const RecordOffsets o = PanelLayout::offsets<Format>(shape);
    const auto bias = [&](std::size_t offset) {
      return shape.biased ? reinterpret_cast<const float*>(ref.bytes + offset) : nullptr;
    };
    cpu::up_kernel<Up, Act>(inner.isa)({.panels = ref.bytes + o.up,
                                        .panel_bytes = PanelLayout::panel_bytes<Up>(shape.hidden),
                                        .panel_count = panels(shape.ffn),
                                        .inputs = shape.hidden,
                                        .bias = bias(o.up_bias),
                                        .in = s.rows.data,
                                        .in_stride = s.rows.stride,
                                        .entry = s.in_order,
                                        .rows = s.places,
                                        .out = s.mid.data,
                                        .out_stride = s.mid.stride},
                                       form.act);
    cpu::down_kernel<Down>(inner.isa)({.panels = ref.bytes + o.down,
                                       .panel_bytes = PanelLayout::panel_bytes<Down>(shape.ffn),
                                       .panel_count = panels(shape.hidden),
                                       .inputs = shape.ffn,
                                       .bias = bias(o.down_bias),
                                       .in = s.mid.data,
                                       .in_stride = s.mid.stride,
                                       .entry = s.in_order,
                                       .rows = s.places,
                                       .out = s.out.data,
                                       .out_stride = s.out.stride});
  }

  /// All places [E C, H] of all experts, zero where empty.
  void take_partials(Frame<memory>& f) const {
    const Scratch& s = scratch(f);
    clear(Row<float>(s.y.data, s.y.rows * s.y.cols));
    for (ExpertId e = 0; e < f.dims.experts; ++e) {
      const Row<const int> entries = f.dispatch.entries(e);
      for (int c = 0; c < entries.size(); ++c) to_panels(f.partial.row(entries[c]), e * s.places + c, columns(f), s.y);
    }
  }
  /// Rows [first, first + count) of the mask [T, E C].
  void combine_mask(Frame<memory>& f, int first, int count, bool weighted) const {
    const Scratch& s = scratch(f);
    for (int r = 0; r < count; ++r) clear(s.mask.row(r).first(columns(f)));
    for (ExpertId e = 0; e < f.dims.experts; ++e) {
      const Row<const int> entries = f.dispatch.entries(e);
      for (int c = 0; c < entries.size(); ++c) {
        const int t = entries[c] / f.dims.slots;
        if (t < first || t >= first + count) continue;
        const float weight = f.table.slots.row(t)[entries[c] % f.dims.slots].weight;
        s.mask.row(t - first)[e * s.places + c] = weighted ? weight : 1.0f;
      }
    }
  }
  static void add_identities(const Frame<memory>& f, int t, Row<const float> x, Row<float> y) {
    for (const Slot& slot : f.table.slots.row(t).first(f.table.size(t)))
      if (f.ids.identity(slot.expert))
        for (int i = 0; i < y.size(); ++i) y[i] = std::fma(slot.weight, x[i], y[i]);
  }
};
template <class Inner>
EinsumReference(Inner) -> EinsumReference<Inner>;
template <class Inner>
EinsumReference(Inner, int) -> EinsumReference<Inner>;

}  // namespace moe

// EinsumReference: experts by one-hot dispatch and combine products, as sparse einsums of DeepSpeed and GShard do.
#pragma once

#include <cmath>
#include <cstring>
#include <string>

#include <moe/concepts.hpp>
#include <moe/cpu/targets.hpp>

namespace moe {

/// The frame of EinsumReference: C places per expert.
struct EinsumFrame : Frame<host_memory> {
  int places = 0;                 // C
  View<float> mask;               // a block of a mask: [C,T] or [32, E C]
  View<float> x, y;               // [T,H] and [E C, H] in panels
  View<float> rows;               // [C,H] dispatched, or [32,H] combined
  View<float> intermediate, out;  // [C,F], [C,H]
  int* in_order = nullptr;        // 0, 1, 2, ...
};

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

  EinsumFrame carve(Arena& main, Arena& staging, const Dims& d, IdMap ids) const {
    EinsumFrame f;
    static_cast<Frame<memory>&>(f) = carve_tables<memory>(main, staging, d, ids);
    f.partial = PanelLayout::padded_rows<memory>(main, d.tokens * d.slots, d.hidden);
    f.places = capacity > 0 && capacity < d.tokens ? capacity : d.tokens;
    const int columns = d.experts * f.places, block = larger(f.places, token_block);
    f.rows = PanelLayout::padded_rows<memory>(main, block, d.hidden);
    f.intermediate = PanelLayout::padded_rows<memory>(main, f.places, d.ffn);
    f.out = PanelLayout::padded_rows<memory>(main, f.places, d.hidden);
    f.mask = main.matrix<float, memory>(block, larger(d.tokens, columns));
    f.x = main.matrix<float, memory>(panels(d.hidden) * d.tokens, PanelLayout::width);
    f.y = main.matrix<float, memory>(panels(d.hidden) * columns, PanelLayout::width);
    f.in_order = main.take<int>(static_cast<std::size_t>(block));
    for (int i = 0; f.in_order != nullptr && i < block; ++i) f.in_order[i] = i;
    return f;
  }

  template <class F>
  void rows(Frame<memory>& f, int n, const F& row) const {
    inner.rows(f, n, row);
  }
  void linear(Frame<memory>& f, View<const float> in, View<const float> w, const float* bias, View<float> out) const {
    inner.linear(f, in, w, bias, out);
  }

  /// Throws Error if an expert has more rows than places. Partial rows are written by entry, as other executors do.
  template <class... F, class Form>
  void experts(EinsumFrame& f, View<const float> in, Row<const ExpertRef> refs, formats<F...> list,
               const ExpertShape& shape, const Form& form, WavePosition) const {
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
          std::memcpy(f.partial.row(entries[c]).data(), f.out.row(c).data(), bytes);
        else
          std::memset(f.partial.row(entries[c]).data(), 0, bytes);
      }
    }
  }

  template <class Form>
  void combine(EinsumFrame& f, View<const float> in, const Form& form, View<float> y, bool add) const {
    take_partials(f);
    for (int first = 0; first < f.dims.tokens; first += token_block) {
      const int count = f.dims.tokens - first < token_block ? f.dims.tokens - first : token_block;
      combine_mask(f, first, count, form.weight_on == WeightOn::output);
      product(f.y, columns(f), count, f.rows, f);
      for (int r = 0; r < count; ++r) {
        const Row<float> to = y.row(first + r);
        for (int i = 0; i < to.size(); ++i) to[i] = (add ? to[i] : 0.0f) + f.rows.row(r)[i];
        add_identities(f, first + r, in.row(first + r), to);
      }
    }
  }

  /// Before `dispatch`: the rows of x as the weights of a product.
  void take_rows(EinsumFrame& f, View<const float> in) const {
    for (int t = 0; t < in.rows; ++t) to_panels(in.row(t), t, in.rows, f.x);
  }
  /// The rows of one expert's places [C,H]: mask [C,T] times x [T,H]; zero in empty places.
  void dispatch(EinsumFrame& f, ExpertId e, bool weighted) const {
    const Row<const int> entries = f.dispatch.entries(e), rows = f.dispatch.rows(e);
    if (entries.size() > f.places)
      raise(Error("moe::EinsumReference", concat("rows of expert ", e), concat("at most the capacity of ", f.places),
                  std::to_string(entries.size())));
    for (int c = 0; c < f.places; ++c) clear(f.mask.row(c).first(f.dims.tokens));
    for (int c = 0; c < entries.size(); ++c)
      f.mask.row(c)[rows[c]] = weighted ? f.table.slots.data[entries[c]].weight : 1.0f;
    product(f.x, f.dims.tokens, f.places, f.rows, f);
  }

 private:
  static constexpr int token_block = 32;

  static int columns(const EinsumFrame& f) { return f.dims.experts * f.places; }
  static int larger(int a, int b) { return a > b ? a : b; }
  static int panels(int width) { return pieces(width, PanelLayout::width); }
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
  /// The first `n` rows, each read and written where it stands.
  static cpu::Entries in_order(const EinsumFrame& f, int n) {
    const Row<const int> rows{f.in_order, n};
    return {rows, rows};
  }
  /// out [count, H] = mask [count, inputs] times the matrix in `panels_of`.
  void product(View<float> panels_of, int inputs, int count, View<float> out, const EinsumFrame& f) const {
    cpu::down_kernel<float>(inner.isa)({.panels = {.bytes = reinterpret_cast<const std::byte*>(panels_of.data),
                                                   .stride = PanelLayout::panel_bytes<float>(inputs),
                                                   .inputs = inputs,
                                                   .count = panels(out.cols)},
                                        .in = f.mask,
                                        .entries = in_order(f, count),
                                        .out = out});
  }

  template <class Format, class Form>
  void run(EinsumFrame& f, const ExpertRef& ref, const ExpertShape& shape, const Form& form) const {
    using Formats = projection_formats<Format>;
    cpu::up_kernel<typename Formats::up, typename Form::activation>(inner.isa)(
        {.panels = PanelLayout::up_panels<Format>(ref.bytes, shape),
         .in = f.rows,
         .entries = in_order(f, f.places),
         .out = f.intermediate},
        form.act);
    cpu::down_kernel<typename Formats::down>(inner.isa)({.panels = PanelLayout::down_panels<Format>(ref.bytes, shape),
                                                         .in = f.intermediate,
                                                         .entries = in_order(f, f.places),
                                                         .out = f.out});
  }

  /// All places [E C, H] of all experts, zero where empty.
  void take_partials(EinsumFrame& f) const {
    clear(Row<float>(f.y.data, f.y.rows * f.y.cols));
    for (ExpertId e = 0; e < f.dims.experts; ++e) {
      const Row<const int> entries = f.dispatch.entries(e);
      for (int c = 0; c < entries.size(); ++c) to_panels(f.partial.row(entries[c]), e * f.places + c, columns(f), f.y);
    }
  }
  /// Rows [first, first + count) of the mask [T, E C].
  void combine_mask(EinsumFrame& f, int first, int count, bool weighted) const {
    for (int r = 0; r < count; ++r) clear(f.mask.row(r).first(columns(f)));
    for (ExpertId e = 0; e < f.dims.experts; ++e) {
      const Row<const int> entries = f.dispatch.entries(e), rows = f.dispatch.rows(e);
      for (int c = 0; c < entries.size(); ++c) {
        const int t = rows[c];
        if (t < first || t >= first + count) continue;
        f.mask.row(t - first)[e * f.places + c] = weighted ? f.table.slots.data[entries[c]].weight : 1.0f;
      }
    }
  }
  static void add_identities(const EinsumFrame& f, int t, Row<const float> x, Row<float> y) {
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

// Cpu: SIMD kernels chosen at run time, and threads.
#pragma once

#include <cstring>
#include <memory>

#include <moe/concepts.hpp>
#include <moe/cpu/targets.hpp>
#include <moe/cpu/threads.hpp>

namespace moe {

/// The frame of CpuExecutor.
struct CpuFrame : Frame<host_memory> {
  View<float> intermediate;  // [T*K,F], the activations, by entry
  Row<int> active;           // [E], room for a wave's experts
};

/// Computes experts on the host with the best instruction set of the machine, chosen when the program runs.
///
/// Copies share one pool: make one and hand it to every layer. Results are bit-identical for every instruction set,
/// number of threads and split of the batch. Weights are read once per call and expert; activations are float32.
template <ParallelFor Pool = ThreadPool>
struct CpuExecutor {
  using memory = host_memory;
  using layout = PanelLayout;

  int threads = 0;  // 0: one per hardware thread
  Isa isa = cpu::best_isa();
  std::shared_ptr<Pool> pool = std::make_shared<Pool>(threads);

  CpuFrame carve(Arena& main, Arena& staging, const Dims& d, IdMap ids) const {
    if (!cpu::supports(isa))
      raise(Error("moe::Cpu", "instruction set", "one that this machine has", std::string(isa_name(isa))));
    CpuFrame f;
    static_cast<Frame<memory>&>(f) = carve_tables<memory>(main, staging, d, ids);
    f.intermediate = padded_rows(main, d.tokens * d.slots, d.ffn);
    f.partial = padded_rows(main, d.tokens * d.slots, d.hidden);
    f.active = {main.template take<int>(static_cast<std::size_t>(d.experts)), d.experts};
    return f;
  }

  /// Calls row(i) for i in [0, n).
  template <class F>
  void rows(Frame<memory>&, int n, const F& row) const {
    constexpr int piece = 16;  // a row is a fraction of a microsecond
    pool->run(pieces(n, piece), [&](int p) {
      for (int i = p * piece; i < n && i < (p + 1) * piece; ++i) row(i);
    });
  }

  /// out [T,N] = in [T,H] weight [N,H]^T + bias.
  void linear(Frame<memory>&, View<const float> in, View<const float> weight, const float* bias,
              View<float> out) const {
    constexpr int outputs = 32, block = 32;  // of a task: weights and rows that stay in cache together
    const cpu::DotKernel dot = cpu::dot_kernel(isa);
    const int across = pieces(weight.rows, outputs);
    pool->run(across * pieces(in.rows, block), [&](int task) {
      const int first = task / across * block, rows = in.rows - first < block ? in.rows - first : block;
      const int begin = task % across * outputs, end = begin + outputs < weight.rows ? begin + outputs : weight.rows;
      for (int n = begin; n < end; ++n)
        dot({.in = in.row(first).data(),
             .in_stride = in.stride,
             .rows = rows,
             .weight = weight.row(n).data(),
             .bias = bias == nullptr ? 0.0f : bias[n],
             .inputs = weight.cols,
             .out = out.row(first).data() + n,
             .out_stride = out.stride});
    });
  }

  /// Writes the partial rows of every entry of these experts: one grouped product per projection.
  template <class... F, class Form>
  void experts(CpuFrame& f, View<const float> in, Row<const ExpertRef> refs, formats<F...> list,
               const ExpertShape& s, const Form& form, WavePosition) const {
    const Row<const int> active = with_rows(f, refs);
    for_each_share(active.size(), pieces(s.ffn, PanelLayout::width), [&](int i, int first, int count) {
      const ExpertRef& ref = refs[active[i]];
      with_format(list, ref.format,
                  [&](auto tag) { up<typename decltype(tag)::type>(f, in, ref, s, form, first, count); });
    });
    for_each_share(active.size(), pieces(s.hidden, PanelLayout::width), [&](int i, int first, int count) {
      const ExpertRef& ref = refs[active[i]];
      with_format(list, ref.format, [&](auto tag) { down<typename decltype(tag)::type>(f, ref, s, first, count); });
    });
  }

  /// y = [y +] sum over slots, in slot order, of weight * partial row; identities add weight * x.
  template <class Form>
  void combine(CpuFrame& f, View<const float> in, const Form& form, View<float> y, bool add) const {
    const cpu::CombineKernel kernel = cpu::combine_kernel(isa);
    rows(f, f.dims.tokens, [&](int t) {
      kernel({.slots = f.table.slots.row(t).data(),
              .count = f.table.size(t),
              .ids = f.ids,
              .weighted = form.weight_on == WeightOn::output,
              .partial = f.partial.data + t * f.dims.slots * f.partial.stride,
              .stride = f.partial.stride,
              .x = in.row(t).data(),
              .y = y.row(t).data(),
              .columns = y.cols,
              .add = add});
    });
  }

 private:
  static View<float, memory> padded_rows(Arena& arena, int rows, int columns) {
    View<float, memory> v = arena.template matrix<float, memory>(rows, round_up(columns, PanelLayout::width));
    v.cols = columns;
    return v;
  }

  /// Indices into refs of experts that have work; rows of experts that were skipped by choice become zero.
  static Row<const int> with_rows(CpuFrame& f, Row<const ExpertRef> refs) {
    int n = 0;
    for (int i = 0; i < refs.size(); ++i) {
      const Row<const int> rows = f.dispatch.entries(refs[i].expert);
      if (rows.empty()) continue;
      if (refs[i].bytes != nullptr)
        f.active[n++] = i;
      else
        for (const int entry : rows)
          std::memset(f.partial.row(entry).data(), 0, sizeof(float) * static_cast<std::size_t>(f.partial.stride));
    }
    return f.active.first(n);
  }

  /// Cuts every expert's panels into shares, a few per thread in all, and calls share(expert, first panel, count).
  template <class Share>
  void for_each_share(int experts, int panels, const Share& share) const {
    if (experts == 0) return;
    constexpr int per_thread = 4;
    const int wanted = pool->size() == 1 ? 1 : pieces(per_thread * pool->size(), experts);
    const int shares = wanted < panels ? wanted : panels;
    pool->run(experts * shares, [&](int task) {
      const auto bound = [&](int i) { return static_cast<int>(std::int64_t{panels} * i / shares); };
      const int first = bound(task % shares), end = bound(task % shares + 1);
      share(task / shares, first, end - first);
    });
  }

  template <class Format, class Form>
  void up(CpuFrame& f, View<const float> in, const ExpertRef& ref, const ExpertShape& s, const Form& form,
          int first, int count) const {
    using Up = typename projection_formats<Format>::up;
    using Act = typename Form::activation;
    constexpr int sides = Act::gated ? 2 : 1;
    const RecordOffsets o = PanelLayout::offsets<Format>(s);
    const std::size_t bytes = PanelLayout::panel_bytes<Up>(s.hidden);
    const Row<const int> rows = f.dispatch.entries(ref.expert);
    cpu::up_kernel<Up, Act>(isa)(
        {.panels = ref.bytes + o.up + static_cast<std::size_t>(first) * sides * bytes,
         .panel_bytes = bytes,
         .panel_count = count,
         .inputs = s.hidden,
         .bias = s.biased ? reinterpret_cast<const float*>(ref.bytes + o.up_bias) + first * sides * PanelLayout::width
                          : nullptr,
         .in = in.data,
         .in_stride = in.stride,
         .slots = f.dims.slots,
         .entry = rows.data(),
         .rows = rows.size(),
         .weights = form.weight_on == WeightOn::input ? f.table.slots.data : nullptr,
         .out = f.intermediate.data + first * PanelLayout::width,
         .out_stride = f.intermediate.stride},
        form.act);
  }

  template <class Format>
  void down(CpuFrame& f, const ExpertRef& ref, const ExpertShape& s, int first, int count) const {
    using Down = typename projection_formats<Format>::down;
    const RecordOffsets o = PanelLayout::offsets<Format>(s);
    const std::size_t bytes = PanelLayout::panel_bytes<Down>(s.ffn);
    const Row<const int> rows = f.dispatch.entries(ref.expert);
    cpu::down_kernel<Down>(isa)(
        {.panels = ref.bytes + o.down + static_cast<std::size_t>(first) * bytes,
         .panel_bytes = bytes,
         .panel_count = count,
         .inputs = s.ffn,
         .bias =
             s.biased ? reinterpret_cast<const float*>(ref.bytes + o.down_bias) + first * PanelLayout::width : nullptr,
         .in = f.intermediate.data,
         .in_stride = f.intermediate.stride,
         .slots = 1,
         .entry = rows.data(),
         .rows = rows.size(),
         .weights = nullptr,
         .out = f.partial.data + first * PanelLayout::width,
         .out_stride = f.partial.stride});
  }
};

using Cpu = CpuExecutor<>;

}  // namespace moe

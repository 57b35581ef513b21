// Cpu: SIMD kernels chosen at run time, and threads.
#pragma once

#include <cstring>
#include <memory>
#include <string>

#include <moe/concepts.hpp>
#include <moe/cpu/targets.hpp>
#include <moe/cpu/threads.hpp>

namespace moe {

namespace cpu {
/// How work is cut into tasks for threads, each number from 1 to 2^20; results do not depend on it. Register tiles are
/// chosen when the kernels are compiled: `Tile` of each instruction set.
struct Tuning {
  int rows_per_task = 16;  // of `rows` and `combine`: a row is a fraction of a microsecond, like the hand-out of a task
  int linear_rows = 32, linear_outputs = 32;  // of a task: rows and weights that stay in the cache together
  int shares_per_thread = 4;  // of a wave's panels: with fewer, threads wait for the last one; more cost hand-outs
};
}  // namespace cpu

/// The frame of CpuExecutor.
struct CpuFrame : Frame<host_memory> {
  View<float> intermediate;  // [T*K,F], the activations, by entry
  Row<int> active;           // [E], room for a wave's experts
};

/// Computes experts on the host with the best instruction set of the machine, chosen when the program runs.
///
/// Copies share one pool: make one and hand it to every layer. Results are bit-identical for every instruction set,
/// tuning, number of threads and split of the batch. Weights are read once per call and expert; arithmetic is float32.
///
/// Rows of x in another type are widened where the experts gather them: into partial rows that are not computed yet, so
/// that no second copy of the batch is made. The sums of a y in another type stand in partial rows as well, and are
/// rounded once, at the end.
template <ParallelFor Pool = ThreadPool>
struct CpuExecutor {
  using memory = host_memory;
  using layout = PanelLayout;

  int threads = 0;  // 0: one per hardware thread
  Isa isa = cpu::best_isa();
  std::shared_ptr<Pool> pool = std::make_shared<Pool>(threads);
  cpu::Tuning tuning{};

  /// Throws Error if the machine lacks the instruction set or a number of the tuning is out of range.
  CpuFrame carve(Arena& main, Arena& staging, const Dims& d, IdMap ids) const {
    check();
    CpuFrame f;
    static_cast<Frame<memory>&>(f) = carve_tables<memory>(main, staging, d, ids);
    f.intermediate = PanelLayout::padded_rows<memory>(main, d.tokens * d.slots, d.ffn);
    f.partial = PanelLayout::padded_rows<memory>(main, d.tokens * d.slots, d.hidden);
    f.active = {main.template take<int>(static_cast<std::size_t>(d.experts)), d.experts};
    return f;
  }

  /// Calls row(i) for i in [0, n).
  template <class F>
  void rows(Frame<memory>&, int n, const F& row) const {
    const int step = tuning.rows_per_task;
    pool->run(pieces(n, step), [&](int task) {
      const Range part = piece(n, step, task);
      for (int i = part.first; i < part.first + part.count; ++i) row(i);
    });
  }

  /// out [T,N] = in [T,H] weight [N,H]^T + bias.
  void linear(Frame<memory>&, ConstElementView<memory> in, ConstElementView<memory> weight, const float* bias,
              View<float> out) const {
    const cpu::DotKernel dot = cpu::dot_kernel(isa);
    const int across = pieces(weight.rows, tuning.linear_outputs);
    pool->run(across * pieces(in.rows, tuning.linear_rows), [&](int task) {
      const Range t = piece(in.rows, tuning.linear_rows, task / across);
      const Range n = piece(weight.rows, tuning.linear_outputs, task % across);
      dot({.in = in.slice(t.first, t.count),
           .weight = weight.slice(n.first, n.count),
           .bias = bias == nullptr ? nullptr : bias + n.first,
           .out = {out.row(t.first).data() + n.first, t.count, n.count, out.stride}});
    });
  }

  /// Writes the partial rows of every entry of these experts: one grouped product per projection.
  template <class... F, class Form>
  void experts(CpuFrame& f, ConstElementView<memory> in, Row<const ExpertRef> refs, formats<F...> list,
               const ExpertShape& s, const Form& form, WavePosition position) const {
    const Row<const int> active = with_rows(f, refs);
    const Inputs inputs = gather(f, in, refs, active, position);
    for_each_share(active.size(), pieces(s.ffn, PanelLayout::width), [&](int i, Range panels) {
      const ExpertRef& ref = refs[active[i]];
      with_format(list, ref.format,
                  [&](auto tag) { up<typename decltype(tag)::type>(f, inputs, ref, s, form, panels); });
    });
    for_each_share(active.size(), pieces(s.hidden, PanelLayout::width), [&](int i, Range panels) {
      const ExpertRef& ref = refs[active[i]];
      with_format(list, ref.format, [&](auto tag) { down<typename decltype(tag)::type>(f, ref, s, panels); });
    });
    clear_skipped(f, refs);
  }

  /// y = [y +] sum over slots, in slot order, of weight * partial row; identities add weight * x.
  template <class Form>
  void combine(CpuFrame& f, ConstElementView<memory> in, const Form& form, View<float> y, bool add) const {
    const cpu::CombineKernel kernel = cpu::combine_kernel(isa);
    rows(f, f.dims.tokens, [&](int t) {
      const int slots = f.table.size(t);
      if (!in.is_float()) widen_identities(f, in, t);
      kernel({.slots = f.table.slots.row(t).first(slots),
              .ids = f.ids,
              .partial = f.partial.slice(t * f.dims.slots, slots),
              .x = in.is_float() ? in.floats().row(t) : Row<const float>(),
              .y = y.row(t),
              .weighted = form.weight_on == WeightOn::output,
              .add = add});
    });
  }

  /// Row t of sums is the partial row of its first slot: `combine` reads all slots of some columns before it writes
  /// them.
  View<float, memory> sums(CpuFrame& f) const noexcept { return first_slots(f); }
  void narrow(CpuFrame& f, View<const float> from, ElementView<memory> to) const {
    const cpu::NarrowKernel kernel = cpu::narrow_kernel(isa);
    rows(f, to.rows, [&](int t) { kernel(from.slice(t, 1), to.slice(t, 1)); });
  }

 private:
  struct Range {
    int first, count;
  };
  /// The i-th piece of [0, n), all of size `step` but the last.
  static Range piece(int n, int step, int i) {
    const int first = i * step;
    return {first, n - first < step ? n - first : step};
  }

  void check() const {
    if (!cpu::supports(isa))
      raise(Error("moe::Cpu", "instruction set", "one that this machine has", std::string(isa_name(isa))));
    constexpr int most = 1 << 20;
    for (const int n : {tuning.rows_per_task, tuning.linear_rows, tuning.linear_outputs, tuning.shares_per_thread})
      if (n < 1 || n > most) raise(Error("moe::Cpu", "tuning", concat("numbers from 1 to ", most), std::to_string(n)));
  }

  /// Indices into refs of experts that have work.
  static Row<const int> with_rows(CpuFrame& f, Row<const ExpertRef> refs) {
    int n = 0;
    for (int i = 0; i < refs.size(); ++i)
      if (refs[i].bytes != nullptr && !f.dispatch.entries(refs[i].expert).empty()) f.active[n++] = i;
    return f.active.first(n);
  }
  /// Rows of experts that were skipped by choice become zero.
  static void clear_skipped(CpuFrame& f, Row<const ExpertRef> refs) {
    for (const ExpertRef& ref : refs)
      if (ref.bytes == nullptr)
        for (const int entry : f.dispatch.entries(ref.expert))
          std::memset(f.partial.row(entry).data(), 0, sizeof(float) * static_cast<std::size_t>(f.partial.stride));
  }

  /// What the experts of a wave read: rows by token, or by entry.
  struct Inputs {
    View<const float> rows;
    bool by_entry = false;
  };
  static View<float> first_slots(const CpuFrame& f) noexcept {
    return {f.partial.data, f.dims.tokens, f.partial.cols, f.partial.stride * f.dims.slots};
  }
  /// Rows of another type are widened into partial rows: once for each token where one wave has all experts, because no
  /// partial row is written before all products with x are done; else, where partial rows of other waves are results
  /// already, once for each entry of this wave.
  Inputs gather(CpuFrame& f, ConstElementView<memory> in, Row<const ExpertRef> refs, Row<const int> active,
                WavePosition position) const {
    if (in.is_float()) return {in.floats()};
    const cpu::WidenKernel kernel = cpu::widen_kernel(isa);
    if (position.first && position.last) {
      const View<float> to = first_slots(f);
      rows(f, in.rows, [&](int t) { kernel(in.slice(t, 1), to.slice(t, 1)); });
      return {to};
    }
    pool->run(active.size(), [&](int i) {
      const ExpertId e = refs[active[i]].expert;
      const Row<const int> entries = f.dispatch.entries(e), tokens = f.dispatch.rows(e);
      for (int n = 0; n < entries.size(); ++n) kernel(in.slice(tokens[n], 1), f.partial.slice(entries[n], 1));
    });
    return {f.partial, true};
  }
  /// Nobody computes the partial rows of identities: there is room for their x.
  void widen_identities(CpuFrame& f, ConstElementView<memory> in, int t) const {
    for (int k = 0; k < f.table.size(t); ++k)
      if (f.ids.identity(f.table.slots.row(t)[k].expert))
        cpu::widen_kernel(isa)(in.slice(t, 1), f.partial.slice(t * f.dims.slots + k, 1));
  }

  /// Cuts every expert's panels into shares, a few per thread in all, and calls share(expert, panels).
  template <class Share>
  void for_each_share(int experts, int panels, const Share& share) const {
    if (experts == 0) return;
    const int wanted = pool->size() == 1 ? 1 : pieces(tuning.shares_per_thread * pool->size(), experts);
    const int shares = wanted < panels ? wanted : panels;
    pool->run(experts * shares, [&](int task) {
      const auto bound = [&](int i) { return static_cast<int>(std::int64_t{panels} * i / shares); };
      const int first = bound(task % shares), end = bound(task % shares + 1);
      share(task / shares, Range{first, end - first});
    });
  }

  template <class Format, class Form>
  void up(CpuFrame& f, const Inputs& in, const ExpertRef& ref, const ExpertShape& s, const Form& form,
          Range panels) const {
    const Row<const int> entries = f.dispatch.entries(ref.expert);
    const View<Slot>& slots = f.table.slots;
    const int weights = form.weight_on == WeightOn::input ? slots.rows * slots.cols : 0;
    cpu::up_kernel<typename projection_formats<Format>::up, typename Form::activation>(isa)(
        {.panels = PanelLayout::up_panels<Format>(ref.bytes, s).slice(panels.first, panels.count),
         .in = in.rows,
         .entries = {in.by_entry ? entries : f.dispatch.rows(ref.expert), entries},
         .weights = {slots.data, weights},
         .out = f.intermediate},
        form.act);
  }

  template <class Format>
  void down(CpuFrame& f, const ExpertRef& ref, const ExpertShape& s, Range panels) const {
    const Row<const int> entries = f.dispatch.entries(ref.expert);
    cpu::down_kernel<typename projection_formats<Format>::down>(isa)(
        {.panels = PanelLayout::down_panels<Format>(ref.bytes, s).slice(panels.first, panels.count),
         .in = f.intermediate,
         .entries = {entries, entries},
         .out = f.partial});
  }
};

using Cpu = CpuExecutor<>;

}  // namespace moe

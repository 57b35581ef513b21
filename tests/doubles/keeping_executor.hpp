// An executor that keeps what a backward pass needs: the arguments of the activation, beside the landed frame.
#pragma once

#include <moe/executors/cpu.hpp>

namespace keeping {

struct Frame : moe::CpuFrame {
  moe::View<float> gate, up;  // [T*K,F] before the activation, by entry
};

/// One argument of a gated activation instead of its value.
struct GateAlone {
  static constexpr bool gated = true;
  float operator()(float gate, float) const noexcept { return gate; }
};
struct UpAlone {
  static constexpr bool gated = true;
  float operator()(float, float up) const noexcept { return up; }
};

/// Three passes over the experts: two that keep, then the plain one, whose bits the layer gives.
struct Executor {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
  moe::Cpu cpu{.threads = 1};

  Frame carve(moe::Arena& main, moe::Arena& staging, const moe::Dims& d, moe::IdMap ids) const {
    Frame f;
    static_cast<moe::CpuFrame&>(f) = cpu.carve(main, staging, d, ids);
    for (moe::View<float>* kept : {&f.gate, &f.up})
      *kept = moe::PanelLayout::padded_rows<memory>(main, d.tokens * d.slots, d.ffn);
    return f;
  }
  template <class F>
  void rows(moe::Frame<>& f, int n, const F& row) const {
    cpu.rows(f, n, row);
  }
  void linear(moe::Frame<>& f, moe::View<const float> in, moe::View<const float> w, const float* bias,
              moe::View<float> out) const {
    cpu.linear(f, in, w, bias, out);
  }
  template <class Formats, class Form>
  void experts(Frame& f, moe::View<const float> in, moe::Row<const moe::ExpertRef> refs, Formats list,
               const moe::ExpertShape& s, const Form& form, moe::WavePosition position) const {
    keep<GateAlone>(f, f.gate, in, refs, list, s, position);
    keep<UpAlone>(f, f.up, in, refs, list, s, position);
    cpu.experts(f, in, refs, list, s, form, position);
  }
  template <class Form>
  void combine(Frame& f, moe::View<const float> in, const Form& form, moe::View<float> y, bool add) const {
    cpu.combine(f, in, form, y, add);
  }

 private:
  template <class Argument, class Formats>
  void keep(const Frame& f, moe::View<float> into, moe::View<const float> in, moe::Row<const moe::ExpertRef> refs,
            Formats list, const moe::ExpertShape& s, moe::WavePosition position) const {
    moe::CpuFrame pass = f;
    pass.intermediate = into;
    cpu.experts(pass, in, refs, list, s, moe::ExpertForm<Argument>{}, position);
  }
};

}  // namespace keeping

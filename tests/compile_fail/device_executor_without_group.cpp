// expect: moe::Executor: needs carve, rows and linear (off the host also group and needs)
#include "parts.hpp"

struct Device {
  using memory = parts::device_memory;
  using layout = moe::PanelLayout;
  using Frame = moe::Frame<memory>;
  Frame carve(moe::Arena&, moe::Arena&, moe::Dims, moe::IdMap) const { return {}; }
  template <class F>
  void rows(Frame&, int, const F&) const {}
  void linear(Frame&, moe::View<const float, memory>, moe::View<const float, memory>, const float*,
              moe::View<float, memory>) const {}
#ifndef MOE_FAULT
  void group(Frame&) const {}
#endif
  std::span<moe::ExpertNeed> needs(Frame&) const { return {}; }
  template <class Formats, class Form>
  void experts(Frame&, moe::View<const float, memory>, moe::Row<const moe::ExpertRef>, Formats, moe::ExpertShape,
               const Form&, moe::WavePosition) const {}
  template <class Form>
  void combine(Frame&, moe::View<const float, memory>, const Form&, moe::View<float, memory>, bool) const {}
};

int main() {
  const moe::MoELayer layer(moe::NoGate{}, parts::Router{}, parts::Storage<parts::device_memory>{}, Device{});
  return layer.hidden() == 8 ? 0 : 1;
}

// Sound parts of a layer that compute nothing: each case replaces one.
#pragma once

#include <moe/layer.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/resident.hpp>

namespace parts {

struct Router {
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
  int max_slots() const noexcept { return 2; }
  int select(moe::Row<const float>, moe::Row<moe::Slot>) const noexcept { return 0; }
};

struct BatchRouter {
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
  int max_slots() const noexcept { return 2; }
  void route(const moe::RouteContext<>&, moe::View<const float>, moe::RoutingTable<>&) const {}
};

struct device_memory {
  using queue = int;
  using staging = moe::host_memory;
};
struct OtherLayout {};

template <class Memory = moe::host_memory, class Layout = moe::PanelLayout>
struct Storage {
  using memory = Memory;
  using layout = Layout;
  using formats = moe::formats<moe::bf16>;
  moe::ExpertShape shape() const noexcept { return {8, 8, true, false}; }
  int num_experts() const noexcept { return 4; }
  moe::Row<const moe::ExpertRef> table() const noexcept { return {}; }
};

// The pieces of an executor.
struct Names {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
};
struct Carve {
  moe::Frame<> carve(moe::Arena&, moe::Arena&, moe::Dims, moe::IdMap) const { return {}; }
};
struct Steps {
  template <class F>
  void rows(moe::Frame<>&, int, const F&) const {}
  void linear(moe::Frame<>&, moe::View<const float>, moe::View<const float>, const float*, moe::View<float>) const {}
};
struct Experts {
  template <class Formats, class Form>
  void experts(moe::Frame<>&, moe::View<const float>, moe::Row<const moe::ExpertRef>, Formats, moe::ExpertShape,
               const Form&, moe::WavePosition) const {}
};
struct Combine {
  template <class Form>
  void combine(moe::Frame<>&, moe::View<const float>, const Form&, moe::View<float>, bool) const {}
};
struct Executor : Names, Carve, Steps, Experts, Combine {};

inline const float gate_weights[4 * 8] = {};
inline moe::Linear<> gate() { return moe::Linear(moe::View<const float>(gate_weights, 4, 8)); }

/// What a host application does with a layer.
template <class Layer>
int use(const Layer& layer) {
  float x[8] = {}, y[8] = {};
  moe::Workspace<> ws(layer.workspace(1));
  layer.forward({x, 1, 8}, {y, 1, 8}, ws);
  layer.prefetch({.x = {x, 1, 8}}, ws);
  return 0;
}

}  // namespace parts

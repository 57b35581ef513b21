// The state of one call: Workspace, Frame, Call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <moe/error.hpp>
#include <moe/routing.hpp>
#include <moe/tensor.hpp>

namespace moe {

template <class M>
concept MemorySpace = requires {
  typename M::queue;
  typename M::staging;
};

struct WorkspaceSize {
  std::size_t bytes = 0, staging_bytes = 0;
};

/// The larger of two sizes: one workspace may serve several layers in turn.
constexpr WorkspaceSize max(WorkspaceSize a, WorkspaceSize b) {
  return {a.bytes > b.bytes ? a.bytes : b.bytes, a.staging_bytes > b.staging_bytes ? a.staging_bytes : b.staging_bytes};
}

/// Memory that `forward` works in; one per host thread. Nothing else is allocated during a call.
template <class M = host_memory>
class Workspace;

template <>
class Workspace<host_memory> {
 public:
  explicit Workspace(WorkspaceSize size) : main_(size.bytes), staging_(size.staging_bytes) {}

  WorkspaceSize size() const noexcept { return {main_.bytes(), staging_.bytes()}; }
  Arena main() const noexcept { return {main_.data(), main_.bytes()}; }
  Arena staging() const noexcept { return {staging_.data(), staging_.bytes()}; }
  host_queue& queue() noexcept { return queue_; }
  /// Fills everything with NaN (and negative ids): a checked build finds what a call reads without writing.
  void poison() noexcept {
    if (main_.bytes() != 0) std::memset(main_.data(), 0xff, main_.bytes());
    if (staging_.bytes() != 0) std::memset(staging_.data(), 0xff, staging_.bytes());
  }

 private:
  Buffer main_, staging_;
  host_queue queue_;
};

Workspace(WorkspaceSize)->Workspace<host_memory>;

/// Sizes of one call. `experts` counts networks only; `logits` is zero when the call brings its own.
struct Dims {
  int tokens = 0, hidden = 0, ffn = 0, logits = 0, experts = 0, slots = 0;
};

/// What the layer, its policies and every executor know of one call; all of it inside the caller's workspace. An
/// executor that works in more derives its own frame: what `carve` returns.
template <class M = host_memory>
struct Frame {
  Dims dims;
  IdMap ids;
  int first_token = 0;  // where these rows begin in a call that was cut into chunks
  bool more = false;    // in: the call has rows after these; after `send`: some rank's call has
  typename M::queue* queue = nullptr;
  View<float, M> logits;                // [T,L], of the gate
  View<const float, M> routing_logits;  // [T,L], what the router saw: the gate's, or the call's
  RoutingTable<M> table;                // [T,K]
  Dispatch<M> dispatch;
  View<float, M> partial;       // [T*K,H], each choice's output, by entry; empty where an executor never writes it
  ExpertNeed* needs = nullptr;  // [E], staging
};

/// What a gate computes and works in.
template <class M = host_memory>
struct GateCall {
  ConstElementView<M> in;           // [T,H']
  View<float, M> logits;            // [T,L], the result
  View<float, M> scratch{};         // [T, columns that the gate asks for]
  View<const float, M> state_in{};  // [T,R] of the layer before; none: zero
  View<float, M> state_out{};       // [T,R] for the layer after; none: not wanted
  const int* modalities = nullptr;  // [T], as RouteContext's
};

/// The part of a frame that every executor has: logits, both tables, needs. Executors add what they compute in, also
/// those that only pass rows on to another.
template <class M>
Frame<M> carve_tables(Arena& main, Arena& staging, const Dims& d, IdMap ids) {
  const auto count = [](int n) { return static_cast<std::size_t>(n); };
  Frame<M> f;
  f.dims = d;
  f.ids = ids;
  f.logits = main.matrix<float, M>(d.tokens, d.logits);
  f.table = {main.matrix<Slot, M>(d.tokens, d.slots), main.take<int>(count(d.tokens))};
  const std::size_t entries = count(d.tokens) * count(d.slots);
  f.dispatch = {main.take<int>(count(d.experts) + 1), main.take<int>(entries), main.take<int>(entries)};
  f.needs = staging.take<ExpertNeed>(count(d.experts));
  return f;
}

// ---- the call

/// Arguments of one forward. Only `x` and `y` are mandatory; they must not overlap.
template <class M = host_memory>
struct Call {
  ConstElementView<M> x{};         // [T,H] what the experts see: float, bf16 or f16
  ElementView<M> y{};              // [T,H] result, overwritten: rounded once where it is narrower than float
  ConstElementView<M> x_router{};  // [T,H'] what the gate sees, if not x
  View<const float, M> logits{};   // [T,L] instead of the gate
  RoutingTable<M> table{};         // [T,K] instead of gate and router; read only
  RouteContext<M> context{};
  int max_slots = 0;                       // slots per token in this call; 0: the router's own
  View<const float, M> router_state_in{};  // [T,R] of the layer before, for gates that carry a state; none: zero
  View<float, M> router_state_out{};       // [T,R] for the layer after

  bool brings_table() const noexcept { return table.slots.data != nullptr || table.slots.cols != 0; }
  bool brings_logits() const noexcept { return logits.data != nullptr || logits.cols != 0; }
  /// What the gate sees.
  const ConstElementView<M>& router_input() const noexcept {
    return x_router.data != nullptr || x_router.cols != 0 ? x_router : x;
  }
  /// The call for `n` of its rows, from `first` on; they keep their numbers (context.first_row).
  Call slice(int first, int n) const noexcept {
    Call c = *this;
    const auto cut = [&](auto& rows) {
      if (rows.data != nullptr) rows = rows.slice(first, n);
    };
    cut(c.x);
    cut(c.y);
    cut(c.x_router);
    cut(c.logits);
    cut(c.router_state_in);
    cut(c.router_state_out);
    if (table.slots.data != nullptr) c.table = table.slice(first, n);
    c.context = context.slice(first);
    return c;
  }
};

}  // namespace moe

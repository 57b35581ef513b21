// What an executor may do better than the layer's own text: each hook is asked by one free function.
#pragma once

// clang-format 14 does not know requirements.
// clang-format off

#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include <moe/frame.hpp>
#include <moe/layer/rows.hpp>

namespace moe {

/// Where a set of refs stands among those of one call.
struct WavePosition {
  bool first = true, last = true, refs_on_host = true;
};

/// What an executor's `carve` returns.
template <class X>
using frame_of = decltype(std::declval<const X&>().carve(std::declval<Arena&>(), std::declval<Arena&>(), Dims{}, IdMap{}));

namespace detail {
/// Stands for every row functor: a function pointer would ask a device for what it cannot do.
struct AnyRow {
  MOE_HD void operator()(int) const noexcept {}
};
}  // namespace detail

// ---- both tables

/// Makes the dispatch and the needs of a frame: mandatory off the host.
template <class X>
concept GroupsRows = requires(const X x, frame_of<X>& f) {
  x.group(f);
  { x.needs(f) } -> std::same_as<std::span<ExpertNeed>>;
};
/// By token to by expert.
template <class X>
void group_rows(const X& executor, frame_of<X>& f) {
  if constexpr (requires { executor.group(f); }) executor.group(f);
  else group_by_expert(f.table, f.ids, f.dispatch);
}
/// The experts that have rows.
template <class X>
std::span<ExpertNeed> needs_of(const X& executor, frame_of<X>& f) {
  if constexpr (requires { executor.needs(f); }) return executor.needs(f);
  else return collect_needs(f.table, f.ids, f.dispatch, f.needs);
}
/// row(i) for i in [0, n), which fills the table, and then the dispatch: one launch where the device can.
template <class X, class Row>
void rows_and_group(const X& executor, frame_of<X>& f, int n, const Row& row) {
  if constexpr (requires { executor.rows_and_group(f, n, row); }) {
    executor.rows_and_group(f, n, row);
  } else {
    executor.rows(f, n, row);
    group_rows(executor, f);
  }
}

// ---- devices

/// Moves the tables of a policy into the executor's memory, once, when the layer is made and after its checks.
template <class X, class Policy>
void adopt([[maybe_unused]] X& executor, [[maybe_unused]] Policy& policy) {
  if constexpr (requires { executor.adopt(policy); }) executor.adopt(policy);
}
/// `fill(words)` writes a bit per expert on the host; returns where a row functor may read them. A device's waits until
/// the call before has been read.
template <class X, class Fill>
const std::uint32_t* residency_mask([[maybe_unused]] const X& executor, [[maybe_unused]] frame_of<X>& f, std::uint32_t* words, const Fill& fill) {
  if constexpr (requires { { executor.mask(f, words, fill) } -> std::convertible_to<const std::uint32_t*>; }) {
    return executor.mask(f, words, fill);
  } else {
    fill(words);
    return words;
  }
}
/// Experts of a resident storage and the sum over each row's slots in one step, with the bits of `experts` and
/// `combine`; f.partial is not written.
template <class X, class Formats, class Form>
concept SumsExperts = requires(const X x, frame_of<X>& f, View<const float, typename X::memory> in, Row<const ExpertRef> refs, const ExpertShape s,
                               const Form form, View<float, typename X::memory> y) {
  x.experts_and_combine(f, in, refs, Formats{}, s, form, y);
};

// ---- activations in other types than float32

/// An executor that takes x in any element type, in `linear`, `experts` and `combine`, and has room for float32 sums of y
/// [T,H] where its partial rows stand: `combine` may write them there, later steps work on them, and they become y last.
template <class X>
concept TakesElements = requires(const X x, frame_of<X>& f, ConstElementView<typename X::memory> in, View<float, typename X::memory> out) {
  x.linear(f, in, in, nullptr, out);
  { x.sums(f) } -> std::same_as<View<float, typename X::memory>>;
};
/// y = the sums, rounded to its type.
template <class X, class M>
void narrow(const X& executor, frame_of<X>& f, View<const float, M> sums, ElementView<M> y) {
  if constexpr (requires { executor.narrow(f, sums, y); }) executor.narrow(f, sums, y);
  else executor.rows(f, y.rows, detail::NarrowRow<M>{sums, y});
}

// ---- ranks

/// An executor that shares the experts among ranks. `send(f, in, wants_needs)` brings rows to the ranks that hold their
/// experts; called once for every chunk, before `needs` and `experts`, and tells in f.more whether any rank has rows
/// left. The last `experts` of a chunk (WavePosition::last) brings partial rows back. `local()` computes what every rank
/// holds. `refuse()` answers the other ranks when this one leaves a call by an exception; it does not throw.
template <class X>
concept SendsRows = requires(const X x, frame_of<X>& f, View<const float, typename X::memory> in) {
  x.send(f, in, bool{});
  x.local();
  { x.refuse() } noexcept;
};
/// How many of a router's experts this rank's storage holds.
template <class X>
int local_experts([[maybe_unused]] const X& executor, int networks) {
  if constexpr (requires { executor.local_experts(networks); }) return executor.local_experts(networks);
  else return networks;
}
/// The most rows of a chunk: the same on all ranks, whatever their workspaces hold.
template <class X>
int most_rows([[maybe_unused]] const X& executor, int rows) {
  if constexpr (requires { executor.most_rows(); }) return executor.most_rows() < rows ? executor.most_rows() : rows;
  else return rows;
}
template <class X>
const auto& local_executor(const X& executor) {
  if constexpr (SendsRows<X>) return executor.local();
  else return executor;
}

namespace detail {
template <class X>
using local_of = std::remove_cvref_t<decltype(local_executor(std::declval<const X&>()))>;

/// Tells the other ranks when this one leaves a call by an exception.
template <class X>
class PeerGuard {
 public:
  explicit PeerGuard(const X& executor) : executor_(executor) {}
  PeerGuard(const PeerGuard&) = delete;
  PeerGuard& operator=(const PeerGuard&) = delete;
  ~PeerGuard() {
    if constexpr (SendsRows<X>)
      if (!done_) executor_.refuse();
  }
  void done() noexcept { done_ = true; }

 private:
  const X& executor_;
  bool done_ = false;
};
}  // namespace detail

}  // namespace moe
// clang-format on

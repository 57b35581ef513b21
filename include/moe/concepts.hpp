// What each policy must offer, requirement by requirement: Router, storages, Executor, Gate, Form, Shared.
#pragma once

// clang-format 14 does not know requirements.
// clang-format off

#include <concepts>
#include <span>

#include <moe/executor_hooks.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>
#include <moe/frame.hpp>
#include <moe/lending.hpp>
#include <moe/router_hooks.hpp>

namespace moe {

// ---- Storage

template <class S>
concept StorageFacts = std::movable<S> && requires(const S s) {
  typename S::memory;
  typename S::layout;
  typename S::formats;
  { s.shape() } noexcept -> std::same_as<ExpertShape>;
  { s.num_experts() } noexcept -> std::same_as<int>;
};
/// All experts at once: no needs, no waiting.
template <class S>
concept ResidentStorage = StorageFacts<S> && requires(const S s) {
  { s.table() } noexcept -> std::same_as<Row<const ExpertRef>>;   // [E], in S::memory
};
/// Lends experts in waves. Laws: docs/policies.md#leasing-storage.
template <class S>
concept LeasingStorage = StorageFacts<S> && Pin<typename S::pin> &&
    requires(const S s, std::span<ExpertNeed> todo, Wave<typename S::pin>& w, typename S::memory::queue& q) {
      { s.acquire(todo, w, q) } -> std::same_as<std::span<ExpertNeed>>;
    };
template <class S>
concept ExpertStorage = ResidentStorage<S> || LeasingStorage<S>;

// ---- Executor, gate, shared experts

/// What a call needs of an executor whatever it computes. `carve` measures where arenas have no memory; what it returns,
/// a Frame or a type derived from it, is the executor's own. `rows` and `linear` work with any frame of the memory, of
/// which they may use the queue. Hooks: executor_hooks.hpp.
template <class X>
concept ExecutorCore = std::movable<X> && MemorySpace<typename X::memory> &&
    requires(const X x, Arena& main, Arena& staging, Dims d, IdMap ids, Frame<typename X::memory>& f,
             View<const float, typename X::memory> in, View<float, typename X::memory> out, const float* bias) {
      typename X::layout;
      { x.carve(main, staging, d, ids) } -> std::derived_from<Frame<typename X::memory>>;
      x.rows(f, 1, detail::AnyRow{});
      x.linear(f, in, in, bias, out);
    } && (std::same_as<typename X::memory, host_memory> || GroupsRows<X>);
template <class X, class S, class Form>
concept ExecutorFor = ExecutorCore<X> && std::same_as<typename X::memory, typename S::memory> &&
    std::same_as<typename X::layout, typename S::layout> &&
    requires(const X x, frame_of<X>& f, View<const float, typename X::memory> in, View<float, typename X::memory> y,
             Row<const ExpertRef> refs, const ExpertShape s, const Form form, WavePosition position) {
      x.experts(f, in, refs, typename S::formats{}, s, form, position);
      x.combine(f, in, form, y, bool{});
    };

/// Turns inputs into logits, said in the executor's `linear` and `rows`: no executor knows a gate.
/// Hooks: `int scratch_columns() const noexcept`, floats per row of GateCall::scratch that it works in;
/// `int state_columns() const noexcept`, width of the router state that calls hand from layer to layer.
template <class G, class X>
concept Gate = requires(const G g, const X x, Frame<typename X::memory>& f, const GateCall<typename X::memory> call) {
  { g.outputs() } noexcept -> std::same_as<int>;
  { g.inputs() } noexcept -> std::same_as<int>;
  g.logits(x, f, call);
};

/// Latent experts: enter maps [T, outer_width] to [T, width], leave maps back.
template <class E, class X>
concept Envelope = std::same_as<E, NoEnvelope> ||
    requires(const E e, const X x, Frame<typename X::memory>& f, ConstElementView<typename X::memory> in,
             View<float, typename X::memory> out) {
      { e.width() } noexcept -> std::same_as<int>;
      { e.outer_width() } noexcept -> std::same_as<int>;
      e.enter(x, f, in, out);
      e.leave(x, f, out, out);
    };

template <class F>
inline constexpr bool is_expert_form = false;
template <class A, class Env, class Output>
inline constexpr bool is_expert_form<ExpertForm<A, Env, Output>> = true;
/// How experts compute: an ExpertForm of some activation, envelope and output step.
template <class F>
concept Form = is_expert_form<F> && Activation<typename F::activation>;

/// The last step of the layer, on its whole output y [T,H]: `void finish(const X&, Frame&, View<float>) const`.
template <class O, class X>
concept OutputStep = std::same_as<O, PlainOutput> ||
    requires(const O o, const X x, Frame<typename X::memory>& f, View<float, typename X::memory> y) {
      o.finish(x, f, y);
    };

/// No expert that every token passes.
struct NoShared {};

/// Experts that every token passes: a resident storage, its form, and the weight of each row. `weigh` fills f.table
/// [T,S] (expert s in slot s, and its weight), and may scale the weights of `routed`. Hook: `int num_logits() const
/// noexcept`, columns of f.logits that it works in.
template <class S, class X>
concept SharedExpertsPolicy =
    requires(const S s, const X x, Frame<typename X::memory>& f, ConstElementView<typename X::memory> in) {
      requires ResidentStorage<std::remove_cvref_t<decltype(s.storage)>>;
      requires Form<std::remove_cvref_t<decltype(s.form)>>;
      s.weigh(x, f, in, f);
    };
template <class S>
constexpr int mixing_logits([[maybe_unused]] const S& shared) {
  if constexpr (requires { shared.num_logits(); }) return shared.num_logits();
  else return 0;
}
/// Something else that is added to the routed output (MoE++'s constant experts).
template <class S, class X>
concept AddedTerm = requires(const S s, const X x, Frame<typename X::memory>& f,
                             ConstElementView<typename X::memory> in, View<float, typename X::memory> y) {
  s.add(x, f, in, y);
};
template <class S, class X>
concept Shared = std::same_as<S, NoShared> || SharedExpertsPolicy<S, X> || AddedTerm<S, X>;

/// Runs `task(i)` for i in [0, tasks); returns when the tasks are done. A second caller meanwhile works alone.
template <class P>
concept ParallelFor = requires(P p, int tasks, void (*task)(int)) {
  { p.size() } -> std::same_as<int>;
  p.run(tasks, task);
};

}  // namespace moe
// clang-format on

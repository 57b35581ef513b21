// The first error line of a wrong policy: one static_assert per requirement, with what to write.
#pragma once

// clang-format 14 does not know requirements.
// clang-format off

#include <moe/concepts.hpp>
#include <moe/gate.hpp>

namespace moe::detail {

template <class X>
struct memory_of_ {
  using type = host_memory;
};
template <class X>
  requires requires { typename X::memory; }
struct memory_of_<X> {
  using type = typename X::memory;
};
template <class X>
using memory_of = typename memory_of_<X>::type;

template <class A>
struct explain_activation {
  static_assert(std::is_trivially_copyable_v<A>,
                "moe::Activation: must be trivially copyable, kernels take it by value (docs/policies.md#activation)");
  static_assert(requires { { A::gated } -> std::convertible_to<bool>; },
                "moe::Activation: needs `static constexpr bool gated` (docs/policies.md#activation)");
  static_assert(requires(const A a, float v) { { a(v, v) } noexcept -> std::same_as<float>; },
                "moe::Activation: needs `float operator()(float gate, float up) const noexcept` (docs/policies.md#activation)");
};

template <class F>
struct explain_form {
  static_assert(is_expert_form<F>, "moe::Form: use moe::ExpertForm<Activation, Envelope, Output> (docs/policies.md#form)");
};
template <class A, class Env, class Output>
struct explain_form<ExpertForm<A, Env, Output>> : explain_activation<A> {};

template <class R>
struct explain_router_sizes {
  static_assert(std::copyable<R>, "moe::Router: must be copyable, kernels take it by value (docs/policies.md#router)");
  static_assert(Has<has_num_logits, R>,
                "moe::Router: needs `int num_logits() const noexcept` (docs/policies.md#router)");
  static_assert(Has<has_num_experts, R>,
                "moe::Router: needs `int num_experts() const noexcept` (docs/policies.md#router)");
  static_assert(Has<has_max_slots, R>,
                "moe::Router: needs `int max_slots() const noexcept` (docs/policies.md#router)");
};
/// Has some `select`, however it is qualified; R is const or not.
template <class R>
concept Selects = requires(R& r, Row<const float> l, Row<Slot> out) { r.select(l, out); } ||
    requires(R& r, const RowContext& row, Row<Slot> out) { r.select(row, out); };
template <class R>
struct explain_select {
  static_assert(!Selects<R> || Selects<const R>, "moe::Router: `select` must be const (docs/policies.md#router)");
  static_assert(!Selects<const R> || SimpleSelect<R> || ContextSelect<R>,
                "moe::Router: `select` must be noexcept and return int, the number of slots filled (docs/policies.md#router)");
  static_assert(Selects<R> || BatchRouter<R>,
                "moe::Router: needs `int select(Row<const float> logits, Row<Slot> out) const noexcept`, or the same with "
                "`const RowContext&` (docs/policies.md#router)");
};
template <class R>
struct explain_router : explain_router_sizes<R>, explain_select<R> {};

/// A router, and under a decorator one that decides row by row, all the way down.
template <class R>
constexpr bool sound_router() {
  if constexpr (!Router<R>) return false;
  else if constexpr (Decorator<R>) return TokenRouter<inner_of<R>> && sound_router<inner_of<R>>();
  else return true;
}

/// The innermost fault speaks; the decorators around it are silent.
template <Decorator R>
  requires(!sound_router<inner_of<R>>())
struct explain_router<R> : explain_router<inner_of<R>> {};
template <Decorator R>
  requires BatchRouter<inner_of<R>>
struct explain_router<R> {
  static_assert(TokenRouter<inner_of<R>>,
                "moe::Router: a decorator's `inner` must decide row by row (`select`); a batch router cannot be decorated "
                "(docs/policies.md#decorator)");
};

/// Concepts, because clang 14 takes a missing type in a requirement of a class for an error.
template <class S>
concept AbandonsWithoutRest = requires(const S s, Wave<typename S::pin>& wave) { s.abandon(wave); };
template <class S>
struct explain_storage {
  static_assert(!RecordSource<S> || ExpertStorage<S>,
                "moe::ExpertStorage: this type only reads records; put moe::Resident or moe::Cached around it "
                "(docs/policies.md#storage)");
  static_assert(RecordSource<S> || requires { typename S::memory; },
                "moe::ExpertStorage: needs `using memory`, e.g. moe::host_memory (docs/policies.md#storage)");
  static_assert(requires { typename S::layout; },
                "moe::ExpertStorage: needs `using layout`, e.g. moe::PanelLayout (docs/policies.md#storage)");
  static_assert(requires { typename S::formats; },
                "moe::ExpertStorage: needs `using formats`, e.g. moe::formats<moe::bf16> (docs/policies.md#storage)");
  static_assert(requires(const S s) { { s.shape() } noexcept -> std::same_as<ExpertShape>; },
                "moe::ExpertStorage: needs `ExpertShape shape() const noexcept` (docs/policies.md#storage)");
  static_assert(requires(const S s) { { s.num_experts() } noexcept -> std::same_as<int>; },
                "moe::ExpertStorage: needs `int num_experts() const noexcept` (docs/policies.md#storage)");
  static_assert(!AbandonsWithoutRest<S>,
                "moe::ExpertStorage: needs `void abandon(std::span<const ExpertNeed> rest, const Wave<pin>&) const noexcept` "
                "if it has `abandon` (docs/policies.md#leasing-storage)");
  static_assert(!requires(const S s, std::span<const ExpertNeed> guesses) { s.expect(guesses); } ||
                    requires(const S s, std::span<const ExpertNeed> guesses) {
                      { s.expect(guesses) } -> std::same_as<int>;
                    },
                "moe::ExpertStorage: `expect` must return int, how many of the guesses are neither here nor coming "
                "(docs/policies.md#leasing-storage)");
  static_assert(!StorageFacts<S> || RecordSource<S> || ExpertStorage<S>,
                "moe::ExpertStorage: needs `Row<const ExpertRef> table() const noexcept`, or `using pin` and "
                "`std::span<ExpertNeed> acquire(std::span<ExpertNeed>, Wave<pin>&, memory::queue&) const` "
                "(docs/policies.md#storage)");
};

/// What Cached, Resident, Ring and the sources around others are given.
template <class S>
struct explain_source {
  static_assert(requires { typename S::layout; },
                "moe::RecordSource: needs `using layout`, e.g. moe::PanelLayout (docs/policies.md#storage)");
  static_assert(requires { typename S::formats; },
                "moe::RecordSource: needs `using formats`, e.g. moe::formats<moe::bf16> (docs/policies.md#storage)");
  static_assert(requires(const S s) { { s.shape() } noexcept -> std::same_as<ExpertShape>; },
                "moe::RecordSource: needs `ExpertShape shape() const noexcept` (docs/policies.md#storage)");
  static_assert(requires(const S s) { { s.num_experts() } noexcept -> std::same_as<int>; },
                "moe::RecordSource: needs `int num_experts() const noexcept` (docs/policies.md#storage)");
  static_assert(requires(const S s, int format) { { s.bytes(format) } noexcept -> std::same_as<std::size_t>; },
                "moe::RecordSource: needs `std::size_t bytes(int format) const noexcept` (docs/policies.md#storage)");
  static_assert(requires(const S s, const ReadRequest& request) { s.read(request); },
                "moe::RecordSource: needs `void read(const moe::ReadRequest&) const`; a storage that lends becomes a source "
                "by moe::StorageSource (docs/policies.md#storage)");
  static_assert(std::movable<S>, "moe::RecordSource: must be movable (docs/policies.md#storage)");
};

template <class X>
struct explain_executor {
  static_assert(requires { typename X::memory; },
                "moe::Executor: needs `using memory`, e.g. moe::host_memory (docs/policies.md#executor)");
  static_assert(requires { typename X::layout; },
                "moe::Executor: needs `using layout`, e.g. moe::PanelLayout (docs/policies.md#executor)");
  static_assert(!requires { typename X::memory; typename X::layout; } || ExecutorCore<X>,
                "moe::Executor: needs carve, rows and linear (off the host also group and needs) with the signatures of "
                "docs/policies.md#executor");
};

template <class X, class S, class F>
struct explain_pair {
  static_assert(std::same_as<typename X::memory, typename S::memory>,
                "moe::MoELayer: storage and executor work in different memories (docs/policies.md#storage)");
  static_assert(std::same_as<typename X::layout, typename S::layout>,
                "moe::MoELayer: storage and executor name different layouts; pack the weights with the executor's layout "
                "(docs/policies.md#storage)");
  static_assert(!(std::same_as<typename X::memory, typename S::memory> && std::same_as<typename X::layout, typename S::layout>) ||
                    ExecutorFor<X, S, F>,
                "moe::Executor: needs `experts(frame, in, refs, formats, shape, form, position) const` and "
                "`combine(frame, in, form, y, add) const` (docs/policies.md#executor)");
};

template <class G, class X>
struct explain_gate {
  static_assert(Gate<G, X>,
                "moe::Gate: needs `int outputs() const noexcept`, `int inputs() const noexcept` and "
                "`void logits(const X&, Frame<M>&, const GateCall<M>&) const`; a gate on another memory than the "
                "executor's does not fit (docs/policies.md#gate)");
};
/// What looks at the whole batch needs an executor that sees it.
template <class R, class X>
struct explain_batch {
  static_assert(!BatchRouter<R> || std::same_as<memory_of<X>, host_memory>,
                "moe::MoELayer: a batch router works on the host; this executor's memory is another (docs/policies.md#router)");
  static_assert(!(BatchRouter<R> || has_column_rule<R>()) || !requires { requires X::token_only; },
                "moe::MoELayer: this router looks at the whole batch, but the executor is token_only: it cuts batches into "
                "pieces; use a router that decides row by row (docs/policies.md#router)");
};
template <class F, class X>
struct explain_envelope {
  static_assert(Envelope<decltype(F::envelope), X>,
                "moe::Envelope: needs `int width() const noexcept`, `int outer_width() const noexcept`, `enter` and `leave` "
                "(docs/policies.md#envelope)");
  static_assert(OutputStep<decltype(F::output), X>,
                "moe::Form: `output` needs `void finish(const X&, Frame&, View<float> y) const` (docs/policies.md#form)");
};
template <class S, class X>
struct explain_shared {
  static_assert(Shared<S, X>,
                "moe::Shared: needs a resident `storage`, a `form` and `void weigh(const X&, Frame&, View<const float>, Frame& "
                "routed) const`; or `void add(const X&, Frame&, View<const float>, "
                "View<float> y) const` (docs/policies.md#shared)");
};

template <class R, class S>
struct explain_uses {
  static_assert(!contains(uses_of<R>(), Uses::residency) ||
                    requires(const S s, std::uint32_t* bits) { s.residency(bits); },
                "moe::MoELayer: this router looks at residency; the storage needs `void residency(std::uint32_t* bits) const` "
                "(docs/policies.md#storage)");
};
/// Storages know their own rank's experts only.
template <class R, class X>
struct explain_ranks {
  static_assert(!contains(uses_of<R>(), Uses::residency) || !SendsRows<X>,
                "moe::MoELayer: this router looks at residency, but the executor sends rows to other ranks, whose storages "
                "it cannot see (docs/policies.md#router)");
};

template <bool, template <class...> class Explain, class... T>
struct explain_if {};
template <template <class...> class Explain, class... T>
struct explain_if<true, Explain, T...> : Explain<T...> {};

template <class R, class S, class X, class F>
inline constexpr bool sound_parts = sound_router<R>() && ExpertStorage<S> && ExecutorCore<X> && Form<F>;
template <class R, class S, class X, class F, class G, class Sh>
inline constexpr bool sound = [] {
  if constexpr (sound_parts<R, S, X, F>) {
    if constexpr (ExecutorFor<X, S, F>)
      return Gate<G, X> && Shared<Sh, X> && Envelope<decltype(F::envelope), X> && OutputStep<decltype(F::output), X>;
  }
  return false;
}();

/// Each chain is instantiated only if what it builds on is right, so that one fault gives one message.
template <class R, class S, class X, class F, class G, class Sh>
struct explain {
  static_assert(sizeof(explain_router<R>) > 0 && sizeof(explain_storage<S>) > 0 && sizeof(explain_executor<X>) > 0 &&
                sizeof(explain_form<F>) > 0);
  static_assert(sizeof(explain_if<sound_parts<R, S, X, F>, explain_pair, X, S, F>) > 0);
  static_assert(sizeof(explain_if<ExecutorCore<X> && sound_router<R>(), explain_batch, R, X>) > 0);
  static_assert(sizeof(explain_if<ExecutorCore<X> && Router<R>, explain_ranks, R, X>) > 0);
  static_assert(sizeof(explain_if<ExecutorCore<X>, explain_gate, G, X>) > 0);
  static_assert(sizeof(explain_if<ExecutorCore<X>, explain_shared, Sh, X>) > 0);
  static_assert(sizeof(explain_if<ExecutorCore<X> && Form<F>, explain_envelope, F, X>) > 0);
  static_assert(sizeof(explain_if<Router<R> && ExpertStorage<S>, explain_uses, R, S>) > 0);
};

}  // namespace moe::detail
// clang-format on

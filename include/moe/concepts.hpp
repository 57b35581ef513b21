// What each policy must offer, requirement by requirement: Router, storages, Executor, Gate, Form, Shared.
#pragma once

// clang-format 14 does not know requirements.
// clang-format off

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>
#include <moe/frame.hpp>
#include <moe/routing.hpp>

namespace moe {

// ---- Router

template <class R>
concept RouterSizes = std::copyable<R> && requires(const R r) {
  { r.num_logits() } noexcept -> std::same_as<int>;
  { r.num_experts() } noexcept -> std::same_as<int>;
  { r.max_slots() } noexcept -> std::same_as<int>;   // the most a call can ask for; out.size() is what this call asks for
};
template <class R>
concept SimpleSelect = requires(const R r, Row<const float> logits, Row<Slot> out) {
  { r.select(logits, out) } noexcept -> std::same_as<int>;
};
template <class R>
concept ContextSelect = requires(const R r, const RowContext& row, Row<Slot> out) {
  { r.select(row, out) } noexcept -> std::same_as<int>;
};
/// Decides each row on its own: a pure function of the row context.
template <class R>
concept TokenRouter = RouterSizes<R> && (SimpleSelect<R> || ContextSelect<R>);
/// Needs the whole batch at once; on the host only.
template <class R>
concept BatchRouter = RouterSizes<R> && !TokenRouter<R> &&
    requires(const R r, const RouteContext<host_memory>& c, View<const float, host_memory> l, RoutingTable<host_memory>& t) {
      { r.route(c, l, t) } -> std::same_as<void>;
    };
template <class R>
concept Router = TokenRouter<R> || BatchRouter<R>;

// Hooks. A decorator has a public member `inner`; hooks that it does not define are looked up there.
template <class R>
concept Decorator = requires(R r) { r.inner; };
/// One expert at a time, after rows are chosen: drops what the expert has no room for.
template <class R>
concept ColumnRule = requires(const R r, const Column& column) {
  { r.admit(column) } noexcept;
};
/// After the column rule: renormalises what is left of a row.
template <class R>
concept RowFinish = requires(const R r, Row<Slot> row) {
  { r.finish(row) } noexcept;
};
template <class R>
concept HasIds = requires(const R r) {
  { r.ids() } -> std::same_as<IdMap>;
};
/// Throws Error if its numbers contradict each other; asked when a layer is made.
template <class R>
concept Checked = requires(const R r) {
  { r.check() } -> std::same_as<void>;
};

/// The one way to ask a token router, whichever form of `select` it has.
template <class R>
MOE_HD inline int select(const R& router, const RowContext& row, Row<Slot> out) noexcept {
  if constexpr (ContextSelect<R>) return router.select(row, out);
  else return router.select(row.logits, out);
}
template <class R>
constexpr IdMap ids_of(const R& router) {
  if constexpr (HasIds<R>) return router.ids();
  else if constexpr (Decorator<R>) return ids_of(router.inner);
  else return {router.num_experts(), 0};
}
template <class R>
constexpr Uses uses_of() {
  if constexpr (requires { R::uses; }) return R::uses;
  else if constexpr (Decorator<R>) return uses_of<std::remove_cvref_t<decltype(std::declval<R&>().inner)>>();
  else return Uses::nothing;
}
/// What this router needs of a call: one chosen when the program runs says it by itself.
template <class R>
constexpr Uses required_uses([[maybe_unused]] const R& router) {
  if constexpr (requires { router.required_uses(); }) return router.required_uses();
  else return uses_of<R>();
}
template <class R>
constexpr bool has_column_rule() {
  if constexpr (ColumnRule<R>) return true;
  else if constexpr (Decorator<R>) return has_column_rule<std::remove_cvref_t<decltype(std::declval<R&>().inner)>>();
  else return false;
}
/// Whether a row's choices depend on that row alone, or on earlier ones: what a router says by `static constexpr bool
/// causal`, else true for routers that decide row by row and have no column rule.
template <class R>
constexpr bool is_causal() {
  if constexpr (requires { R::causal; }) return R::causal;
  else if constexpr (BatchRouter<R> || ColumnRule<R>) return false;
  else if constexpr (Decorator<R>) return is_causal<std::remove_cvref_t<decltype(std::declval<R&>().inner)>>();
  else return true;
}
/// Whether this router has a column rule that is in use: one chosen when the program runs may not.
template <class R>
constexpr bool has_columns([[maybe_unused]] const R& router) {
  if constexpr (requires { router.has_columns(); }) return router.has_columns();
  else if constexpr (ColumnRule<R>) return true;
  else if constexpr (Decorator<R>) return has_columns(router.inner);
  else return false;
}
template <class R>
MOE_HD inline void admit(const R& router, const Column& column) noexcept {
  if constexpr (ColumnRule<R>) router.admit(column);
  else if constexpr (Decorator<R>) admit(router.inner, column);
}
template <class R>
void check_options([[maybe_unused]] const R& policy) {
  if constexpr (Checked<R>) policy.check();
  if constexpr (Decorator<R>) check_options(policy.inner);
}
template <class R>
MOE_HD inline void finish(const R& router, Row<Slot> row) noexcept {
  if constexpr (RowFinish<R>) router.finish(row);
  else if constexpr (Decorator<R>) finish(router.inner, row);
}

// ---- Storage

/// Called once for every `RecordSource::read` when the record is complete, or with what went wrong.
using ReadDone = void (*)(void* who, const Error* error) noexcept;

/// Whether a call waits for a record, or may want it soon: sources with a queue serve what is waited for first.
enum class Urgency : int { now, later };

/// One record to be read into memory that somebody else owns.
struct ReadRequest {
  ExpertId expert = -1;
  int format = 0;              // index in the source's formats
  std::byte* to = nullptr;     // bytes(format) bytes, page_alignment-aligned
  ReadDone done = nullptr;
  void* who = nullptr;         // what `done` is given
  Urgency urgency = Urgency::now;
};

/// Reads packed records. `read` may answer at once on this thread or later on another; it answers exactly once and
/// does not throw. Hooks: `void hurry(const void* who) const noexcept`, a record that was asked for with
/// Urgency::later is waited for now; `int choose(const ExpertNeed&) const noexcept`, the least precise format that
/// serves a need (formats stand from the most precise on), or -1 if the need may go unserved.
template <class S>
concept RecordSource = std::movable<S> && requires(const S s, int format, const ReadRequest& request) {
  typename S::layout;
  typename S::formats;
  { s.shape() } noexcept -> std::same_as<ExpertShape>;
  { s.num_experts() } noexcept -> std::same_as<int>;
  { s.bytes(format) } noexcept -> std::same_as<std::size_t>;
  s.read(request);
};
template <RecordSource S>
void hurry([[maybe_unused]] const S& source, [[maybe_unused]] const void* who) noexcept {
  if constexpr (requires { source.hurry(who); }) source.hurry(who);
}
/// The least precise format that serves a need; negative: the need may go unserved.
template <RecordSource S>
int choose([[maybe_unused]] const S& source, [[maybe_unused]] const ExpertNeed& need) noexcept {
  if constexpr (requires { { source.choose(need) } -> std::same_as<int>; }) return source.choose(need);
  else return 0;
}
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

namespace detail {
/// Tells the storage when a call leaves before its needs were served: what it claimed may go.
template <class Storage, class W>
class AbandonGuard {
 public:
  AbandonGuard(const Storage& storage, const std::span<ExpertNeed>& rest, W& wave)
      : storage_(storage), rest_(rest), wave_(wave) {}
  AbandonGuard(const AbandonGuard&) = delete;
  AbandonGuard& operator=(const AbandonGuard&) = delete;
  ~AbandonGuard() {
    if constexpr (requires { storage_.abandon(rest_, wave_); })
      if (!served_) storage_.abandon(rest_, wave_);
  }
  void served() noexcept { served_ = true; }

 private:
  const Storage& storage_;
  const std::span<ExpertNeed>& rest_;
  W& wave_;
  bool served_ = false;
};
}  // namespace detail

// ---- Executor, gate, shared experts

/// Where a set of refs stands among those of one call.
struct Part {
  bool first = true, last = true, refs_on_host = true;
};

template <class X>
concept ExecutorCore = std::movable<X> && MemorySpace<typename X::memory> &&
    requires(const X x, Arena& main, Arena& staging, Dims d, IdMap ids, Frame<typename X::memory>& f,
             View<const float, typename X::memory> in, View<float, typename X::memory> out, const float* bias, void (*row)(int)) {
      typename X::layout;
      { x.carve(main, staging, d, ids) } -> std::same_as<Frame<typename X::memory>>;
      x.rows(f, 1, row);
      x.linear(f, in, in, bias, out);
      x.group(f);
      { x.needs(f) } -> std::same_as<std::span<ExpertNeed>>;
    };
template <class X, class S, class Form>
concept ExecutorFor = ExecutorCore<X> && std::same_as<typename X::memory, typename S::memory> &&
    std::same_as<typename X::layout, typename S::layout> &&
    requires(const X x, Frame<typename X::memory>& f, View<const float, typename X::memory> in,
             View<float, typename X::memory> y, Row<const ExpertRef> refs, const ExpertShape s, const Form form, Part part) {
      x.experts(f, in, refs, typename S::formats{}, s, form, part);
      x.combine(f, in, form, y, bool{});
    };

/// Turns inputs into logits, said in the executor's `linear` and `rows`: no executor knows a gate.
/// Hooks: `int scratch_columns() const noexcept`, floats per row of Frame::gate_scratch that it works in;
/// `int state_columns() const noexcept`, width of the router state that calls hand from layer to layer.
template <class G, class X>
concept Gate = requires(const G g, const X x, Frame<typename X::memory>& f, View<const float, typename X::memory> in,
                        View<float, typename X::memory> out) {
  { g.outputs() } noexcept -> std::same_as<int>;
  { g.inputs() } noexcept -> std::same_as<int>;
  g.logits(x, f, in, out);
};

/// Latent experts: enter maps [T, outer_width] to [T, width], leave maps back.
template <class E, class X>
concept Envelope = std::same_as<E, NoEnvelope> ||
    requires(const E e, const X x, Frame<typename X::memory>& f, View<const float, typename X::memory> in,
             View<float, typename X::memory> out) {
      { e.width() } noexcept -> std::same_as<int>;
      { e.outer_width() } noexcept -> std::same_as<int>;
      e.enter(x, f, in, out);
      e.leave(x, f, in, out);
    };

template <class F>
concept Form = Activation<typename F::activation> && requires(const F f) {
  { f.act } -> std::convertible_to<typename F::activation>;
  { f.weight_on } -> std::convertible_to<WeightOn>;
  f.envelope;
};
// Hooks of a form: its members output_scale, expert_norm_eps and output, as ExpertForm has them.
template <class F>
constexpr float output_scale([[maybe_unused]] const F& form) {
  if constexpr (requires { form.output_scale; }) return form.output_scale;
  else return 1;
}
template <class F>
constexpr float expert_norm_eps([[maybe_unused]] const F& form) {
  if constexpr (requires { form.expert_norm_eps; }) return form.expert_norm_eps;
  else return 0;
}
template <class F>
constexpr decltype(auto) output_step([[maybe_unused]] const F& form) {
  if constexpr (requires { form.output; }) return (form.output);
  else return PlainOutput{};
}
template <class F>
using OutputStepOf = std::remove_cvref_t<decltype(output_step(std::declval<const F&>()))>;

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
    requires(const S s, const X x, Frame<typename X::memory>& f, View<const float, typename X::memory> in) {
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
                             View<const float, typename X::memory> in, View<float, typename X::memory> y) {
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

// What a router must offer, and the hooks that it may have: each is asked by one free function.
#pragma once

// clang-format 14 does not know requirements.
// clang-format off

#include <concepts>
#include <type_traits>
#include <utility>

#include <moe/routing.hpp>

namespace moe {

/// A decorator has a public member `inner`; what it does not define itself, sizes and hooks, is looked up there. So a
/// decorator is `inner` and `select`.
template <class R>
concept Decorator = requires(R r) { r.inner; };

namespace detail {

// ---- one look-up for all hooks: the outermost router of a chain of decorators that has one

template <class R>
using inner_of = std::remove_cvref_t<decltype(std::declval<R&>().inner)>;

template <template <class> class Hook, class R>
struct owner_of_ {
  using type = void;
};
template <template <class> class Hook, class R>
  requires(Hook<R>::value)
struct owner_of_<Hook, R> {
  using type = R;
};
template <template <class> class Hook, class R>
  requires(!Hook<R>::value && Decorator<R>)
struct owner_of_<Hook, R> : owner_of_<Hook, inner_of<R>> {};
template <template <class> class Hook, class R>
using owner_of = typename owner_of_<Hook, R>::type;
template <template <class> class Hook, class R>
concept Has = !std::is_void_v<owner_of<Hook, R>>;

template <template <class> class Hook, class R>
MOE_HD constexpr const owner_of<Hook, R>& owner(const R& router) noexcept {
  if constexpr (Hook<R>::value) return router;
  else return owner<Hook>(router.inner);
}

template <class R>
struct has_num_logits : std::bool_constant<requires(const R r) { { r.num_logits() } noexcept -> std::same_as<int>; }> {};
template <class R>
struct has_num_experts : std::bool_constant<requires(const R r) { { r.num_experts() } noexcept -> std::same_as<int>; }> {};
template <class R>
struct has_max_slots : std::bool_constant<requires(const R r) { { r.max_slots() } noexcept -> std::same_as<int>; }> {};
template <class R>
struct has_ids : std::bool_constant<requires(const R r) { { r.ids() } -> std::same_as<IdMap>; }> {};
template <class R>
struct has_uses : std::bool_constant<requires { R::uses; }> {};
template <class R>
struct has_admit : std::bool_constant<requires(const R r, const Column& column) { { r.admit(column) } noexcept; }> {};
template <class R>
struct has_finish : std::bool_constant<requires(const R r, Row<Slot> row) { { r.finish(row) } noexcept; }> {};

/// Stands for every callback of `tables`.
struct AnyTable {
  template <class T>
  void operator()(Row<const T>&) const noexcept {}
  template <class T, class M>
  void operator()(View<const T, M>&) const noexcept {}
  void operator()(const float*&, int) const noexcept {}
};

}  // namespace detail

// ---- sizes

/// Columns of the gate's product that this router reads.
template <class R>
  requires detail::Has<detail::has_num_logits, R>
MOE_HD constexpr int num_logits(const R& router) noexcept {
  return detail::owner<detail::has_num_logits>(router).num_logits();
}
/// Ids in [0, num_experts) are experts with weights.
template <class R>
  requires detail::Has<detail::has_num_experts, R>
MOE_HD constexpr int num_experts(const R& router) noexcept {
  return detail::owner<detail::has_num_experts>(router).num_experts();
}
/// The most choices that a call can ask for; the size of `out` is what this call asks for.
template <class R>
  requires detail::Has<detail::has_max_slots, R>
MOE_HD constexpr int max_slots(const R& router) noexcept {
  return detail::owner<detail::has_max_slots>(router).max_slots();
}

// ---- what a router is

template <class R>
concept RouterSizes = std::copyable<R> && requires(const R r) {
  moe::num_logits(r);
  moe::num_experts(r);
  moe::max_slots(r);
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

/// The one way to ask a token router, whichever form of `select` it has.
template <class R>
MOE_HD inline int select(const R& router, const RowContext& row, Row<Slot> out) noexcept {
  if constexpr (ContextSelect<R>) return router.select(row, out);
  else return router.select(row.logits.values(), out);
}

// ---- hooks that decorators inherit

/// Which ids have weights and which return their input; none said: all have weights.
template <class R>
constexpr IdMap ids_of(const R& router) {
  if constexpr (detail::Has<detail::has_ids, R>) return detail::owner<detail::has_ids>(router).ids();
  else return {moe::num_experts(router), 0};
}
template <class R>
constexpr Uses uses_of() {
  if constexpr (detail::Has<detail::has_uses, R>) return detail::owner_of<detail::has_uses, R>::uses;
  else return Uses::nothing;
}
/// What this router needs of a call: one chosen when the program runs says it by itself.
template <class R>
constexpr Uses required_uses([[maybe_unused]] const R& router) {
  if constexpr (requires { router.required_uses(); }) return router.required_uses();
  else return uses_of<R>();
}
/// One expert at a time, after rows are chosen: drops what the expert has no room for.
template <class R>
constexpr bool has_column_rule() {
  return detail::Has<detail::has_admit, R>;
}
template <class R>
MOE_HD inline void admit(const R& router, const Column& column) noexcept {
  if constexpr (detail::Has<detail::has_admit, R>) detail::owner<detail::has_admit>(router).admit(column);
}
/// After the column rule: renormalises what is left of a row.
template <class R>
MOE_HD inline void finish(const R& router, Row<Slot> row) noexcept {
  if constexpr (detail::Has<detail::has_finish, R>) detail::owner<detail::has_finish>(router).finish(row);
}

namespace detail {
template <class R>
struct has_causality : std::bool_constant<BatchRouter<R> || has_admit<R>::value || requires { R::causal; }> {};
template <class R>
struct has_column_switch : std::bool_constant<has_admit<R>::value || requires(const R r) { r.has_columns(); }> {};
}  // namespace detail

/// Whether a row's choices depend on that row alone, or on earlier ones: what a router says by `static constexpr bool
/// causal`, else true for routers that decide row by row and have no column rule.
template <class R>
constexpr bool is_causal() {
  using Owner = detail::owner_of<detail::has_causality, R>;
  if constexpr (requires { Owner::causal; }) return Owner::causal;
  else return std::is_void_v<Owner>;
}
/// Whether this router has a column rule that is in use: one chosen when the program runs may not.
template <class R>
constexpr bool has_columns([[maybe_unused]] const R& router) {
  if constexpr (detail::Has<detail::has_column_switch, R>) {
    const auto& owner = detail::owner<detail::has_column_switch>(router);
    if constexpr (requires { owner.has_columns(); }) return owner.has_columns();
    else return true;
  } else {
    return false;
  }
}

// ---- hooks of each router of the chain

/// Throws Error if its numbers contradict each other; asked when a layer is made.
template <class R>
concept Checked = requires(const R r) {
  { r.check() } -> std::same_as<void>;
};
template <class R>
void check_options([[maybe_unused]] const R& policy) {
  if constexpr (Checked<R>) policy.check();
  if constexpr (Decorator<R>) check_options(policy.inner);
}

/// Names what must lie in the executor's memory: `template <class F> void tables(F&& f) { f(bias.values); }`, where f
/// takes a Row, a View, or a pointer to floats and their number, and may replace it.
template <class P>
concept HasTables = requires(P policy, detail::AnyTable f) { policy.tables(f); };
/// Calls f for every table of a router, gate, form or shared experts, and of what it decorates.
template <class P, class F>
void visit_tables([[maybe_unused]] P& policy, [[maybe_unused]] F&& f) {
  if constexpr (HasTables<P>) policy.tables(f);
  if constexpr (Decorator<P>) visit_tables(policy.inner, f);
}

// ---- hooks of a router alone: what a decorator does to weights, what it decorates does not know

/// Turns ids that were chosen by other means into weights.
template <class R>
concept Weighs = requires(const R r, const RowContext& row, Row<Slot> picked) {
  { r.weigh(row, picked) } noexcept;
};
/// Names what ids are compared by, so that a device can choose with many threads: `keys(row)` is a function of an id,
/// `bool operator()(ExpertId, float& key) const noexcept`, false for ids that are not to be picked. `select` picks the
/// largest keys, ties to the lower id, and then weighs them by `weigh`.
template <class R>
concept KeyRouter = TokenRouter<R> && Weighs<R> && requires(const R r, const RowContext& row, float& key) {
  { r.keys(row)(ExpertId{}, key) } noexcept -> std::same_as<bool>;
};

}  // namespace moe
// clang-format on

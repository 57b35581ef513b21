// What a router must offer, and the hooks that it may have: each is asked by one free function.
#pragma once

// clang-format 14 does not know requirements.
// clang-format off

#include <concepts>
#include <type_traits>
#include <utility>

#include <moe/routing.hpp>

namespace moe {

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

}  // namespace moe
// clang-format on

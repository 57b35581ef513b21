// AnyRouter, AnyGate, AnyMixing: one of several policies, chosen when the program runs.
#pragma once

#include <utility>
#include <variant>

#include <moe/concepts.hpp>
#include <moe/gate.hpp>
#include <moe/shared.hpp>

namespace moe {

/// One of the routers R..., for hosts that learn the family from a file: one layer type serves all of them. Costs a
/// jump per row; on the host only. What it needs of a call and whether it has a column rule are those of the router it
/// holds.
template <TokenRouter... R>
class AnyRouter {
  static_assert((!contains(uses_of<R>(), Uses::residency) && ...),
                "moe::AnyRouter: a router that looks at residency must be in the layer's type");

 public:
  static constexpr bool causal = (is_causal<R>() && ...);

  template <class One>
  requires(std::same_as<One, R> || ...) AnyRouter(One router)  // NOLINT: a router is one of these
      : router_(std::move(router)) {}

  int num_logits() const noexcept {
    return ask([](const auto& r) { return moe::num_logits(r); });
  }
  int num_experts() const noexcept {
    return ask([](const auto& r) { return moe::num_experts(r); });
  }
  int max_slots() const noexcept {
    return ask([](const auto& r) { return moe::max_slots(r); });
  }
  int select(const RowContext& row, Row<Slot> out) const noexcept {
    return ask([&](const auto& r) { return moe::select(r, row, out); });
  }
  IdMap ids() const {
    return ask([](const auto& r) { return ids_of(r); });
  }
  Uses required_uses() const noexcept {
    return ask([](const auto& r) { return uses_of<std::remove_cvref_t<decltype(r)>>(); });
  }
  void check() const {
    ask([](const auto& r) { check_options(r); });
  }
  bool has_columns() const noexcept {
    return ask([](const auto& r) { return moe::has_columns(r); });
  }
  void admit(const Column& column) const noexcept requires(has_column_rule<R>() || ...) {
    ask([&](const auto& r) { moe::admit(r, column); });
  }
  void finish(Row<Slot> row) const noexcept {
    ask([&](const auto& r) { moe::finish(r, row); });
  }

  /// The router, if it is a One.
  template <class One>
  const One* get_if() const noexcept {
    return std::get_if<One>(&router_);
  }

 private:
  template <class F>
  decltype(auto) ask(F&& f) const {
    return std::visit(std::forward<F>(f), router_);
  }
  std::variant<R...> router_;
};

/// One of the gates G...
template <class... G>
class AnyGate {
 public:
  template <class One>
  requires(std::same_as<One, G> || ...) AnyGate(One gate)  // NOLINT: a gate is one of these
      : gate_(std::move(gate)) {}

  int outputs() const noexcept {
    return std::visit([](const auto& g) { return g.outputs(); }, gate_);
  }
  int inputs() const noexcept {
    return std::visit([](const auto& g) { return g.inputs(); }, gate_);
  }
  int scratch_columns() const noexcept {
    return std::visit([](const auto& g) { return moe::scratch_columns(g); }, gate_);
  }
  int state_columns() const noexcept {
    return std::visit([](const auto& g) { return moe::state_columns(g); }, gate_);
  }
  template <class X, class M>
  void logits(const X& executor, Frame<M>& f, const GateCall<M>& call) const {
    std::visit([&](const auto& g) { g.logits(executor, f, call); }, gate_);
  }

 private:
  std::variant<G...> gate_;
};

/// One of the ways Mix... to mix shared experts with the routed ones.
template <class... Mix>
class AnyMixing {
 public:
  template <class One>
  requires(std::same_as<One, Mix> || ...) AnyMixing(One mixing)  // NOLINT: a mixing is one of these
      : mixing_(std::move(mixing)) {}

  int num_logits() const noexcept {
    return std::visit([](const auto& m) { return m.num_logits(); }, mixing_);
  }
  template <class X, class M>
  void weigh(const X& executor, Frame<M>& f, ConstElementView<M> in, Frame<M>& routed) const {
    std::visit([&](const auto& m) { m.weigh(executor, f, in, routed); }, mixing_);
  }

 private:
  std::variant<Mix...> mixing_;
};

}  // namespace moe

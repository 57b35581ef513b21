// LayerParts: the six policies of a layer, whether they fit each other, and the memory that they need together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include <moe/explain.hpp>
#include <moe/layer/call_checks.hpp>
#include <moe/layer/form_steps.hpp>

namespace moe::detail {

template <class S>
struct pin_of_ {
  using type = char;
};
template <LeasingStorage S>
struct pin_of_<S> {
  using type = typename S::pin;
};
template <class S>
using pin_of = typename pin_of_<S>::type;

template <class Router, class Storage, class Executor, class Form, class Gate, class Shared>
struct LayerParts {
  using memory = memory_of<Executor>;
  static constexpr bool leasing = !ResidentStorage<Storage>;
  static constexpr bool has_gate = !std::is_same_v<Gate, NoGate>;
  static constexpr bool shared_experts = SharedExpertsPolicy<Shared, Executor>;

  Gate gate;
  Router router;
  Storage storage;
  Executor executor;
  Form form;
  Shared shared;

  /// Columns of x and y; the experts' own width differs under an envelope.
  int hidden() const noexcept {
    if constexpr (enveloped<Form>)
      return form.envelope.outer_width();
    else
      return storage.shape().hidden;
  }
  CallFacts facts() const {
    return {.hidden = hidden(),
            .logits = num_logits(router),
            .max_slots = max_slots(router),
            .gate_inputs = has_gate ? gate.inputs() : -1,
            .state_columns = state_columns(gate),
            .uses = required_uses(router),
            .any_element = TakesElements<Executor>,
            .row_by_row = TokenRouter<Router>};
  }
  /// Slots per token of a call.
  int slots_of(const Call<memory>& call) const {
    if (call.brings_table()) return call.table.slots.cols;
    return call.max_slots != 0 ? call.max_slots : max_slots(router);
  }
  /// Whether the router's answer for a row depends on the other rows of the call, so that it cannot be cut.
  bool looks_at_batch(const Call<memory>& call) const {
    if constexpr (BatchRouter<Router>) return !call.brings_table();
    if constexpr (has_column_rule<Router>()) return !call.brings_table() && has_columns(router);
    return false;
  }

  // ---- do they fit each other?

  /// Throws Error unless they do.
  void check() const {
    constexpr const char* where = "moe::MoELayer";
    const ExpertShape s = storage.shape();
    require_equal(where, "experts in the storage", local_experts(executor, ids_of(router).networks),
                  storage.num_experts());
    if constexpr (has_gate) require_equal(where, "rows of the gate", num_logits(router), gate.outputs());
    require_equal(where, "gated experts (1 yes, 0 no)", int{Form::activation::gated}, int{s.gated});
    check_options(router);
    if (max_slots(router) < 1) raise(Error(where, "slots per token", "at least 1", std::to_string(max_slots(router))));
    if constexpr (enveloped<Form>) require_equal(where, "width of the envelope", s.hidden, form.envelope.width());
    if constexpr (requires { form.output.check(hidden()); }) form.output.check(hidden());
    if constexpr (shared_experts) {
      const ExpertShape every = shared.storage.shape();
      require_equal(where, "hidden width of the shared experts", hidden(), every.hidden);
      require_equal(where, "gated shared experts (1 yes, 0 no)", int{decltype(shared.form)::activation::gated},
                    int{every.gated});
    }
  }
  /// Their tables move into the executor's memory, where that is not the host's.
  void adopt_tables() {
    adopt(executor, gate);
    adopt(executor, router);
    adopt(executor, form);
    adopt(executor, shared);
  }

  // ---- what memory do they need? One text measures and carves

  struct Memory {
    frame_of<Executor> routed;
    frame_of<local_of<Executor>> shared;
    View<float, memory> gate_scratch;      // [T, columns that the gate asks for]
    View<float, memory> inner_x, inner_y;  // [T, width of the experts], only under an envelope
    View<float, memory> outer_y;           // [T,H], sums of a y of another type than float32, only under an envelope
    std::uint32_t* resident = nullptr;     // a bit per expert
    ExpertRef* refs = nullptr;
    pin_of<Storage>* pins = nullptr;
  };
  Memory carve(Arena& main, Arena& staging, int tokens, int slots) const {
    Memory m;
    const ExpertShape s = storage.shape();
    const IdMap ids = ids_of(router);
    m.routed = executor.carve(main, staging, {tokens, s.hidden, s.ffn, num_logits(router), ids.networks, slots}, ids);
    if (const int columns = scratch_columns(gate); columns > 0)
      m.gate_scratch = main.template matrix<float, memory>(tokens, columns);
    if constexpr (enveloped<Form>) {
      m.inner_x = main.template matrix<float, memory>(tokens, s.hidden);
      m.inner_y = main.template matrix<float, memory>(tokens, s.hidden);
      m.outer_y = main.template matrix<float, memory>(tokens, hidden());
    }
    if constexpr (shared_experts) m.shared = carve_shared(main, staging, tokens);
    const auto experts = static_cast<std::size_t>(ids.networks);
    if constexpr (contains(uses_of<Router>(), Uses::residency))
      m.resident = staging.template take<std::uint32_t>(pieces(experts, std::size_t{32}));
    if constexpr (leasing) {
      m.refs = staging.template take<ExpertRef>(experts);
      m.pins = staging.template take<pin_of<Storage>>(experts);
    }
    return m;
  }
  WorkspaceSize workspace(int tokens, int slots) const {
    Arena main, staging;
    carve(main, staging, tokens, slots);
    return {main.used(), staging.used()};
  }
  /// The memory of a call whose rows fit; it holds what the last call with these sizes left there.
  Memory memory_in_use(const Call<memory>& call, Workspace<memory>& ws) const {
    Arena main = ws.main(), staging = ws.staging();
    Memory m = carve(main, staging, call.x.rows, slots_of(call));
    m.routed.queue = m.shared.queue = &ws.queue();
    return m;
  }

 private:
  auto carve_shared(Arena& main, Arena& staging, int tokens) const {
    const ExpertShape s = shared.storage.shape();
    const int n = shared.storage.num_experts();
    return local_executor(executor).carve(main, staging, {tokens, s.hidden, s.ffn, mixing_logits(shared), n, n},
                                          IdMap{n, 0});
  }
};

/// The most rows, up to `rows`, for which `size(rows)` fits into `have`; throws Error if not even one does.
template <class Size>
int rows_that_fit(WorkspaceSize have, int rows, const Size& size) {
  const auto fits = [&](int n) {
    const WorkspaceSize need = size(n);
    return need.bytes <= have.bytes && need.staging_bytes <= have.staging_bytes;
  };
  if (fits(rows)) return rows;
  int low = 0, high = rows;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  if (low > 0) return low;
  const auto text = [](WorkspaceSize s) { return concat(s.bytes, " + ", s.staging_bytes, " bytes"); };
  raise(Error("moe::MoELayer::forward", "workspace for one row", text(size(1)), text(have)));
}

}  // namespace moe::detail

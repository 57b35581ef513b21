// MoELayer: y = sum over chosen experts of weight * expert(x), written as the walk of one call.
#pragma once

#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <moe/layer/observer.hpp>
#include <moe/layer/parts.hpp>

namespace moe {

/// A mixture-of-experts layer: y = sum over chosen experts of weight * expert(x), plus shared experts.
///
/// Router decides who computes a token, Storage where weights live and how they arrive, Executor does the arithmetic;
/// all three, and Form, Gate and Shared, are deduced from the constructor. The layer is const in use: several threads
/// may call it at once, each with its own workspace. Results do not depend on the number of threads, on how a batch is
/// split, or on what is cached.
template <class Router, class Storage, class Executor, class Form = ExpertForm<SwiGlu>,
          class Gate = Linear<detail::memory_of<Executor>>, class Shared = NoShared>
class MoELayer {
  static_assert(sizeof(detail::explain<Router, Storage, Executor, Form, Gate, Shared>) > 0);
  static constexpr bool sound = detail::sound<Router, Storage, Executor, Form, Gate, Shared>;
  using Parts = detail::LayerParts<Router, Storage, Executor, Form, Gate, Shared>;

 public:
  using memory = typename Parts::memory;

  /// Throws Error if gate, router, storage and form do not fit each other.
  MoELayer(Gate gate, Router router, Storage storage, Executor executor, Form form = {}, Shared shared = {})
      : parts_{std::move(gate),     std::move(router), std::move(storage),
               std::move(executor), std::move(form),   std::move(shared)} {
    if constexpr (sound) {
      parts_.check();
      parts_.adopt_tables();
    }
  }

  /// What a workspace needs for calls that compute `max_tokens` rows at once. Longer calls are cut into chunks that
  /// fit, with the same results.
  WorkspaceSize workspace(int max_tokens) const {
    if constexpr (sound)
      return parts_.workspace(max_tokens, max_slots(router()));
    else
      return {};
  }

  /// Computes call.y from call.x. Throws Error for arguments that do not fit, and what the storage throws (IoError)
  /// when experts cannot be read; then y is unspecified and the layer stays usable.
  template <class Observer = NoObserver>
  void forward(const Call<memory>& call, Workspace<memory>& ws, Observer&& observer = {}) const {
    if constexpr (sound) {
      detail::PeerGuard<Executor> guard{executor()};
      const detail::CallFacts facts = parts_.facts();
      const detail::CallChecks<memory> checks(call, facts);
      checks.routing();
      checks.output();
      for_each_chunk(call, ws, [&](const Chunk& chunk) { return compute(chunk, ws, detail::Watch{observer}); });
      guard.done();
    }
  }
  void forward(ConstElementView<memory> x, ElementView<memory> y, Workspace<memory>& ws) const {
    forward(Call<memory>{.x = x, .y = y}, ws);
  }

  /// As `forward`, for rows that are the newest of sequences which go on: tells the router so, and does not compile
  /// with a router whose choices for a row depend on rows that come later.
  template <class Observer = NoObserver>
  void decode(Call<memory> call, Workspace<memory>& ws, Observer&& observer = {}) const {
    static_assert(is_causal<Router>(),
                  "moe::MoELayer::decode: this router is not causal, a row's experts depend on the other rows of the "
                  "batch; use forward, or a router that decides row by row (docs/policies.md#router)");
    call.context.decode = true;
    forward(call, ws, observer);
  }

  /// Routes `call` as a guess and tells the storage which experts may be wanted next; y is not used. With call.logits
  /// the guess is the caller's. Returns how many of them were neither here nor on their way: 0 means that a walk may
  /// guess for one layer more. Does nothing for storages that hold everything.
  int prefetch(const Call<memory>& call, Workspace<memory>& ws) const {
    int missing = 0;
    if constexpr (sound && requires(std::span<const ExpertNeed> n) { storage().expect(n); }) {
      const detail::CallFacts facts = parts_.facts();
      detail::CallChecks<memory>(call, facts).routing();
      for_each_chunk(call, ws, [&](const Chunk& chunk) {
        Memory m = fresh_memory(chunk, ws);
        route(chunk.call, m, detail::Watch{NoObserver{}});
        missing += storage().expect(needs_of(executor(), m.routed));
        return false;
      });
    }
    return missing;
  }

  /// What the last `forward` of this call left in its workspace, for a backward pass: the workspace is the tape. Valid
  /// for a call that was computed in one piece, until the workspace is used again.
  auto kept(const Call<memory>& call, Workspace<memory>& ws) const {
    Memory m = parts_.memory_in_use(call, ws);
    m.routed.routing_logits = call.brings_logits() ? call.logits : View<const float, memory>(m.routed.logits);
    return m.routed;
  }

  /// Columns of x and y; the experts' own width differs under an envelope.
  int hidden() const noexcept { return parts_.hidden(); }
  const Router& router() const noexcept { return parts_.router; }
  const Storage& storage() const noexcept { return parts_.storage; }
  const Executor& executor() const noexcept { return parts_.executor; }
  const Form& form() const noexcept { return parts_.form; }
  const Gate& gate() const noexcept { return parts_.gate; }
  const Shared& shared() const noexcept { return parts_.shared; }

 private:
  using Memory = typename Parts::Memory;

  /// Rows of a call that fit the workspace.
  struct Chunk {
    Call<memory> call;
    int first;  // row of the whole call
    bool more;  // whether rows follow
  };

  // ---- the walk

  /// y = sum over the K choices of a row of weight_k * E_k(x). Returns whether rows follow, here or on another rank.
  template <class Watch>
  bool compute(const Chunk& chunk, Workspace<memory>& ws, const Watch& watch) const {
    const Call<memory>& call = chunk.call;
    Memory m = fresh_memory(chunk, ws);
    auto& f = m.routed;

    route(call, m, watch);  // f.table [T,K]: expert and weight of each choice; f.dispatch: the same by expert
    weigh_shared(call, m);  // m.shared.table [T,S]
    detail::scale_routed(executor(), f, form());

    const ConstElementView<memory> x = detail::enter(executor(), f, form(), call.x, m.inner_x);  // [T,H] of experts
    const View<float, memory> y = float_y(call, m);
    sum_of_experts(x, detail::enveloped<Form> ? m.inner_y : y, m, watch);  // in slot order
    detail::leave(executor(), f, form(), m.inner_y, y);

    add_shared(call, m, y);  // comes last, so that the order of sums is fixed
    detail::finish_output(executor(), f, form(), y);
    if (!call.y.is_float()) narrow(executor(), f, View<const float, memory>(y), call.y);
    watch.done(f);
    return f.more;
  }

  /// call.y, or where its sums stand until they are rounded to its type.
  View<float, memory> float_y(const Call<memory>& call, [[maybe_unused]] Memory& m) const {
    if constexpr (TakesElements<Executor>)
      if (!call.y.is_float()) return detail::enveloped<Form> ? m.outer_y : executor().sums(m.routed);
    return call.y.floats();
  }

  /// Who computes each row: the router's choices on the gate's logits, or those that the call brings.
  template <class Watch>
  void route(const Call<memory>& call, Memory& m, const Watch& watch) const {
    auto& f = m.routed;
    if (call.brings_table()) {
      rows_and_group(executor(), f, f.dims.tokens, detail::CopyRow<memory>{call.table, f.table});
    } else {
      f.routing_logits = call.brings_logits() ? call.logits : gate_logits(call, m);  // [T,L]
      watch.logits(f.routing_logits);
      const RouteContext<memory> context = context_of(call, m);
      choose_experts(context, f);
      admit_rows(context, f);
    }
    watch.routed(f);
  }
  View<const float, memory> gate_logits(const Call<memory>& call, Memory& m) const {
    auto& f = m.routed;
    gate().logits(executor(), f,
                  GateCall<memory>{.in = call.router_input(),
                                   .logits = f.logits,
                                   .scratch = m.gate_scratch,
                                   .state_in = call.router_state_in,
                                   .state_out = call.router_state_out,
                                   .modalities = call.context.modalities});
    return f.logits;
  }
  RouteContext<memory> context_of(const Call<memory>& call, [[maybe_unused]] Memory& m) const {
    RouteContext<memory> context = call.context;
    if constexpr (contains(uses_of<Router>(), Uses::residency))
      context.resident = residency_mask(executor(), m.routed, m.resident,
                                        [this](std::uint32_t* words) { storage().residency(words); });
    return context;
  }
  template <class F>
  void choose_experts(const RouteContext<memory>& context, F& f) const {
    if constexpr (BatchRouter<Router>) {
      router().route(context, f.routing_logits, f.table);
      group_rows(executor(), f);
    } else {
      rows_and_group(executor(), f, f.dims.tokens,
                     detail::SelectRow<Router, memory>{router(), f.table, context, f.routing_logits});
    }
  }
  /// Experts turn away what they have no room for.
  template <class F>
  void admit_rows([[maybe_unused]] const RouteContext<memory>& context, [[maybe_unused]] F& f) const {
    if constexpr (has_column_rule<Router>()) {
      if (!has_columns(router())) return;
      executor().rows(f, f.dims.experts, detail::AdmitColumn<Router, memory>{router(), f.table, f.dispatch, context});
      rows_and_group(executor(), f, f.dims.tokens, detail::FinishRow<Router, memory>{router(), f.table});
    }
  }

  template <class Watch>
  void sum_of_experts(ConstElementView<memory> x, View<float, memory> y, Memory& m, const Watch& watch) const {
    using formats = typename Storage::formats;
    auto& f = m.routed;
    if constexpr (SendsRows<Executor>) executor().send(f, x, Parts::leasing);
    if constexpr (!Parts::leasing && SumsExperts<Executor, formats, Form>) {
      if (form().expert_norm_eps == 0)
        return executor().experts_and_combine(f, x, storage().table(), formats{}, storage().shape(), form(), y);
    }
    experts(x, m, watch);  // f.partial [T*K,H] = E_k(x)
    detail::normalise_experts(executor(), f, form());
    executor().combine(f, x, form(), y, false);
  }

  /// The chosen experts' outputs: at once, or in waves as the storage lends them.
  template <class Watch>
  void experts(ConstElementView<memory> x, Memory& m, [[maybe_unused]] const Watch& watch) const {
    auto& f = m.routed;
    const auto compute = [&](Row<const ExpertRef> refs, WavePosition position) {
      if constexpr (Parts::leasing || std::is_same_v<memory, host_memory>) watch.wave(refs);
      executor().experts(f, x, refs, typename Storage::formats{}, storage().shape(), form(), position);
    };
    if constexpr (!Parts::leasing) {
      compute(storage().table(), {.first = true, .last = true, .refs_on_host = false});
    } else {
      std::span<ExpertNeed> todo = needs_of(executor(), f);
      Wave<detail::pin_of<Storage>> wave{m.refs, m.pins};
      detail::AbandonGuard guard{storage(), todo, wave, *f.queue};
      bool first = true;
      do {  // the wave is given back before the next acquire may wait: nobody holds while waiting
        todo = storage().acquire(todo, wave, *f.queue);
        compute(wave.refs(), {.first = std::exchange(first, false), .last = todo.empty(), .refs_on_host = true});
        wave.release(*f.queue);
      } while (!todo.empty());
      guard.served();
    }
  }

  void weigh_shared([[maybe_unused]] const Call<memory>& call, [[maybe_unused]] Memory& m) const {
    if constexpr (Parts::shared_experts) shared().weigh(executor(), m.shared, call.x, m.routed);
  }
  void add_shared([[maybe_unused]] const Call<memory>& call, [[maybe_unused]] Memory& m,
                  [[maybe_unused]] View<float, memory> y) const {
    if constexpr (Parts::shared_experts) {
      const auto& local = local_executor(executor());
      const auto& experts = shared().storage;
      group_rows(local, m.shared);
      local.experts(m.shared, call.x, experts.table(), typename std::remove_cvref_t<decltype(experts)>::formats{},
                    experts.shape(), shared().form, {.first = true, .last = true, .refs_on_host = false});
      local.combine(m.shared, call.x, shared().form, y, true);
    }
    if constexpr (AddedTerm<Shared, Executor>) shared().add(executor(), m.routed, call.x, y);
  }

  // ---- pieces of a call

  /// Calls f for pieces of the call that fit the workspace, at least once: a storage may count its layers' turns, and a
  /// rank without rows takes part in those of others.
  template <class Function>
  void for_each_chunk(const Call<memory>& call, Workspace<memory>& ws, const Function& f) const {
    const int tokens = call.x.rows, slots = parts_.slots_of(call);
    const int rows = detail::rows_that_fit(ws.size(), most_rows(executor(), tokens),
                                           [&](int n) { return parts_.workspace(n, slots); });
    if (rows < tokens && parts_.looks_at_batch(call))
      raise(Error("moe::MoELayer::forward", "workspace of a router that looks at the whole batch",
                  concat(tokens, " rows"), std::to_string(rows)));
    int first = 0;
    bool peers_go_on = false;
    do {
      const int n = rows < tokens - first ? rows : tokens - first;
      peers_go_on = f(Chunk{call.slice(first, n), first, first + n < tokens});
      first += n;
    } while (first < tokens || peers_go_on);
  }
  Memory fresh_memory(const Chunk& chunk, Workspace<memory>& ws) const {
    if constexpr (MOE_CHECKED != 0) ws.poison();
    Memory m = parts_.memory_in_use(chunk.call, ws);
    m.routed.first_token = chunk.first;
    m.routed.more = chunk.more;
    return m;
  }

  Parts parts_;
};

}  // namespace moe

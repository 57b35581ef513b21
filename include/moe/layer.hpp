// MoELayer: the walk of one call (gate, route, group, acquire, experts, combine).
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include <moe/concepts.hpp>
#include <moe/envelope.hpp>
#include <moe/explain.hpp>
#include <moe/gate.hpp>
#include <moe/shared.hpp>

namespace moe {

namespace detail {

/// Row functors: named types, because device executors run them inside kernels.
template <class R, class M>
struct SelectRow {
  R router;
  RoutingTable<M> table;
  RouteContext<M> context;
  View<const float, M> logits;
  MOE_HD void operator()(int t) const noexcept {
    table.count[t] = select(router, context.at(t, logits.row(t)), table.slots.row(t));
  }
};
template <class M>
struct CopyRow {
  RoutingTable<M> from, to;
  MOE_HD void operator()(int t) const noexcept {
    const int most = to.slots.cols;
    const int n = from.size(t) < 0 ? 0 : (from.size(t) < most ? from.size(t) : most);
    for (int k = 0; k < n; ++k) to.slots.row(t)[k] = from.slots.row(t)[k];
    to.count[t] = n;
  }
};
template <class R, class M>
struct AdmitColumn {
  R router;
  RoutingTable<M> table;
  Dispatch<M> dispatch;
  RouteContext<M> context;
  MOE_HD void operator()(int e) const noexcept {
    const View<Slot, M>& slots = table.slots;
    admit(router, Column{.expert = e,
                         .entries = dispatch.entries(e),
                         .slots = {slots.data, slots.rows * slots.cols},
                         .slots_per_row = slots.cols,
                         .tokens = slots.rows,
                         .seed = context.seed,
                         .positions = context.positions});
  }
};
template <class R, class M>
struct FinishRow {
  R router;
  RoutingTable<M> table;
  MOE_HD void operator()(int t) const noexcept { finish(router, table.slots.row(t).first(table.count[t])); }
};

/// Divides each expert's output for row t by its root mean square.
template <class M>
struct NormaliseExperts {
  Frame<M> frame;
  float epsilon;
  MOE_HD void operator()(int t) const noexcept {
    for (int k = 0; k < frame.table.size(t); ++k) {
      if (!frame.ids.network(frame.table.slots.row(t)[k].expert)) continue;
      const Row<float> row = frame.partial.row(t * frame.dims.slots + k);
      const float inverse = 1 / root_mean_square(row, epsilon);
      for (float& x : row) x *= inverse;
    }
  }
};

template <class S>
struct pin_of {
  using type = char;
};
template <LeasingStorage S>
struct pin_of<S> {
  using type = typename S::pin;
};

}  // namespace detail

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
  static constexpr bool leasing = !ResidentStorage<Storage>;
  static constexpr bool shared_experts = SharedExpertsPolicy<Shared, Executor>;
  static constexpr bool added_term = AddedTerm<Shared, Executor>;

 public:
  using memory = detail::memory_of<Executor>;

  /// Throws Error if gate, router, storage and form do not fit each other.
  MoELayer(Gate gate, Router router, Storage storage, Executor executor, Form form = {}, Shared shared = {})
      : gate_(std::move(gate)),
        router_(std::move(router)),
        storage_(std::move(storage)),
        executor_(std::move(executor)),
        form_(std::move(form)),
        shared_(std::move(shared)) {
    if constexpr (sound) check_parts();
  }

  /// What a workspace needs for calls that compute `max_tokens` rows at once. Longer calls are cut into chunks that
  /// fit, with the same results.
  WorkspaceSize workspace(int max_tokens) const {
    if constexpr (sound)
      return measure(max_tokens, router_.max_slots());
    else
      return {};
  }

  /// Computes call.y from call.x. Throws Error for arguments that do not fit, and what the storage throws (IoError)
  /// when experts cannot be read; then y is unspecified and the layer stays usable.
  template <class Observer = NoObserver>
  void forward(const Call<memory>& call, Workspace<memory>& ws, Observer&& observer = {}) const {
    if constexpr (sound) {
      check_call(call);
      require_output(call);
      for_each_chunk(call, ws, [&](const Call<memory>& c, int first) { forward_chunk(c, first, ws, observer); });
    }
  }
  void forward(View<const float, memory> x, View<float, memory> y, Workspace<memory>& ws) const {
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
    if constexpr (sound && requires(std::span<const ExpertNeed> n) { storage_.expect(n); }) {
      check_call(call);
      int missing = 0;
      for_each_chunk(call, ws, [&](const Call<memory>& c, int first) {
        Frame<memory> f = routed_frame(c, first, ws, NoObserver{});
        missing += storage_.expect(executor_.needs(f));
      });
      return missing;
    }
    return 0;
  }

  /// Columns of x and y; the experts' own width differs under an envelope.
  int hidden() const noexcept {
    if constexpr (enveloped)
      return form_.envelope.outer_width();
    else
      return storage_.shape().hidden;
  }
  const Router& router() const noexcept { return router_; }
  const Storage& storage() const noexcept { return storage_; }
  const Executor& executor() const noexcept { return executor_; }
  const Gate& gate() const noexcept { return gate_; }

 private:
  using PinType = typename detail::pin_of<Storage>::type;
  static constexpr bool enveloped = !std::is_same_v<decltype(Form::envelope), NoEnvelope>;

  // ---- sizes and checks

  Dims dims(int tokens, int slots) const {
    const ExpertShape s = storage_.shape();
    return {tokens, s.hidden, s.ffn, router_.num_logits(), ids_of(router_).networks, slots};
  }

  void check_parts() const {
    constexpr const char* where = "moe::MoELayer";
    require_equal(where, "experts in the storage", ids_of(router_).networks, storage_.num_experts());
    if constexpr (!std::is_same_v<Gate, NoGate>)
      require_equal(where, "rows of the gate", router_.num_logits(), gate_.outputs());
    require_equal(where, "gated experts (1 yes, 0 no)", int{Form::activation::gated}, int{storage_.shape().gated});
    check_options(router_);
    if (router_.max_slots() < 1)
      raise(Error(where, "slots per token", "at least 1", std::to_string(router_.max_slots())));
    if constexpr (enveloped)
      require_equal(where, "width of the envelope", storage_.shape().hidden, form_.envelope.width());
    if constexpr (shared_experts) {
      require_equal(where, "hidden width of the shared experts", hidden(), shared_.storage.shape().hidden);
      require_equal(where, "gated shared experts (1 yes, 0 no)", int{decltype(shared_.form)::activation::gated},
                    int{shared_.storage.shape().gated});
    }
  }

  void check_call(const Call<memory>& c) const {
    constexpr const char* where = "moe::MoELayer::forward";
    const int tokens = c.x.rows;
    if (tokens < 0) raise(Error(where, "rows of x", "0 or more", std::to_string(tokens)));
    require_equal(where, "columns of x", hidden(), c.x.cols);
    if (tokens > 0 && c.x.data == nullptr) raise(Error(where, "data of x", "a pointer", "null"));
    if (c.max_slots < 0 || c.max_slots > router_.max_slots())
      raise(Error(where, "max_slots", concat("0 to ", router_.max_slots()), std::to_string(c.max_slots)));
    if (c.table != nullptr) {
      require_equal(where, "rows of the table", tokens, c.table->slots.rows);
      if (c.table->slots.cols < 1)
        raise(Error(where, "columns of the table", "at least 1", std::to_string(c.table->slots.cols)));
      return;
    }
    check_routing(c);
  }
  void check_routing(const Call<memory>& c) const {
    constexpr const char* where = "moe::MoELayer::forward";
    if (c.logits.data != nullptr || c.logits.cols != 0) {
      require_equal(where, "rows of logits", c.x.rows, c.logits.rows);
      require_equal(where, "columns of logits", router_.num_logits(), c.logits.cols);
    } else if constexpr (std::is_same_v<Gate, NoGate>) {
      if (router_.num_logits() != 0)
        raise(Error(where, "a layer without a gate", "logits or a table in the call", "neither"));
    } else {
      const View<const float, memory>& in = router_input(c);
      require_equal(where, "rows of x_router", c.x.rows, in.rows);
      require_equal(where, "columns of the gate's input", gate_.inputs(), in.cols);
    }
    check_state(c, c.router_state_in, "rows of router_state_in", "columns of router_state_in");
    check_state(c, c.router_state_out, "rows of router_state_out", "columns of router_state_out");
    require_context(Uses::tokens, c.context.tokens, "context.tokens");
    require_context(Uses::rules, c.context.rules, "context.rules");
    require_context(Uses::positions, c.context.positions, "context.positions");
  }
  template <class V>
  void check_state(const Call<memory>& c, const V& state, const char* rows, const char* columns) const {
    if (state.data == nullptr && state.cols == 0) return;
    require_equal("moe::MoELayer::forward", rows, c.x.rows, state.rows);
    require_equal("moe::MoELayer::forward", columns, state_columns(gate_), state.cols);
  }
  void require_context(Uses use, const int* given, const char* name) const {
    if (given == nullptr && contains(required_uses(router_), use))
      raise(Error("moe::MoELayer::forward", "what this router needs", concat("Call::", name), "null"));
  }
  void require_output(const Call<memory>& c) const {
    require_equal("moe::MoELayer::forward", "rows of y", c.x.rows, c.y.rows);
    require_equal("moe::MoELayer::forward", "columns of y", hidden(), c.y.cols);
    if (c.y.rows > 0 && c.y.data == nullptr) raise(Error("moe::MoELayer::forward", "data of y", "a pointer", "null"));
  }
  static View<const float, memory> router_input(const Call<memory>& c) {
    return c.x_router.data != nullptr || c.x_router.cols != 0 ? c.x_router : c.x;
  }
  int slots_of(const Call<memory>& c) const {
    if (c.table != nullptr) return c.table->slots.cols;
    return c.max_slots != 0 ? c.max_slots : router_.max_slots();
  }

  // ---- workspace: one text measures and carves

  struct Carved {
    Frame<memory> frame;
    Frame<memory> shared;
    View<float, memory> inner_x, inner_y;  // [T, width of the experts], only under an envelope
    std::uint32_t* resident = nullptr;
    ExpertRef* refs = nullptr;
    PinType* pins = nullptr;
  };
  Carved carve(Arena& main, Arena& staging, int tokens, int slots) const {
    Carved c;
    const Dims d = dims(tokens, slots);
    c.frame = executor_.carve(main, staging, d, ids_of(router_));
    if (const int columns = scratch_columns(gate_); columns > 0)
      c.frame.gate_scratch = main.template matrix<float, memory>(tokens, columns);
    if constexpr (enveloped) {
      c.inner_x = main.template matrix<float, memory>(tokens, d.hidden);
      c.inner_y = main.template matrix<float, memory>(tokens, d.hidden);
    }
    if constexpr (shared_experts) {
      const ExpertShape s = shared_.storage.shape();
      const int n = shared_.storage.num_experts();
      c.shared = executor_.carve(main, staging, {tokens, s.hidden, s.ffn, mixing_logits(shared_), n, n}, IdMap{n, 0});
    }
    const auto experts = static_cast<std::size_t>(d.experts);
    if constexpr (contains(uses_of<Router>(), Uses::residency))
      c.resident = staging.template take<std::uint32_t>(pieces(experts, std::size_t{32}));
    if constexpr (leasing) {
      c.refs = staging.template take<ExpertRef>(experts);
      c.pins = staging.template take<PinType>(experts);
    }
    return c;
  }
  WorkspaceSize measure(int tokens, int slots) const {
    Arena main, staging;
    carve(main, staging, tokens, slots);
    return {main.used(), staging.used()};
  }
  bool fits(const Workspace<memory>& ws, int tokens, int slots) const {
    const WorkspaceSize need = measure(tokens, slots), have = ws.size();
    return need.bytes <= have.bytes && need.staging_bytes <= have.staging_bytes;
  }
  /// The most rows, up to `tokens`, that fit the workspace.
  int chunk_rows(const Workspace<memory>& ws, int tokens, int slots) const {
    if (fits(ws, tokens, slots)) return tokens;
    int low = 0, high = tokens;
    while (high - low > 1) {
      const int middle = low + (high - low) / 2;
      (fits(ws, middle, slots) ? low : high) = middle;
    }
    if (low == 0) {
      const WorkspaceSize need = measure(1, slots), have = ws.size();
      const auto text = [](WorkspaceSize s) { return concat(s.bytes, " + ", s.staging_bytes, " bytes"); };
      raise(Error("moe::MoELayer::forward", "workspace for one row", text(need), text(have)));
    }
    return low;
  }

  template <class Function>
  void for_each_chunk(const Call<memory>& call, Workspace<memory>& ws, Function&& f) const {
    const int tokens = call.x.rows, rows = chunk_rows(ws, tokens, slots_of(call));
    if constexpr (has_column_rule<Router>() || BatchRouter<Router>)
      if (call.table == nullptr && rows < tokens && (BatchRouter<Router> || has_columns(router_)))
        raise(Error("moe::MoELayer::forward", "workspace of a router that looks at the whole batch",
                    concat(tokens, " rows"), std::to_string(rows)));
    int first = 0;
    do {  // at least once: a storage may count its layers' turns
      const int n = rows < tokens - first ? rows : tokens - first;
      f(slice(call, first, n), first);
      first += n;
    } while (first < tokens);
  }
  Call<memory> slice(const Call<memory>& call, int first, int n) const {
    Call<memory> c = call;
    c.x = call.x.slice(first, n);
    if (call.y.data != nullptr) c.y = call.y.slice(first, n);
    if (call.x_router.data != nullptr) c.x_router = call.x_router.slice(first, n);
    if (call.logits.data != nullptr) c.logits = call.logits.slice(first, n);
    if (call.router_state_in.data != nullptr) c.router_state_in = call.router_state_in.slice(first, n);
    if (call.router_state_out.data != nullptr) c.router_state_out = call.router_state_out.slice(first, n);
    c.context = call.context.slice(first);
    return c;  // the table is sliced where it is copied
  }

  // ---- the walk

  template <class Observer>
  void forward_chunk(const Call<memory>& call, int first, Workspace<memory>& ws, const Observer& observer) const {
    Carved carved;
    Frame<memory> f = routed_frame(call, first, ws, observer, &carved);
    if constexpr (shared_experts) shared_.weigh(executor_, carved.shared, call.x, f);
    if (const float scale = output_scale(form_); scale != 1)
      detail::scale_rows(executor_, f, detail::SameWeight{scale});
    View<const float, memory> x = call.x;
    View<float, memory> y = call.y;
    if constexpr (enveloped) {
      form_.envelope.enter(executor_, f, call.x, carved.inner_x);
      x = carved.inner_x;
      y = carved.inner_y;
    }
    compute(f, x, carved, observer);
    if (const float epsilon = expert_norm_eps(form_); epsilon > 0)
      executor_.rows(f, f.dims.tokens, detail::NormaliseExperts<memory>{f, epsilon});
    executor_.combine(f, x, form_, y, false);
    if constexpr (enveloped) form_.envelope.leave(executor_, f, carved.inner_y, call.y);
    add_shared(carved.shared, call);
    if constexpr (added_term) shared_.add(executor_, f, call.x, call.y);
    if constexpr (!std::is_same_v<OutputStepOf<Form>, PlainOutput>) output_step(form_).finish(executor_, f, call.y);
    if constexpr (requires { observer.done(f); }) observer.done(f);
  }

  template <class Observer>
  Frame<memory> routed_frame(const Call<memory>& call, int first, Workspace<memory>& ws, const Observer& observer,
                             Carved* out = nullptr) const {
    if constexpr (MOE_CHECKED != 0) ws.poison();
    Arena main = ws.main(), staging = ws.staging();
    const Carved carved = carve(main, staging, call.x.rows, slots_of(call));
    Frame<memory> f = carved.frame;
    f.queue = &ws.queue();
    f.first_token = first;
    f.router_state_in = call.router_state_in;
    f.router_state_out = call.router_state_out;
    if (call.table != nullptr) {
      executor_.rows(f, f.dims.tokens, detail::CopyRow<memory>{call.table->slice(first, f.dims.tokens), f.table});
    } else {
      route(f, call, carved.resident, observer);
    }
    executor_.group(f);
    if constexpr (has_column_rule<Router>())
      if (call.table == nullptr && has_columns(router_)) admit_columns(f, call.context);
    if constexpr (requires { observer.routed(f); }) observer.routed(f);
    if (out != nullptr) {
      *out = carved;
      out->shared.queue = f.queue;
    }
    return f;
  }

  template <class Observer>
  void route(Frame<memory>& f, const Call<memory>& call, std::uint32_t* resident, const Observer& observer) const {
    View<const float, memory> logits = call.logits;
    if (call.logits.data == nullptr && call.logits.cols == 0) {
      gate_.logits(executor_, f, router_input(call), f.logits);
      logits = f.logits;
    }
    f.routing_logits = logits;
    if constexpr (requires { observer.logits(logits); }) observer.logits(logits);
    RouteContext<memory> context = call.context;
    if constexpr (contains(uses_of<Router>(), Uses::residency)) {
      storage_.residency(resident);
      context.resident = resident;
    }
    if constexpr (BatchRouter<Router>)
      router_.route(context, logits, f.table);
    else
      executor_.rows(f, f.dims.tokens, detail::SelectRow<Router, memory>{router_, f.table, context, logits});
  }

  void admit_columns(Frame<memory>& f, const RouteContext<memory>& context) const {
    executor_.rows(f, f.dims.experts, detail::AdmitColumn<Router, memory>{router_, f.table, f.dispatch, context});
    executor_.rows(f, f.dims.tokens, detail::FinishRow<Router, memory>{router_, f.table});
    executor_.group(f);
  }

  template <class Observer>
  void compute(Frame<memory>& f, View<const float, memory> x, Carved& carved, const Observer& observer) const {
    using Formats = typename Storage::formats;
    const ExpertShape shape = storage_.shape();
    if constexpr (!leasing) {
      if constexpr (requires { observer.wave(storage_.table()); }) observer.wave(storage_.table());
      executor_.experts(f, x, storage_.table(), Formats{}, shape, form_, Part{true, true, false});
    } else {
      std::span<ExpertNeed> todo = executor_.needs(f);
      Wave<PinType> wave{carved.refs, carved.pins};
      detail::AbandonGuard guard{storage_, todo, wave};
      bool first = true;
      do {  // the wave is given back before the next acquire may wait: nobody holds while waiting
        todo = storage_.acquire(todo, wave, *f.queue);
        if constexpr (requires { observer.wave(wave.refs()); }) observer.wave(wave.refs());
        executor_.experts(f, x, wave.refs(), Formats{}, shape, form_, Part{first, todo.empty(), true});
        wave.release(*f.queue);
        first = false;
      } while (!todo.empty());
      guard.served();
    }
  }

  /// Shared experts come last, so that the order of sums is fixed.
  void add_shared(Frame<memory>& f, const Call<memory>& call) const {
    if constexpr (shared_experts) {
      using Formats = typename decltype(shared_.storage)::formats;
      executor_.group(f);
      executor_.experts(f, call.x, shared_.storage.table(), Formats{}, shared_.storage.shape(), shared_.form,
                        Part{true, true, false});
      executor_.combine(f, call.x, shared_.form, call.y, true);
    }
  }

  Gate gate_;
  Router router_;
  Storage storage_;
  Executor executor_;
  Form form_;
  Shared shared_;
};

}  // namespace moe

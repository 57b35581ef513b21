// A call that is cut into chunks of any size is the whole call: every field of Call and of its context, bit for bit.
#include <moe/layer.hpp>
#include <set>
#include <string>
#include <vector>

#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

constexpr int tokens = 7, hidden = 12, experts = 5, slots = 3, gate_inputs = 9;
const moe::Cpu cpu{.threads = 2};

/// Choices and weights are a function of everything that a row may know.
struct SeesEverything {
  static constexpr moe::Uses uses = moe::Uses::residency;
  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return slots; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    float weight = row.decode ? 1.0f : 2.0f;
    unsigned salt = 0;
    for (const int fact : {row.row, row.position, row.token, row.rule, row.modality})
      weight += moe::counter_random(row.seed, fact, ++salt);
    int n = 0;
    for (int e = 0; e < experts && n < out.size(); ++e)
      if (row.may_use(e)) out[n++] = {e, weight + row.logits[e] + (row.is_resident(e) ? 0.25f : 0.0f)};
    return n;
  }
};

/// A call with every field set, and what it points to.
struct FullCall {
  FullCall() : random(4711), problem({.tokens = tokens, .hidden = hidden, .experts = experts}, random) {
    for (int t = 0; t < tokens; ++t) {
      ids.push_back(3 * t + 1);
      rules.push_back(t % 3);
      positions.push_back(40 - 2 * t);
      modalities.push_back(t % 2);
      picks.push_back((t + 1) % (slots + 1));
    }
    x_router = random.reals(tokens * gate_inputs);
    state_in = random.reals(tokens * experts);
    gate = random.reals(experts * gate_inputs);
    residual = random.reals(experts * experts);
    logits = random.reals(tokens * experts);
    call.x_router = view(std::as_const(x_router), gate_inputs);
    call.router_state_in = view(std::as_const(state_in), experts);
    call.context.tokens = ids.data();
    call.context.rules = rules.data();
    call.context.positions = positions.data();
    call.context.modalities = modalities.data();
    call.context.picks = picks.data();
    call.context.seed = 99;
    call.context.decode = true;
    call.context.allowed = &allowed;
    call.context.first_row = 20;
    call.max_slots = 2;
  }
  FullCall(const FullCall&) = delete;
  FullCall& operator=(const FullCall&) = delete;

  auto layer() const {
    const moe::View<const float> g{gate.data(), experts, gate_inputs}, r{residual.data(), experts, experts};
    return moe::MoELayer(moe::ResidualLinear(g, r), SeesEverything{}, PartlyResident(problem.storage(), 0b01101), cpu);
  }

  oracle::Random random;
  Problem<float> problem;
  std::vector<int> ids, rules, positions, modalities, picks;
  std::vector<float> x_router, state_in, gate, residual, logits;
  std::uint32_t allowed = 0b11011;
  moe::Call<> call{};
};

/// Everything that a call leaves behind.
struct Outcome {
  std::vector<std::uint32_t> y, state_out, logits;
  std::vector<std::vector<int>> experts;  // of each row
};
struct Watch {
  Outcome* seen;
  void logits(moe::View<const float> l) const {
    for (int t = 0; t < l.rows; ++t)
      for (const std::uint32_t number : bits(l.row(t))) seen->logits.push_back(number);
  }
  void routed(const moe::Frame<>& f) const {
    CHECK(f.first_token == static_cast<int>(seen->experts.size()));
    for (int t = 0; t < f.dims.tokens; ++t) {
      std::vector<int>& row = seen->experts.emplace_back();
      for (int k = 0; k < f.table.size(t); ++k) row.push_back(f.table.slots.row(t)[k].expert);
    }
  }
};

Outcome outcome(const FullCall& c, moe::Call<> call, int rows_at_once) {
  Outcome seen;
  std::vector<float> state_out(tokens * experts, not_a_number);
  call.router_state_out = view(state_out, experts);
  seen.y = bits(forward(c.layer(), c.problem, call, rows_at_once, Watch{&seen}));
  seen.state_out = bits(state_out);
  return seen;
}
void chunks_are_the_whole(const FullCall& c, const moe::Call<>& call) {
  const Outcome whole = outcome(c, call, tokens);
  for (int rows = 1; rows < tokens; ++rows) {
    CAPTURE(rows);
    const Outcome cut = outcome(c, call, rows);
    CHECK(cut.y == whole.y);
    CHECK(cut.state_out == whole.state_out);
    CHECK(cut.logits == whole.logits);
    CHECK(cut.experts == whole.experts);
  }
}

}  // namespace

TEST_CASE("chunks of a call with every field set give the bits of the whole") {
  const FullCall c;
  chunks_are_the_whole(c, c.call);
}
TEST_CASE("chunks of a call that brings logits give the bits of the whole") {
  FullCall c;
  c.call.logits = view(std::as_const(c.logits), experts);
  chunks_are_the_whole(c, c.call);
}
TEST_CASE("chunks of a call that brings a table give the bits of the whole") {
  FullCall c;
  Table table = random_table(c.random, tokens, slots, experts);
  for (int t = 0; t < tokens; ++t) table.count[static_cast<std::size_t>(t)] = t % (slots + 1);
  c.call.table = table.get();
  chunks_are_the_whole(c, c.call);
  c.call.table.count = nullptr;
  chunks_are_the_whole(c, c.call);
}

// ---- the law above would hold for a layer that ignored a field: none is ignored

TEST_CASE("every field of a call reaches its row") {
  FullCall c;
  const Outcome before = outcome(c, c.call, 3);
  const std::size_t last = tokens - 1;
  const auto changes = [&](const char* what, const moe::Call<>& call) {
    CAPTURE(what);
    CHECK(outcome(c, call, 3).y != before.y);
  };
  for (std::vector<int>* field : {&c.ids, &c.rules, &c.positions, &c.modalities, &c.picks}) {
    (*field)[last] -= 2;
    changes("a number of the last row", c.call);
    (*field)[last] += 2;
  }
  for (std::vector<float>* field : {&c.x_router, &c.state_in}) {
    field->back() += 1;
    changes("a float of the last row", c.call);
    field->back() -= 1;
  }
  moe::Call<> call = c.call;
  call.context.seed += 1;
  changes("seed", call);
  call = c.call;
  call.context.decode = false;
  changes("decode", call);
  call = c.call;
  call.context.first_row += 1;
  changes("first_row", call);
  call = c.call;
  call.max_slots = 1;
  changes("max_slots", call);
  c.allowed = 0b11110;
  changes("allowed", c.call);
}

// ---- picks of each row

TEST_CASE("router states of another height or width are refused") {
  const FullCall c;
  std::vector<float> state((tokens + 1) * experts);
  for (const moe::View<float> bad :
       {moe::View<float>(state.data(), tokens + 1, experts), moe::View<float>(state.data(), tokens, experts - 1)}) {
    moe::Call<> in = c.call, out = c.call;
    in.router_state_in = bad;
    out.router_state_out = bad;
    const auto refusal = [&](const moe::Call<>& call) {
      Outcome seen;
      return message_of([&] { forward(c.layer(), c.problem, call, tokens, Watch{&seen}); });
    };
    CHECK(refusal(in).find("of router_state_in: expected") != std::string::npos);
    CHECK(refusal(out).find("of router_state_out: expected") != std::string::npos);
  }
}
TEST_CASE("a row gets as many choices as its picks allow, the first ones of what it would get") {
  FullCall c;
  c.call.max_slots = 0;
  moe::Call<> free = c.call;
  free.context.picks = nullptr;
  const Outcome all = outcome(c, free, tokens), some = outcome(c, c.call, tokens);
  for (std::size_t t = 0; t < tokens; ++t) {
    std::vector<int> expected = all.experts[t];
    expected.resize(std::min(expected.size(), static_cast<std::size_t>(c.picks[t])));
    CHECK(some.experts[t] == expected);
  }
}
TEST_CASE("picks of each row are refused by a router that looks at the whole batch") {
  FullCall c;
  const moe::View<const float> g{c.gate.data(), experts, gate_inputs};
  const moe::MoELayer layer(moe::Linear{g}, RoundRobin{experts}, c.problem.storage(), cpu);
  moe::Call<> call;
  call.x_router = c.call.x_router;
  call.context.picks = c.picks.data();
  CHECK(message_of([&] { forward(layer, c.problem, call); }) ==
        "moe::MoELayer::forward: context.picks: expected null, for a router that looks at the whole batch, found picks "
        "of each row");
}

// ---- calls without tokens

TEST_CASE("a call without tokens goes the whole way once: the storage is asked, observers are told") {
  LeaseLog log;
  oracle::Random random(4712);
  const Problem<float> p({.tokens = 0, .hidden = hidden, .experts = experts}, random);
  const moe::MoELayer layer(moe::Linear(p.gate_view()), moe::TopK{.experts = experts, .k = 2},
                            OneByOne(p.storage(), &log), cpu);
  struct Count {
    int *routed_calls, *done_calls;
    void routed(const moe::Frame<>& f) const { *routed_calls += f.dims.tokens == 0 ? 1 : 100; }
    void done(const moe::Frame<>&) const { ++*done_calls; }
  };
  int routed = 0, done = 0;
  forward(layer, p, {}, 4, Count{&routed, &done});
  CHECK(log.acquires == 1);
  CHECK(log.lent == 0);
  CHECK(routed == 1);
  CHECK(done == 1);
}
TEST_CASE("chunks of a guess name the experts of the whole") {
  FullCall c;
  LeaseLog log;
  const moe::View<const float> g{c.gate.data(), experts, gate_inputs};
  const moe::MoELayer layer(moe::Linear{g}, moe::TopK{.experts = experts, .k = 2}, OneByOne(c.problem.storage(), &log),
                            cpu);
  moe::Call<> call;
  call.x = c.problem.x_view();
  call.x_router = c.call.x_router;
  const auto guessed = [&](int rows) {
    log.expected.clear();
    moe::Workspace ws(layer.workspace(rows));
    const int missing = layer.prefetch(call, ws);
    CHECK(missing == static_cast<int>(log.expected.size()));
    return std::set<int>(log.expected.begin(), log.expected.end());
  };
  const std::set<int> whole = guessed(tokens);
  for (int rows = 1; rows < tokens; ++rows) CHECK(guessed(rows) == whole);
}

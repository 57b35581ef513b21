// The layer's inputs, corners and messages.
#include <moe/layer.hpp>
#include <vector>

#include "layer_support.hpp"

using moe::Call;
using moe::Cpu;
using moe::MoELayer;
using moe::TopK;

namespace {

const Cpu cpu{.threads = 2};

/// Agreement of a whole layer, gate included, with the oracle.
int wrong_rows_of(const Setup& setup) {
  oracle::Random random(static_cast<std::uint64_t>(setup.experts * 10 + setup.k));
  const Problem<float> p(setup, random);
  return wrong_rows(p, gate_logits(p), forward(make_layer(p, cpu), p));
}

struct Small {
  oracle::Random random{101};
  Problem<float> p{{}, random};
  MoELayer<TopK, moe::Resident<moe::PanelLayout, moe::formats<float>>, Cpu> layer = make_layer(p, cpu);
  std::vector<float> y = std::vector<float>(p.x.size());
  Call<> call;
  Small() {
    call.x = p.x_view();
    call.y = view(y, p.setup.hidden);
  }
  std::string message(std::size_t bytes = 1u << 20) {
    moe::Workspace ws({.bytes = bytes, .staging_bytes = 4096});
    return message_of([&] { layer.forward(call, ws); });
  }
};

/// Sends every token to the expert of its id.
struct ByToken {
  static constexpr moe::Uses uses = moe::Uses::tokens;
  int num_logits() const noexcept { return 5; }
  int num_experts() const noexcept { return 5; }
  int max_slots() const noexcept { return 1; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    out[0] = {row.token % 5, 1};
    return 1;
  }
};

}  // namespace

// ---- corners

TEST_CASE("a layer agrees with the oracle") { CHECK(wrong_rows_of({.tokens = 9}) == 0); }
TEST_CASE("one token agrees with the oracle") { CHECK(wrong_rows_of({.tokens = 1}) == 0); }
TEST_CASE("k = E agrees with the oracle") { CHECK(wrong_rows_of({.experts = 5, .k = 5}) == 0); }
TEST_CASE("one expert agrees with the oracle") { CHECK(wrong_rows_of({.experts = 1, .k = 1}) == 0); }
TEST_CASE("300 experts agree with the oracle") {
  CHECK(wrong_rows_of({.tokens = 5, .hidden = 16, .ffn = 8, .experts = 300, .k = 6}) == 0);
}
TEST_CASE("widths of one agree with the oracle") { CHECK(wrong_rows_of({.hidden = 1, .ffn = 1}) == 0); }
TEST_CASE("prime widths agree with the oracle") { CHECK(wrong_rows_of({.hidden = 127, .ffn = 61}) == 0); }

TEST_CASE("no tokens need no data") {
  Small s;
  s.call.x = {nullptr, 0, s.p.setup.hidden};
  s.call.y = {nullptr, 0, s.p.setup.hidden};
  CHECK(s.message().empty());
}
TEST_CASE("no tokens need no workspace worth the name") {
  Small s;
  s.call.x = {nullptr, 0, s.p.setup.hidden};
  s.call.y = {nullptr, 0, s.p.setup.hidden};
  const moe::WorkspaceSize size = s.layer.workspace(0);
  moe::Workspace ws(size);
  CHECK(message_of([&] { s.layer.forward(s.call, ws); }).empty());
}
TEST_CASE("tokens without any choice give rows of zero") {
  Small s;
  Table table(3, 2);
  table.count = {0, 0, 0};
  const auto given = table.get();
  CHECK(forward(s.layer, s.p, {.table = given}) == std::vector<float>(s.p.x.size(), 0.0f));
}
TEST_CASE("a mask that allows nothing gives rows of zero") {
  Small s;
  const std::uint32_t mask = 0;
  Call<> call;
  call.context.allowed = &mask;
  CHECK(forward(s.layer, s.p, call) == std::vector<float>(s.p.x.size(), 0.0f));
}
TEST_CASE("the sugar for x and y is the same call") {
  Small s;
  moe::Workspace ws(s.layer.workspace(3));
  s.layer.forward(s.p.x_view(), view(s.y, s.p.setup.hidden), ws);
  CHECK(bits(s.y) == bits(forward(s.layer, s.p)));
}
TEST_CASE("a workspace made for the largest of two layers serves both") {
  Small s;
  oracle::Random random(7);
  const Problem<float> wide({.hidden = 90, .experts = 9, .k = 4}, random);
  const auto other = make_layer(wide, cpu);
  moe::Workspace ws(moe::max(s.layer.workspace(3), other.workspace(3)));
  s.layer.forward(s.call, ws);
  std::vector<float> y(wide.x.size());
  other.forward(wide.x_view(), view(y, 90), ws);
  CHECK(bits(s.y) == bits(forward(s.layer, s.p)));
  CHECK(bits(y) == bits(forward(other, wide)));
}

// ---- inputs of a call

TEST_CASE("given logits replace the gate") {
  Small s;
  const std::vector<float> logits = s.random.reals(15, 4);
  CHECK(wrong_rows(s.p, logits, forward(s.layer, s.p, {.logits = view(logits, 5)})) == 0);
}
TEST_CASE("NaN and infinite logits agree with the oracle") {
  Small s;
  const std::vector<float> logits{not_a_number,
                                  1,
                                  infinity,
                                  0,
                                  2,
                                  -infinity,
                                  not_a_number,
                                  -1,
                                  -infinity,
                                  -2,
                                  not_a_number,
                                  not_a_number,
                                  not_a_number,
                                  not_a_number,
                                  not_a_number};
  CHECK(wrong_rows(s.p, logits, forward(s.layer, s.p, {.logits = view(logits, 5)})) == 0);
}
TEST_CASE("a given table replaces gate and router") {
  Small s;
  Table table = random_table(s.random, 3, 4, 5);
  const auto given = table.get();
  const std::vector<float> y = forward(s.layer, s.p, {.table = given}, 8);
  for (int t = 0; t < 3; ++t)
    CHECK(first_outside(view(y, 37).row(t), run_token(s.p.layer, s.p.token(t), table.picks(t))) == -1);
}
TEST_CASE("ids of a given table that are no experts add nothing") {
  Small s;
  Table table = random_table(s.random, 3, 2, 5);
  table.at(0, 0).expert = -7;
  table.at(1, 1).expert = 5;
  table.at(2, 0).expert = std::numeric_limits<int>::max();
  const auto given = table.get();
  const std::vector<float> y = forward(s.layer, s.p, {.table = given});
  for (int t = 0; t < 3; ++t)
    CHECK(first_outside(view(y, 37).row(t), run_token(s.p.layer, s.p.token(t), table.picks(t))) == -1);
}
TEST_CASE("a given table without counts is full") {
  Small s;
  Table table = random_table(s.random, 3, 2, 5);
  const auto counted = table.get();
  auto uncounted = counted;
  uncounted.count = nullptr;
  CHECK(bits(forward(s.layer, s.p, {.table = uncounted})) == bits(forward(s.layer, s.p, {.table = counted})));
}
TEST_CASE("counts of a given table are cut to what a row holds") {
  Small s;
  Table table = random_table(s.random, 3, 2, 5), full = table;
  table.count = {100, -3, 2};
  full.count = {2, 0, 2};
  const auto given = table.get(), meant = full.get();
  CHECK(bits(forward(s.layer, s.p, {.table = given})) == bits(forward(s.layer, s.p, {.table = meant})));
}
TEST_CASE("a given table is not changed") {
  Small s;
  Table table = random_table(s.random, 3, 2, 5);
  const std::vector<oracle::Pick> before = table.picks(1);
  const auto given = table.get();
  forward(s.layer, s.p, {.table = given});
  CHECK(table.picks(1)[0].expert == before[0].expert);
  CHECK(table.count == std::vector<int>{2, 2, 2});
}
TEST_CASE("x_router feeds the gate and not the experts") {
  Small s;
  const std::vector<float> other = s.random.reals(3 * 37);
  std::vector<float> logits(15);
  moe::Frame<> f;
  cpu.linear(f, view(other, 37), s.p.gate_view(), nullptr, view(logits, 5));
  CHECK(wrong_rows(s.p, logits, forward(s.layer, s.p, {.x_router = view(other, 37)})) == 0);
}
TEST_CASE("x_router may have another width than x") {
  Small s;
  const std::vector<float> other = s.random.reals(3 * 8), gate = s.random.reals(5 * 8);
  const MoELayer layer(moe::Linear(view(gate, 8)), TopK{.experts = 5, .k = 2}, s.p.storage(), cpu);
  std::vector<float> logits(15);
  moe::Frame<> f;
  cpu.linear(f, view(other, 8), view(gate, 8), nullptr, view(logits, 5));
  CHECK(wrong_rows(s.p, logits, forward(layer, s.p, {.x_router = view(other, 8)})) == 0);
}
TEST_CASE("max_slots asks for fewer choices") {
  Small s;
  const std::vector<float> y = forward(s.layer, s.p, {.max_slots = 1});
  s.p.setup.k = 1;
  CHECK(wrong_rows(s.p, gate_logits(s.p), y) == 0);
}
TEST_CASE("strided views are read and written in their columns only") {
  Small s;
  std::vector<float> x(3 * 45, not_a_number), y(3 * 40, 77.0f);
  for (int t = 0; t < 3; ++t) std::copy_n(s.p.token(t), 37, x.begin() + t * 45);
  moe::Workspace ws(s.layer.workspace(3));
  s.layer.forward({x.data(), 3, 37, 45}, {y.data(), 3, 37, 40}, ws);
  const std::vector<float> dense = forward(s.layer, s.p);
  for (int t = 0; t < 3; ++t) {
    CHECK(bits({y.data() + t * 40, 37}) == bits(view(dense, 37).row(t)));
    CHECK(row_of(y, 40, t)[37] == 77);
  }
}
TEST_CASE("a router may look at the token ids") {
  Small s;
  const MoELayer layer(moe::Linear(s.p.gate_view()), ByToken{}, s.p.storage(), cpu);
  const int tokens[] = {7, 0, 4};
  Call<> call;
  call.context.tokens = tokens;
  const std::vector<float> y = forward(layer, s.p, call);
  for (int t = 0; t < 3; ++t)
    CHECK(first_outside(view(y, 37).row(t), run_token(s.p.layer, s.p.token(t), {{tokens[t] % 5, {1}}})) == -1);
}
TEST_CASE("a layer without a gate takes given logits") {
  Small s;
  const MoELayer<TopK, moe::Resident<moe::PanelLayout, moe::formats<float>>, Cpu, moe::ExpertForm<moe::SwiGlu>,
                 moe::NoGate>
      layer(moe::NoGate{}, TopK{.experts = 5, .k = 2}, s.p.storage(), cpu);
  const std::vector<float> logits = s.random.reals(15);
  CHECK(wrong_rows(s.p, logits, forward(layer, s.p, {.logits = view(logits, 5)})) == 0);
  CHECK(message_of([&] { forward(layer, s.p); }) ==
        "moe::MoELayer::forward: a layer without a gate: expected logits or a table in the call, found neither");
}

// ---- messages: what, expected, found

#define CHECK_MESSAGE_OF(small, text) CHECK((small).message() == "moe::MoELayer::forward: " text)

TEST_CASE("x of another width is refused") {
  Small s;
  s.call.x.cols = 36;
  CHECK_MESSAGE_OF(s, "columns of x: expected 37, found 36");
}
TEST_CASE("x with a negative number of rows is refused") {
  Small s;
  s.call.x.rows = -1;
  CHECK_MESSAGE_OF(s, "rows of x: expected 0 or more, found -1");
}
TEST_CASE("y of another height is refused") {
  Small s;
  s.call.y.rows = 2;
  CHECK_MESSAGE_OF(s, "rows of y: expected 3, found 2");
}
TEST_CASE("y of another width is refused") {
  Small s;
  s.call.y.cols = 38;
  CHECK_MESSAGE_OF(s, "columns of y: expected 37, found 38");
}
TEST_CASE("rows without data are refused") {
  Small s;
  s.call.x.data = nullptr;
  CHECK_MESSAGE_OF(s, "data of x: expected a pointer, found null");
  Small t;
  t.call.y.data = nullptr;
  CHECK_MESSAGE_OF(t, "data of y: expected a pointer, found null");
}
TEST_CASE("logits of another height are refused") {
  Small s;
  const std::vector<float> logits(10);
  s.call.logits = view(logits, 5);
  CHECK_MESSAGE_OF(s, "rows of logits: expected 3, found 2");
}
TEST_CASE("logits of another width are refused") {
  Small s;
  const std::vector<float> logits(12);
  s.call.logits = view(logits, 4);
  CHECK_MESSAGE_OF(s, "columns of logits: expected 5, found 4");
}
TEST_CASE("x_router of another height is refused") {
  Small s;
  s.call.x_router = s.p.x_view().slice(0, 2);
  CHECK_MESSAGE_OF(s, "rows of x_router: expected 3, found 2");
}
TEST_CASE("x_router of another width than the gate's is refused") {
  Small s;
  s.call.x_router = s.p.x_view();
  s.call.x_router.cols = 30;
  CHECK_MESSAGE_OF(s, "columns of the gate's input: expected 37, found 30");
}
TEST_CASE("a table of another height is refused") {
  Small s;
  Table table(2, 2);
  const auto given = table.get();
  s.call.table = given;
  CHECK_MESSAGE_OF(s, "rows of the table: expected 3, found 2");
}
TEST_CASE("a table without columns is refused") {
  Small s;
  moe::Slot slot;
  s.call.table.slots = {&slot, 3, 0};
  CHECK_MESSAGE_OF(s, "columns of the table: expected at least 1, found 0");
}
TEST_CASE("more slots than the router has are refused") {
  Small s;
  s.call.max_slots = 3;
  CHECK_MESSAGE_OF(s, "max_slots: expected 0 to 2, found 3");
}
TEST_CASE("a workspace that holds not even one row is refused") {
  Small s;
  const std::string need =
      std::to_string(s.layer.workspace(1).bytes) + " + " + std::to_string(s.layer.workspace(1).staging_bytes);
  CHECK(s.message(64) ==
        "moe::MoELayer::forward: workspace for one row: expected " + need + " bytes, found 64 + 4096 bytes");
}
TEST_CASE("a router that looks at token ids refuses a call without them") {
  Small s;
  const MoELayer layer(moe::Linear(s.p.gate_view()), ByToken{}, s.p.storage(), cpu);
  CHECK(message_of([&] { forward(layer, s.p); }) ==
        "moe::MoELayer::forward: what this router needs: expected Call::context.tokens, found null");
}
TEST_CASE("a layer stays usable after a refused call") {
  Small s;
  s.call.y.cols = 38;
  REQUIRE_FALSE(s.message().empty());
  s.call.y.cols = 37;
  CHECK(s.message().empty());
  CHECK(bits(s.y) == bits(forward(s.layer, s.p)));
}

TEST_CASE("a router for another number of experts is refused") {
  Small s;
  CHECK(message_of([&] { MoELayer(moe::Linear(s.p.gate_view()), TopK{.experts = 4, .k = 2}, s.p.storage(), cpu); }) ==
        "moe::MoELayer: experts in the storage: expected 4, found 5");
}
TEST_CASE("a gate with other rows than the router's logits is refused") {
  Small s;
  CHECK(message_of([&] {
          MoELayer(moe::Linear(s.p.gate_view().slice(0, 4)), TopK{.experts = 5, .k = 2}, s.p.storage(), cpu);
        }) == "moe::MoELayer: rows of the gate: expected 5, found 4");
}
TEST_CASE("a gated form on ungated experts is refused") {
  oracle::Random random(102);
  const Problem<float> p({.gated = false}, random);
  CHECK(message_of([&] { make_layer(p, cpu); }) == "moe::MoELayer: gated experts (1 yes, 0 no): expected 1, found 0");
}
TEST_CASE("a router without slots is refused") {
  struct NoSlots {
    int num_logits() const noexcept { return 5; }
    int num_experts() const noexcept { return 5; }
    int max_slots() const noexcept { return 0; }
    int select(moe::Row<const float>, moe::Row<moe::Slot>) const noexcept { return 0; }
  };
  Small s;
  CHECK(message_of([&] { MoELayer(moe::Linear(s.p.gate_view()), NoSlots{}, s.p.storage(), cpu); }) ==
        "moe::MoELayer: slots per token: expected at least 1, found 0");
}
TEST_CASE("a router whose options contradict each other is refused") {
  Small s;
  CHECK(message_of([&] { MoELayer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 7}, s.p.storage(), cpu); }) ==
        "moe::TopK: k: expected at most the 5 experts, found 7");
}

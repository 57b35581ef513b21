// The same bits for every number of threads, instruction set, split of the batch and caller.
#include <moe/layer.hpp>
#include <thread>
#include <vector>

#include "cpu/isas.hpp"
#include "layer_support.hpp"

using moe::Cpu;

namespace {

const Setup setup{.tokens = 13, .hidden = 45, .ffn = 70, .experts = 7, .k = 3, .biased = true};
using Mixed = moe::expert_format<moe::q8_0, moe::f16>;

template <class Format>
struct Case {
  oracle::Random random{201};
  Problem<Format> p{setup, random};
  std::vector<std::uint32_t> expected = bits(forward(make_layer(p, Cpu{.threads = 1, .isa = moe::Isa::scalar}), p));
};

/// The rows of `p` in calls of `rows` rows each.
template <class Layer, class Format>
std::vector<float> in_calls_of(int rows, const Layer& layer, Problem<Format>& p) {
  std::vector<float> y(p.x.size(), not_a_number);
  moe::Workspace ws(layer.workspace(rows));
  for (int t = 0; t < p.setup.tokens; t += rows) {
    const int n = std::min(rows, p.setup.tokens - t);
    layer.forward(p.x_view().slice(t, n), view(y, p.setup.hidden).slice(t, n), ws);
  }
  return y;
}

/// The text of SwiGlu as a user's own type, so that kernels call it for each number.
struct Mine {
  static constexpr bool gated = true;
  float operator()(float gate, float up) const noexcept { return moe::SwiGlu{}(gate, up); }
};

/// Chooses at random, by what a row knows.
struct RandomChoice {
  int num_logits() const noexcept { return 7; }
  int num_experts() const noexcept { return 7; }
  int max_slots() const noexcept { return 1; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    out[0] = {static_cast<int>(row.random(0) * 7), row.random(1)};
    return 1;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("results are the same bits for 1 to 8 threads and every instruction set", F, float, moe::bf16,
                   moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0, Mixed) {
  Case<F> c;
  for (const moe::Isa isa : available_isas())
    for (int threads = 1; threads <= 8; ++threads) {
      CAPTURE(moe::isa_name(isa));
      CAPTURE(threads);
      CHECK((bits(forward(make_layer(c.p, Cpu{.threads = threads, .isa = isa}), c.p)) == c.expected));
    }
}
TEST_CASE("the scalar activation of a user's type gives the bits of the vector one") {
  Case<float> c;
  for (const moe::Isa isa : available_isas())
    CHECK((bits(forward(make_layer(c.p, Cpu{.threads = 2, .isa = isa}, moe::ExpertForm<Mine>{}), c.p)) == c.expected));
}
TEST_CASE_TEMPLATE("results are the same bits for every number of rows that fit the workspace", F, float, moe::q8_0) {
  Case<F> c;
  const auto layer = make_layer(c.p, Cpu{.threads = 2});
  for (int rows = 1; rows <= 13; ++rows) CHECK((bits(forward(layer, c.p, {}, rows)) == c.expected));
}
TEST_CASE("results are the same bits for every split into calls") {
  Case<moe::bf16> c;
  const auto layer = make_layer(c.p, Cpu{.threads = 2});
  for (int rows = 1; rows <= 13; ++rows) CHECK((bits(in_calls_of(rows, layer, c.p)) == c.expected));
}
TEST_CASE("given logits give the bits of the gate that computed them") {
  Case<float> c;
  const std::vector<float> logits = gate_logits(c.p);
  for (const int rows : {1, 5, 13})
    CHECK((bits(forward(make_layer(c.p, Cpu{.threads = 2}), c.p, {.logits = view(logits, 7)}, rows)) == c.expected));
}
TEST_CASE("a given table gives the bits of the router that made it") {
  Case<float> c;
  Table table(13, 3);
  const std::vector<float> logits = gate_logits(c.p);
  const moe::TopK router{.experts = 7, .k = 3};
  for (int t = 0; t < 13; ++t) router.select(moe::RouteContext<>{}.at(t, view(logits, 7).row(t)), {&table.at(t, 0), 3});
  const auto given = table.get();
  for (const int rows : {1, 5, 13})
    CHECK((bits(forward(make_layer(c.p, Cpu{.threads = 2}), c.p, {.table = given}, rows)) == c.expected));
}
TEST_CASE("x_router that is x gives the same bits, however the batch is cut") {
  Case<float> c;
  for (const int rows : {1, 4, 13})
    CHECK((bits(forward(make_layer(c.p, Cpu{.threads = 2}), c.p, {.x_router = c.p.x_view()}, rows)) == c.expected));
}
TEST_CASE("random routers choose the same, however the batch is cut") {
  Case<float> c;
  const moe::MoELayer layer(moe::Linear(c.p.gate_view()), RandomChoice{}, c.p.storage(), Cpu{.threads = 2});
  const auto whole = bits(forward(layer, c.p));
  for (const int rows : {1, 2, 5, 12}) CHECK((bits(forward(layer, c.p, {}, rows)) == whole));
}
TEST_CASE("random routers choose the same in calls of their own when positions are given") {
  Case<float> c;
  const moe::MoELayer layer(moe::Linear(c.p.gate_view()), RandomChoice{}, c.p.storage(), Cpu{.threads = 2});
  const auto whole = bits(forward(layer, c.p));
  std::vector<float> y(c.p.x.size());
  moe::Workspace ws(layer.workspace(1));
  for (int t = 0; t < 13; ++t) {
    moe::Call<> call{.x = c.p.x_view().slice(t, 1), .y = view(y, 45).slice(t, 1)};
    call.context.positions = &t;
    layer.forward(call, ws);
  }
  CHECK((bits(y) == whole));
}
TEST_CASE("the contents of the workspace do not matter") {
  Case<float> c;
  const auto layer = make_layer(c.p, Cpu{.threads = 2});
  moe::Workspace ws(layer.workspace(13));
  std::memset(ws.main().take<char>(1), 0x7b, ws.size().bytes);
  std::vector<float> y(c.p.x.size());
  layer.forward(c.p.x_view(), view(y, 45), ws);
  CHECK((bits(y) == c.expected));
}

TEST_CASE("several threads on one layer, each with its workspace, get the same bits") {
  Case<moe::q8_0> c;
  const auto layer = make_layer(c.p, Cpu{.threads = 3});
  std::vector<int> wrong(4);
  std::vector<std::thread> callers;
  for (int& mine : wrong)
    callers.emplace_back([&c, &layer, &mine] {
      moe::Workspace ws(layer.workspace(5));
      std::vector<float> y(c.p.x.size());
      for (int i = 0; i < 25; ++i) {
        layer.forward(c.p.x_view(), view(y, 45), ws);
        mine += bits(y) != c.expected ? 1 : 0;
      }
    });
  for (std::thread& caller : callers) caller.join();
  for (const int mine : wrong) CHECK(mine == 0);
}
TEST_CASE("layers that share one pool may run at once") {
  Case<float> c;
  const Cpu cpu{.threads = 3};
  const auto first = make_layer(c.p, cpu), second = make_layer(c.p, cpu);
  int wrong = 0, also_wrong = 0;
  std::thread other([&] {
    for (int i = 0; i < 25; ++i) also_wrong += bits(forward(second, c.p)) != c.expected ? 1 : 0;
  });
  for (int i = 0; i < 25; ++i) wrong += bits(forward(first, c.p)) != c.expected ? 1 : 0;
  other.join();
  CHECK(wrong + also_wrong == 0);
}

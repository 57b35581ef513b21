// A user's own policies and hooks in the layer: observers, column rules, batch routers, envelopes, shared experts,
// activations, leasing storages, and the erased layer.
#include <map>
#include <moe/any_layer.hpp>
#include <moe/layer.hpp>
#include <string>
#include <vector>

#include "layer_support.hpp"
#include "test_policies.hpp"

using moe::Call;
using moe::Cpu;
using moe::ExpertForm;
using moe::MoELayer;
using moe::SwiGlu;
using moe::TopK;

namespace {

const Cpu cpu{.threads = 2};

struct Small {
  explicit Small(const Setup& setup = {.tokens = 6}, std::uint64_t seed = 301) : random(seed), p(setup, random) {}
  oracle::Random random;
  Problem<float> p;
};

/// Rows outside the bounds when token t gets picks[t].
int wrong_rows_with(const Problem<float>& p, const std::vector<float>& y,
                    const std::vector<std::vector<oracle::Pick>>& picks) {
  int wrong = 0;
  for (int t = 0; t < p.setup.tokens; ++t) {
    const auto expected = run_token(p.layer, p.token(t), picks[static_cast<std::size_t>(t)]);
    wrong += first_outside(view(y, p.setup.hidden).row(t), expected) != -1 ? 1 : 0;
  }
  return wrong;
}
std::vector<std::vector<oracle::Pick>> top_k_picks(const Problem<float>& p) {
  std::vector<std::vector<oracle::Pick>> picks;
  for (int t = 0; t < p.setup.tokens; ++t)
    picks.push_back(oracle::route({}, row_of(gate_logits(p), p.setup.experts, t), p.setup.k));
  return picks;
}
/// Drops, in token order, what exceeds `most` rows of an expert; the rest of a row shares its sum.
void drop(std::vector<std::vector<oracle::Pick>>& picks, int most) {
  std::map<int, int> rows;
  for (auto& row : picks) {
    oracle::Value left{};
    for (oracle::Pick& p : row) {
      if (++rows[p.expert] > most)
        p.expert = -1;
      else
        left = left + p.weight;
    }
    for (oracle::Pick& p : row)
      if (p.expert >= 0) p.weight = p.weight / left;
  }
}

/// Writes down who was called.
struct Recorder {
  std::vector<std::string>* calls;
  void logits(moe::View<const float> l) const {
    calls->push_back("logits " + std::to_string(l.rows) + "x" + std::to_string(l.cols));
  }
  void routed(const moe::Frame<>& f) const { calls->push_back("routed " + std::to_string(f.first_token)); }
  void wave(moe::Row<const moe::ExpertRef> refs) const { calls->push_back("wave " + std::to_string(refs.size())); }
  void done(const moe::Frame<>& f) const { calls->push_back("done " + std::to_string(f.dims.tokens)); }
};
using Calls = std::vector<std::string>;

template <class Activation, oracle::Value (*same)(oracle::Value, oracle::Value)>
int wrong_rows_of_activation() {
  Small s({.tokens = 6, .gated = Activation::gated});
  s.p.layer.activation = same;
  return wrong_rows_with(s.p, forward(make_layer(s.p, cpu, ExpertForm<Activation>{}), s.p), top_k_picks(s.p));
}

}  // namespace

// ---- observers

TEST_CASE("an observer sees logits, routing, experts and the end, in this order") {
  const Small s;
  Calls calls;
  forward(make_layer(s.p, cpu), s.p, {}, -1, Recorder{&calls});
  CHECK(calls == Calls{"logits 6x5", "routed 0", "wave 5", "done 6"});
}
TEST_CASE("an observer sees every chunk of a call") {
  const Small s;
  Calls calls;
  forward(make_layer(s.p, cpu), s.p, {}, 4, Recorder{&calls});
  CHECK(calls == Calls{"logits 4x5", "routed 0", "wave 5", "done 4", "logits 2x5", "routed 4", "wave 5", "done 2"});
}
TEST_CASE("an observer sees no logits when the call brings a table") {
  Small s;
  Table table = random_table(s.random, 6, 2, 5);
  const auto given = table.get();
  Calls calls;
  forward(make_layer(s.p, cpu), s.p, {.table = given}, -1, Recorder{&calls});
  CHECK(calls == Calls{"routed 0", "wave 5", "done 6"});
}
TEST_CASE("an observer may have any of the callbacks") {
  struct OnlyRouted {
    int* first_expert;
    void routed(const moe::Frame<>& f) const { *first_expert = f.table.slots.row(0)[0].expert; }
  };
  const Small s;
  int first_expert = -5;
  forward(make_layer(s.p, cpu), s.p, {}, -1, OnlyRouted{&first_expert});
  CHECK(first_expert == top_k_picks(s.p)[0][0].expert);
}

TEST_CASE("a checked build fills the frame with NaN before it is used, another one leaves it alone") {
  struct Peek {
    float* seen;
    void routed(const moe::Frame<>& f) const { *seen = f.partial.data[0]; }
  };
  const Small s;
  const auto layer = make_layer(s.p, cpu);
  moe::Workspace ws(layer.workspace(6));
  std::memset(ws.main().take<char>(1), 0, ws.size().bytes);
  std::vector<float> y(s.p.x.size());
  float seen = 1;
  layer.forward({.x = s.p.x_view(), .y = view(y, 37)}, ws, Peek{&seen});
  CHECK(std::isnan(seen) == (MOE_CHECKED != 0));
}

// ---- the erased layer

TEST_CASE("an erased layer gives the bits of the plain one") {
  const Small s;
  const auto plain = make_layer(s.p, cpu);
  const std::unique_ptr<moe::AnyLayer<>> erased = moe::erase(make_layer(s.p, cpu));
  CHECK(bits(forward(*erased, s.p)) == bits(forward(plain, s.p)));
}
TEST_CASE("an erased layer needs the workspace of the plain one") {
  const Small s;
  CHECK(moe::erase(make_layer(s.p, cpu))->workspace(9).bytes == make_layer(s.p, cpu).workspace(9).bytes);
}
TEST_CASE("an observer is bound when a layer is erased") {
  const Small s;
  Calls calls;
  forward(*moe::erase(make_layer(s.p, cpu), Recorder{&calls}), s.p);
  CHECK(calls.size() == 4);
}

// ---- routers

TEST_CASE("a column rule drops what exceeds its capacity, and the rest is renormalised") {
  const Small s({.tokens = 12, .experts = 4});
  const MoELayer layer(moe::Linear(s.p.gate_view()), FirstRows{{.experts = 4, .k = 2}, 3}, s.p.storage(), cpu);
  auto picks = top_k_picks(s.p);
  drop(picks, 3);
  CHECK(wrong_rows_with(s.p, forward(layer, s.p), picks) == 0);
}
TEST_CASE("a column rule of no capacity gives rows of zero") {
  const Small s;
  const MoELayer layer(moe::Linear(s.p.gate_view()), FirstRows{{.experts = 5, .k = 2}, 0}, s.p.storage(), cpu);
  CHECK(forward(layer, s.p) == std::vector<float>(s.p.x.size(), 0.0f));
}
TEST_CASE("a column rule is not asked about a given table") {
  Small s;
  const MoELayer layer(moe::Linear(s.p.gate_view()), FirstRows{{.experts = 5, .k = 2}, 0}, s.p.storage(), cpu);
  Table table = random_table(s.random, 6, 2, 5);
  const auto given = table.get();
  CHECK(bits(forward(layer, s.p, {.table = given})) == bits(forward(make_layer(s.p, cpu), s.p, {.table = given})));
}
TEST_CASE("a column rule needs a workspace for the whole batch") {
  const Small s;
  const MoELayer layer(moe::Linear(s.p.gate_view()), FirstRows{{.experts = 5, .k = 2}, 3}, s.p.storage(), cpu);
  CHECK(message_of([&] { forward(layer, s.p, {}, 4); }) ==
        "moe::MoELayer::forward: workspace of a router that looks at the whole batch: expected 6 rows, found 4");
}
TEST_CASE("a batch router fills the table of the whole batch") {
  const Small s;
  const MoELayer layer(moe::Linear(s.p.gate_view()), RoundRobin{5}, s.p.storage(), cpu);
  std::vector<std::vector<oracle::Pick>> picks;
  for (int t = 0; t < 6; ++t) picks.push_back({{(t + 1) % 5, {0.5}}});
  CHECK(wrong_rows_with(s.p, forward(layer, s.p), picks) == 0);
}
TEST_CASE("a router may declare identities") {
  Small s;
  s.p.layer.identities = 2;
  const std::vector<float> gate = s.random.reals(7 * 37);
  const MoELayer layer(moe::Linear(view(gate, 37)), WithIdentities{{.experts = 7, .k = 3}, 5}, s.p.storage(), cpu);
  std::vector<float> logits(6 * 7);
  moe::Frame<> f;
  cpu.linear(f, s.p.x_view(), view(gate, 37), nullptr, view(logits, 7));
  std::vector<std::vector<oracle::Pick>> picks;
  for (int t = 0; t < 6; ++t) picks.push_back(oracle::route({}, row_of(logits, 7, t), 3));
  CHECK(wrong_rows_with(s.p, forward(layer, s.p), picks) == 0);
}
TEST_CASE("a router that looks at residency sees what the storage says") {
  const Small s;
  const MoELayer layer(moe::Linear(s.p.gate_view()), FirstResident{5}, PartlyResident{s.p.storage(), 0b01100u}, cpu);
  const std::vector<std::vector<oracle::Pick>> picks(6, {{2, {1}}});
  CHECK(wrong_rows_with(s.p, forward(layer, s.p), picks) == 0);
}

// ---- forms

TEST_CASE("a user's gated activation agrees with the oracle") {
  CHECK(wrong_rows_of_activation<Difference, difference>() == 0);
}
TEST_CASE("a user's ungated activation agrees with the oracle") {
  CHECK(wrong_rows_of_activation<Squared, squared>() == 0);
}
TEST_CASE("weights may apply to the input of the experts") {
  Small s;
  s.p.layer.weight_on_input = true;
  const auto layer = make_layer(s.p, cpu, ExpertForm<SwiGlu>{.weight_on = moe::WeightOn::input});
  CHECK(wrong_rows_with(s.p, forward(layer, s.p), top_k_picks(s.p)) == 0);
}

TEST_CASE("experts may work in a latent width") {
  Small s;
  const int outer = 50, inner = 37;
  const std::vector<float> x = s.random.reals(6 * outer), gate = s.random.reals(5 * outer),
                           down = s.random.reals(inner * outer), up = s.random.reals(outer * inner);
  const ExpertForm<SwiGlu, Latent> form{.envelope = {view(down, outer), view(up, inner)}};
  const MoELayer layer(moe::Linear(view(gate, outer)), TopK{.experts = 5, .k = 2}, s.p.storage(), cpu, form);
  std::vector<float> y(x.size(), not_a_number), logits(6 * 5);
  for (const int rows : {6, 4}) {
    moe::Workspace ws(layer.workspace(rows));
    layer.forward(view(x, outer), view(y, outer), ws);
    moe::Frame<> f;
    cpu.linear(f, view(x, outer), view(gate, outer), nullptr, view(logits, 5));
    for (int t = 0; t < 6; ++t) {
      const auto in = oracle::exact(x.data() + t * outer, outer);
      const auto latent = oracle::multiply({down.begin(), down.end()}, {}, in, {1});
      const auto result = run_token(s.p.layer, latent, oracle::route({}, row_of(logits, 5, t), 2));
      CHECK(first_outside(view(y, outer).row(t), oracle::multiply({up.begin(), up.end()}, {}, result, {1})) == -1);
    }
  }
}
TEST_CASE("an envelope of another width than the experts is refused") {
  Small s;
  const std::vector<float> down(30 * 50), up(50 * 30), gate(5 * 50);
  const ExpertForm<SwiGlu, Latent> form{.envelope = {view(down, 50), view(up, 30)}};
  CHECK(message_of([&] {
          MoELayer(moe::Linear(view(gate, 50)), TopK{.experts = 5, .k = 2}, s.p.storage(), cpu, form);
        }) == "moe::MoELayer: width of the envelope: expected 37, found 30");
}

// ---- shared experts

TEST_CASE("shared experts are added to the routed ones") {
  const Small s;
  const Small shared({.tokens = 6, .hidden = 37, .ffn = 50, .experts = 2}, 302);
  const MoELayer layer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, s.p.storage(), cpu,
                       ExpertForm<SwiGlu>{}, EveryToken{shared.p.storage(), {}, 0.25f});
  const auto picks = top_k_picks(s.p);
  for (const int rows : {6, 4, 1}) {
    const std::vector<float> y = forward(layer, s.p, {}, rows);
    for (int t = 0; t < 6; ++t) {
      const auto routed = run_token(s.p.layer, s.p.token(t), picks[static_cast<std::size_t>(t)]);
      auto sum = run_token(shared.p.layer, s.p.token(t), {{0, {0.25}}, {1, {0.25}}});
      // The sum of the routed ones is where the shared ones are added, one rounding for each.
      for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] = oracle::rounded(routed[i].v + sum[i].v, routed[i].e + sum[i].e, 2);
      for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i].e += oracle::gamma(2) * (std::fabs(routed[i].v) + routed[i].e);
      CHECK(first_outside(view(y, 37).row(t), sum) == -1);
    }
  }
}
TEST_CASE("shared experts of another width are refused") {
  const Small s;
  const Small shared({.hidden = 36, .experts = 1}, 303);
  CHECK(message_of([&] {
          MoELayer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, s.p.storage(), cpu, ExpertForm<SwiGlu>{},
                   EveryToken{shared.p.storage(), {}, 1.0f});
        }) == "moe::MoELayer: hidden width of the shared experts: expected 37, found 36");
}

// ---- leasing storages

TEST_CASE("experts that come one by one give the same bits") {
  const Small s;
  LeaseLog log;
  const MoELayer layer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, OneByOne{s.p.storage(), &log}, cpu);
  for (const int rows : {6, 2}) CHECK(bits(forward(layer, s.p, {}, rows)) == bits(forward(make_layer(s.p, cpu), s.p)));
}
TEST_CASE("a layer holds no expert while it waits for the next") {
  const Small s;
  LeaseLog log;
  const MoELayer layer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, OneByOne{s.p.storage(), &log}, cpu);
  forward(layer, s.p);
  CHECK(log.most_held_at_acquire == 0);
  CHECK(log.lent > 1);
  CHECK(log.held == 0);
}
TEST_CASE("a leasing storage is asked even when nothing is needed") {
  Small s;
  LeaseLog log;
  const MoELayer layer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, OneByOne{s.p.storage(), &log}, cpu);
  Table table(6, 1);
  table.count.assign(6, 0);
  const auto given = table.get();
  CHECK(forward(layer, s.p, {.table = given}) == std::vector<float>(s.p.x.size(), 0.0f));
  CHECK(log.acquires == 1);
}
TEST_CASE("a storage that fails leaves nothing pinned, is told, and the layer stays usable") {
  const Small s;
  LeaseLog log;
  log.fail_at = 2;
  const MoELayer layer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, OneByOne{s.p.storage(), &log}, cpu);
  CHECK(message_of([&] { forward(layer, s.p); }) == "disk");
  CHECK(log.held == 0);
  CHECK(log.abandoned == 1);
  CHECK(bits(forward(layer, s.p)) == bits(forward(make_layer(s.p, cpu), s.p)));
  CHECK(log.abandoned == 1);
}
TEST_CASE("experts that a storage skips add nothing") {
  const Small s;
  LeaseLog log;
  log.skip = top_k_picks(s.p)[0][0].expert;
  const MoELayer layer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, OneByOne{s.p.storage(), &log}, cpu);
  auto picks = top_k_picks(s.p);
  for (auto& row : picks)
    for (oracle::Pick& p : row) p.expert = p.expert == log.skip ? -1 : p.expert;
  CHECK(wrong_rows_with(s.p, forward(layer, s.p), picks) == 0);
}
TEST_CASE("prefetch tells a storage the experts of a guess and computes nothing") {
  const Small s;
  LeaseLog log;
  const MoELayer layer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, OneByOne{s.p.storage(), &log}, cpu);
  moe::Workspace ws(layer.workspace(6));
  const std::vector<float> logits{9, 0, 8, 0, 0, 9, 0, 8, 0, 0, 9, 0, 8, 0, 0,
                                  9, 0, 8, 0, 0, 9, 0, 8, 0, 0, 9, 0, 8, 0, 0};
  layer.prefetch({.x = s.p.x_view(), .logits = view(logits, 5)}, ws);
  CHECK(log.expected == std::vector<int>{0, 2});
  CHECK(log.acquires == 0);
}
TEST_CASE("an erased layer passes prefetches on") {
  const Small s;
  LeaseLog log;
  const auto layer = moe::erase(
      MoELayer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, OneByOne{s.p.storage(), &log}, cpu));
  moe::Workspace ws(layer->workspace(6));
  layer->prefetch({.x = s.p.x_view()}, ws);
  CHECK_FALSE(log.expected.empty());
}
TEST_CASE("prefetch of a resident storage does nothing") {
  const Small s;
  moe::Workspace ws({});
  CHECK(message_of([&] { make_layer(s.p, cpu).prefetch({.x = s.p.x_view()}, ws); }).empty());
}

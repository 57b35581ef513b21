// Policies that are chosen when the program runs give what the ones they hold give.
#include <moe/any_policy.hpp>
#include <moe/layer.hpp>
#include <vector>

#include "layer_support.hpp"
#include "test_policies.hpp"

using moe::MoELayer;
using moe::TopK;

namespace {

/// Asks for token ids, and picks the one that they name.
struct ByToken {
  static constexpr moe::Uses uses = moe::Uses::tokens;
  int experts;
  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return 1; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    out[0] = {row.token % experts, 1};
    return 1;
  }
};

using Router = moe::AnyRouter<TopK, FirstRows, WithIdentities, ByToken>;

struct Small {
  Small() : random(701), p({.tokens = 6}, random) {}
  template <class R>
  auto layer(const R& router) const {
    return MoELayer(moe::Linear(p.gate_view()), router, p.storage(), moe::Cpu{.threads = 1});
  }
  oracle::Random random;
  Problem<float> p;
};

template <class R>
void gives_the_same_bits(const Small& s, const R& router, const moe::Call<>& call = {}) {
  CHECK(bits(forward(s.layer(Router(router)), s.p, call)) == bits(forward(s.layer(router), s.p, call)));
}

}  // namespace

TEST_CASE("any router gives the bits of the router it holds") {
  const Small s;
  const TopK top_k{.experts = 5, .k = 2};
  const std::vector<int> ids{3, 1, 4, 1, 5, 9};
  gives_the_same_bits(s, top_k);
  gives_the_same_bits(s, FirstRows{top_k, 1});
  gives_the_same_bits(s, ByToken{5}, {.context = {.tokens = ids.data()}});
}
TEST_CASE("any router asks of a call what its router asks") {
  const Small s;
  CHECK(message_of([&] { forward(s.layer(Router(ByToken{5})), s.p); }) ==
        "moe::MoELayer::forward: what this router needs: expected Call::context.tokens, found null");
  CHECK(message_of([&] { forward(s.layer(Router(TopK{.experts = 5, .k = 2})), s.p); }).empty());
}
TEST_CASE("any router cuts long calls into chunks unless its router looks at the whole batch") {
  const Small s;
  const TopK top_k{.experts = 5, .k = 2};
  CHECK(bits(forward(s.layer(Router(top_k)), s.p, {}, 2)) == bits(forward(s.layer(top_k), s.p)));
  CHECK(message_of([&] {
          forward(s.layer(Router(FirstRows{top_k, 1})), s.p, {}, 2);
        }) == "moe::MoELayer::forward: workspace of a router that looks at the whole batch: expected 6 rows, found 2");
}
TEST_CASE("any router checks the options of its router") {
  CHECK(message_of([] { moe::check_options(Router(TopK{.experts = 2, .k = 3})); }) ==
        "moe::TopK: k: expected at most the 2 experts, found 3");
}
TEST_CASE("any router says which router it holds, and its identities") {
  const Router router = WithIdentities{{.experts = 6, .k = 2}, 4};
  CHECK(router.get_if<TopK>() == nullptr);
  CHECK(router.get_if<WithIdentities>() != nullptr);
  CHECK(router.ids().identity(5));
}
TEST_CASE("any router is causal if all its routers are") {
  CHECK(moe::is_causal<moe::AnyRouter<TopK, ByToken>>());
  CHECK_FALSE(moe::is_causal<Router>());
}
TEST_CASE("any gate gives the bits of the gate it holds") {
  const Small s;
  using Gate = moe::AnyGate<moe::Linear<>, moe::NormalisedLinear<>>;
  const moe::NormalisedLinear normalised(s.p.gate_view(), nullptr, 1e-6f);
  const auto with = [&](auto gate) {
    return forward(MoELayer(gate, TopK{.experts = 5, .k = 2}, s.p.storage(), moe::Cpu{.threads = 1}), s.p);
  };
  CHECK(bits(with(Gate(normalised))) == bits(with(normalised)));
  CHECK(bits(with(Gate(moe::Linear(s.p.gate_view())))) == bits(with(moe::Linear(s.p.gate_view()))));
}
TEST_CASE("any mixing gives the bits of the mixing it holds") {
  Small s;
  const Problem<float> shared({.tokens = 6, .experts = 1}, s.random);
  const std::vector<float> gate = s.random.reals(s.p.setup.hidden);
  using Mixing = moe::AnyMixing<moe::AddShared, moe::SigmoidShared<>>;
  const auto with = [&](auto mixing) {
    return forward(
        MoELayer(moe::Linear(s.p.gate_view()), TopK{.experts = 5, .k = 2}, s.p.storage(), moe::Cpu{.threads = 1},
                 moe::ExpertForm<moe::SwiGlu>{}, moe::SharedExperts{shared.storage(), mixing}),
        s.p);
  };
  const moe::SigmoidShared<> sigmoid{view(gate, s.p.setup.hidden)};
  CHECK(bits(with(Mixing(sigmoid))) == bits(with(sigmoid)));
  CHECK(bits(with(Mixing(moe::AddShared{}))) == bits(with(moe::AddShared{})));
}
TEST_CASE("decode tells the router that rows are the newest of their sequences") {
  struct Decoding {
    bool* seen;
    int num_logits() const noexcept { return 5; }
    int num_experts() const noexcept { return 5; }
    int max_slots() const noexcept { return 1; }
    int select(const moe::RowContext& row, moe::Row<moe::Slot>) const noexcept {
      *seen = row.decode;
      return 0;
    }
  };
  const Small s;
  bool seen = false;
  const auto layer = s.layer(Decoding{&seen});
  moe::Workspace ws(layer.workspace(6));
  std::vector<float> y(s.p.x.size());
  layer.decode({.x = s.p.x_view(), .y = view(y, s.p.setup.hidden)}, ws);
  CHECK(seen);
  layer.forward(s.p.x_view(), view(y, s.p.setup.hidden), ws);
  CHECK_FALSE(seen);
}

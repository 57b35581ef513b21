// Row-by-row routers inside a layer: rows without a choice, identities, and routers without logits.
#include <moe/executors/cpu.hpp>
#include <moe/routers/exit.hpp>
#include <moe/routers/hash.hpp>
#include <moe/routers/mixed_experts.hpp>
#include <moe/routers/null_experts.hpp>

#include "../problem.hpp"
#include "../test_policies.hpp"

using moe::NullExperts;
using moe::TopK;

namespace {

constexpr int tokens = 5, hidden = 37, experts = 5;

struct Bench {
  Bench()
      : problem({.tokens = tokens, .hidden = hidden, .experts = experts}, random), y(problem.x.size(), not_a_number) {}
  /// y of a layer without a gate, whose logits are `row` for every token.
  template <class Router, class Storage>
  std::vector<float> run(const Router& router, Storage storage, const std::vector<float>& row,
                         const int* ids = nullptr) {
    const moe::MoELayer layer(moe::NoGate{}, router, std::move(storage), moe::Cpu{.threads = 1},
                              moe::ExpertForm<moe::SwiGlu>{});
    std::vector<float> logits;
    for (int t = 0; t < tokens; ++t) logits.insert(logits.end(), row.begin(), row.end());
    const float none = 0;
    const int columns = static_cast<int>(row.size());
    moe::Workspace<> ws(layer.workspace(tokens));
    moe::Call<> call{.x = problem.x_view(), .y = view(y, hidden)};
    call.logits = {columns == 0 ? &none : logits.data(), tokens, columns};
    call.context.tokens = ids;
    layer.forward(call, ws);
    return y;
  }
  oracle::Random random{161};
  Problem<float> problem;
  std::vector<float> y;
};
NullExperts<TopK> nulls(moe::Null kind, int k = 2) { return {{.experts = experts, .k = k}, 3, k, 0, kind}; }
const std::vector<float> nulls_win{0, 0, 0, 0, 0, 9, 9, 8}, experts_win{9, 0, 8, 0, 0, 1, 1, 1};

}  // namespace

TEST_CASE("a token with only null picks gets exactly zero") {
  Bench b;
  CHECK(b.run(nulls(moe::Null::zero), b.problem.storage(), nulls_win) == std::vector<float>(b.problem.x.size(), 0.0f));
}
TEST_CASE("a batch of null picks asks the storage for no expert") {
  Bench b;
  LeaseLog log;
  b.run(nulls(moe::Null::zero), OneByOne(b.problem.storage(), &log), nulls_win);
  CHECK(log.lent == 0);
}
TEST_CASE("experts that beat the nulls are computed as without nulls, bit for bit") {
  Bench b;
  const std::vector<float> with = b.run(nulls(moe::Null::zero), b.problem.storage(), experts_win);
  const std::vector<float> row(experts_win.begin(), experts_win.begin() + experts);
  CHECK(bits(with) == bits(b.run(TopK{.experts = experts, .k = 2}, b.problem.storage(), row)));
}
TEST_CASE("an identity null alone gives the input back") {
  Bench b;
  CHECK(b.run(nulls(moe::Null::identity, 1), b.problem.storage(), nulls_win) == b.problem.x);
}
TEST_CASE("a copy and a zero of MixedExperts give the input back, a constant adds nothing of its own") {
  Bench b;
  const moe::MixedExperts<TopK> router{{.experts = experts + 3, .k = 2}, 1, 1, 1};
  CHECK(b.run(router, b.problem.storage(), {0, 0, 0, 0, 0, 9, 0, 8}) == b.problem.x);
  CHECK(b.run(router, b.problem.storage(), {0, 0, 0, 0, 0, 0, 9, 8}) == std::vector<float>(b.problem.x.size(), 0.0f));
}
TEST_CASE("a token that exits gets exactly zero") {
  Bench b;
  const moe::ExitRouter<TopK> router{{.experts = experts, .k = 2}};
  CHECK(b.run(router, b.problem.storage(), {1, 2, 3, 4, 5, 6}) == std::vector<float>(b.problem.x.size(), 0.0f));
}
TEST_CASE("a layer with a HashRouter is the layer whose logits choose the same experts") {
  Bench b;
  const int ids[tokens] = {7, 8, 9, 10, 11};
  const moe::HashRouter router{experts};
  const std::vector<float> hashed = b.run(router, b.problem.storage(), {}, ids);
  for (int t = 0; t < tokens; ++t) {
    std::vector<float> row(experts);
    row[static_cast<std::size_t>(router.expert_of(ids[t]))] = 1;
    const std::vector<float> chosen = b.run(TopK{.experts = experts}, b.problem.storage(), row);
    CHECK(bits(view(chosen, hidden).row(t)) == bits(view(hashed, hidden).row(t)));
  }
}
TEST_CASE("a layer with a HashRouter refuses a call without token ids") {
  Bench b;
  CHECK(message_of([&] { b.run(moe::HashRouter{experts}, b.problem.storage(), {}); }).find("context.tokens") !=
        std::string::npos);
}

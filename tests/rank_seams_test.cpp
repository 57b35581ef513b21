// What ranks that share out the experts ask of the layer: two of them, threads of one process, are one rank with all
// the rows, bit for bit.
#include <algorithm>
#include <exception>
#include <moe/routers/capacity.hpp>
#include <moe/shared.hpp>
#include <moe/storage/subset.hpp>
#include <thread>

#include "doubles/loopback_ranks.hpp"
#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

using moe::TopK;

constexpr int experts = 6, per_rank = 3, ranks = 2;

struct Ranks {
  explicit Ranks(int tokens) : random(808), p({.tokens = tokens, .experts = experts, .k = 3}, random), meeting(ranks) {}

  /// The experts that a rank holds.
  auto shard(int rank) const {
    std::vector<moe::ExpertId> held;
    for (int e = rank * per_rank; e < (rank + 1) * per_rank; ++e) held.push_back(e);
    return moe::Resident(moe::SubsetSource{p.source(), held});
  }
  loopback::Rank executor(int rank, int most = 16) { return {&meeting, rank, per_rank, most}; }

  /// y of both ranks, each in a thread with its share of the rows; `make_layer(rank)` makes a layer of it.
  template <class MakeLayer>
  std::vector<float> run(int of_the_first, int rows_at_once, const MakeLayer& make_layer) {
    std::vector<float> y(p.x.size(), not_a_number);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank)
      threads.emplace_back([&, rank] {
        try {
          const auto layer = make_layer(rank);
          const int first = rank == 0 ? 0 : of_the_first;
          const int rows = rank == 0 ? of_the_first : p.setup.tokens - of_the_first;
          moe::Workspace ws(layer.workspace(rows_at_once));
          moe::Call<> call;
          call.x = p.x_view().slice(first, rows);
          call.y = view(y, p.setup.hidden).slice(first, rows);
          call.context.first_row = first;
          if (rank == refused) call.max_slots = 100;
          layer.forward(call, ws);
        } catch (...) {
          errors[rank] = std::current_exception();
        }
      });
    for (std::thread& thread : threads) thread.join();
    meeting.forget();
    return y;
  }
  std::string error(int rank) {
    const std::exception_ptr error = std::exchange(errors[rank], nullptr);
    return error ? message_of([&] { std::rethrow_exception(error); }) : std::string();
  }

  oracle::Random random;
  Problem<float> p;
  loopback::Meeting meeting;
  std::exception_ptr errors[ranks];
  int refused = -1;  // the rank whose call is wrong
};
const TopK top3{.experts = experts, .k = 3};

}  // namespace

TEST_CASE("two ranks give the bits of one, however the rows are shared out among them") {
  Ranks r(9);
  const std::vector<float> one = forward(make_layer(r.p), r.p);
  for (const int first : {0, 1, 4, 9}) {
    CAPTURE(first);
    const std::vector<float> two = r.run(first, 16, [&](int rank) {
      return moe::MoELayer(moe::Linear(r.p.gate_view()), top3, r.shard(rank), r.executor(rank));
    });
    CHECK(r.error(0) == "");
    CHECK(r.error(1) == "");
    CHECK(bits(two) == bits(one));
  }
}
TEST_CASE("ranks that need different numbers of chunks wait for each other") {
  Ranks r(9);
  const std::vector<float> one = forward(make_layer(r.p), r.p);
  const std::vector<float> two = r.run(2, 3, [&](int rank) {
    return moe::MoELayer(moe::Linear(r.p.gate_view()), top3, r.shard(rank), r.executor(rank, 3));
  });
  CHECK(bits(two) == bits(one));
}
TEST_CASE("storages that lend serve the needs of all ranks") {
  Ranks r(7);
  const std::vector<float> one = forward(make_layer(r.p), r.p);
  LeaseLog logs[ranks];
  const std::vector<float> two = r.run(7, 16, [&](int rank) {  // the second rank has no rows, but experts
    return moe::MoELayer(moe::Linear(r.p.gate_view()), top3, OneByOne(r.shard(rank), &logs[rank]), r.executor(rank));
  });
  CHECK(bits(two) == bits(one));
  for (const LeaseLog& log : logs) CHECK(log.lent >= 1);
}
TEST_CASE("identities stay at home, and shared experts are every rank's own") {
  Ranks r(8);
  const std::vector<float> gate = r.random.reals((experts + 2) * r.p.setup.hidden);
  const TopK router{.experts = experts, .k = 3, .identities = 2};
  const auto shared = [&] { return EveryToken{r.p.storage(), {}, 0.5f}; };
  const moe::Linear linear(view(gate, r.p.setup.hidden));
  const std::vector<float> one =
      forward(moe::MoELayer(linear, router, r.p.storage(), moe::Cpu{}, moe::ExpertForm<moe::SwiGlu>{}, shared()), r.p);
  const std::vector<float> two = r.run(3, 16, [&](int rank) {
    return moe::MoELayer(linear, router, r.shard(rank), r.executor(rank), moe::ExpertForm<moe::SwiGlu>{}, shared());
  });
  CHECK(bits(two) == bits(one));
}
TEST_CASE("an error on one rank is an error on both, and the next call is right") {
  Ranks r(6);
  LeaseLog logs[ranks];
  logs[1].fail_at = 1;
  const auto make = [&](int rank) {
    return moe::MoELayer(moe::Linear(r.p.gate_view()), top3, OneByOne(r.shard(rank), &logs[rank]), r.executor(rank));
  };
  r.run(3, 16, make);
  CHECK(r.error(0) == "loopback: another rank failed");
  CHECK(r.error(1) == "disk");
  CHECK(bits(r.run(3, 16, make)) == bits(forward(make_layer(r.p), r.p)));
  CHECK(r.error(0) == "");
  CHECK(r.error(1) == "");
}
TEST_CASE("a call that is refused on one rank is an error on both") {
  Ranks r(6);
  r.refused = 1;
  r.run(3, 16,
        [&](int rank) { return moe::MoELayer(moe::Linear(r.p.gate_view()), top3, r.shard(rank), r.executor(rank)); });
  CHECK(r.error(0) == "loopback: another rank failed");
  CHECK(r.error(1) == "moe::MoELayer::forward: max_slots: expected 0 to 3, found 100");
}
TEST_CASE("a rank whose storage holds another number of experts is refused") {
  Ranks r(2);
  CHECK(message_of([&] { moe::MoELayer(moe::Linear(r.p.gate_view()), top3, r.p.storage(), r.executor(0)); }) ==
        "moe::MoELayer: experts in the storage: expected 3, found 6");
}
TEST_CASE("rows of a rank draw the random numbers of their place among the rows of all") {
  oracle::Random random(809);
  const Problem<float> p({.tokens = 8, .experts = experts, .k = 3}, random);
  const moe::Capacity<TopK> router{.inner = top3, .fixed = 2, .drop = moe::Drop::at_random};
  const moe::MoELayer layer(moe::Linear(p.gate_view()), router, p.storage(), moe::Cpu{});
  struct Kept {
    std::vector<int>* ids;
    void routed(const moe::Frame<>& f) const {
      for (int t = 0; t < f.dims.tokens; ++t)
        for (int k = 0; k < f.table.size(t); ++k) ids->push_back(f.table.slots.row(t)[k].expert);
    }
  };
  const auto kept = [&](int first_row, const std::vector<int>& positions) {
    std::vector<int> ids;
    moe::Call<> call;
    call.context.first_row = first_row;
    call.context.seed = 5;
    if (!positions.empty()) call.context.positions = positions.data();
    forward(layer, p, call, -1, Kept{&ids});
    return ids;
  };
  CHECK(kept(8, {}) != kept(0, {}));
  CHECK(kept(8, {}) == kept(8, {0, 1, 2, 3, 4, 5, 6, 7}));  // by place in the batch, not in the sequence
}

// No memory is asked for during a call: the global operator new of this program counts.
#include <moe/any_layer.hpp>
#include <moe/moe.hpp>
#include <moe/storage/ring.hpp>
#include <moe/storage/storage_source.hpp>

#include "counting_new.hpp"
#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

using heap::allocations;
using moe::Cpu;

const Setup setup{.tokens = 7, .hidden = 50, .ffn = 40, .experts = 6, .k = 3};

/// Allocations of three calls, of all tokens, of one and of none, the first ones of this layer.
template <class Layer>
long allocations_of(const Layer& layer, moe::View<const float> x, int rows_at_once) {
  std::vector<float> y(static_cast<std::size_t>(x.rows * x.cols));
  moe::Workspace ws(layer.workspace(rows_at_once));
  const long before = allocations;
  layer.forward({.x = x, .y = view(y, x.cols)}, ws);
  layer.forward({.x = x.slice(0, 1), .y = {y.data(), 1, x.cols}}, ws);
  layer.forward({.x = x.slice(0, 0), .y = {y.data(), 0, x.cols}}, ws);
  return allocations - before;
}

}  // namespace

TEST_CASE("the counter counts") {
  void* (*volatile allocate)(std::size_t) = ::operator new;  // volatile, or the pair is optimised away
  const long before = allocations;
  ::operator delete(allocate(4));
  CHECK(allocations == before + 1);
}
TEST_CASE_TEMPLATE("forward allocates nothing", F, float, moe::q8_0) {
  oracle::Random random(401);
  const Problem<F> p(setup, random);
  for (const int threads : {1, 3}) CHECK(allocations_of(make_layer(p, Cpu{.threads = threads}), p.x_view(), 7) == 0);
}
TEST_CASE("forward allocates nothing when it cuts a batch into chunks") {
  oracle::Random random(402);
  const Problem<moe::bf16> p(setup, random);
  CHECK(allocations_of(make_layer(p, Cpu{.threads = 2}), p.x_view(), 2) == 0);
}
TEST_CASE("forward of an erased layer allocates nothing") {
  oracle::Random random(403);
  const Problem<float> p(setup, random);
  CHECK(allocations_of(*moe::erase(make_layer(p, Cpu{.threads = 2})), p.x_view(), 7) == 0);
}
TEST_CASE("forward with a column rule and shared experts allocates nothing") {
  oracle::Random random(404);
  const Problem<float> p(setup, random), shared({.hidden = 50, .ffn = 20, .experts = 1}, random);
  const moe::MoELayer layer(moe::Linear(p.gate_view()), FirstRows{{.experts = 6, .k = 3}, 2}, p.storage(),
                            Cpu{.threads = 2}, moe::ExpertForm<moe::SwiGlu>{}, EveryToken{shared.storage(), {}, 1.0f});
  CHECK(allocations_of(layer, p.x_view(), 7) == 0);
}
TEST_CASE("forward over experts that come one by one allocates nothing") {
  oracle::Random random(405);
  const Problem<float> p(setup, random);
  LeaseLog log;
  const moe::MoELayer layer(moe::Linear(p.gate_view()), moe::TopK{.experts = 6, .k = 3}, OneByOne{p.storage(), &log},
                            Cpu{.threads = 2});
  CHECK(allocations_of(layer, p.x_view(), 7) == 0);
}
TEST_CASE("forward over a ring allocates nothing after the ring's start") {
  oracle::Random random(407);
  const Problem<float> p(setup, random);
  const moe::RingSections ring{{.sections = 2}};
  const auto make = [&] {
    return moe::MoELayer(moe::Linear(p.gate_view()), moe::TopK{.experts = 6, .k = 3},
                         moe::Ring{ring, moe::StorageSource{p.storage()}}, Cpu{.threads = 2});
  };
  const auto first = make(), second = make(), third = make();
  ring.start();
  for (const auto* layer : {&first, &second, &third, &first}) CHECK(allocations_of(*layer, p.x_view(), 7) == 0);
  CHECK(ring.statistics().copies > 6);
}
TEST_CASE("forward with a state from the layer before allocates nothing") {
  oracle::Random random(406);
  const Problem<float> p(setup, random);
  const std::vector<float> residual(6 * 6), state_in(7 * 6);
  std::vector<float> state_out(7 * 6), y(p.x.size());
  const moe::MoELayer layer(moe::ResidualLinear(p.gate_view(), view(residual, 6)), moe::TopK{.experts = 6, .k = 3},
                            p.storage(), Cpu{.threads = 1});
  moe::Workspace ws(layer.workspace(7));
  const moe::Call<> call{.x = p.x_view(),
                         .y = view(y, p.setup.hidden),
                         .router_state_in = view(state_in, 6),
                         .router_state_out = view(state_out, 6)};
  const long before = allocations;
  layer.forward(call, ws);
  CHECK(allocations == before);
}

namespace {
/// Allocations of calls and guesses over a cache, after a few that warm it up: queues grow once.
template <class Storage>
long allocations_of_cached(const Problem<moe::bf16>& p, const Storage& storage) {
  const moe::MoELayer layer(moe::Linear(p.gate_view()), moe::TopK{.experts = 6, .k = 3}, storage, Cpu{.threads = 2});
  std::vector<float> y(p.x.size());
  moe::Workspace ws(layer.workspace(3));
  const moe::Call<> call{.x = p.x_view(), .y = view(y, p.setup.hidden)};
  long before = 0;
  for (int i = 0; i < 20; ++i) {
    if (i == 4) before = allocations;
    if (i % 2 == 0) layer.prefetch(call, ws);
    layer.forward(call, ws);
    storage.cache().begin_sequence();
  }
  const long during = allocations - before;
  CHECK(storage.statistics().evictions + storage.statistics().streamed > 10);
  CHECK(storage.statistics().prefetched > 0);
  return during;
}
std::size_t slot_bytes(const Problem<moe::bf16>& p) { return moe::round_up(p.source().bytes(0), moe::page_alignment); }
}  // namespace

TEST_CASE("forward and prefetch through a cache allocate nothing") {
  oracle::Random random(407);
  const Problem<moe::bf16> p(setup, random);
  for (const int slots : {1, 2, 4}) {
    const moe::ExpertCache cache{{.bytes = static_cast<std::size_t>(slots) * slot_bytes(p)}, moe::Multidimensional{}};
    CHECK(allocations_of_cached(p, moe::Cached{cache, p.source()}) == 0);
  }
}
TEST_CASE("forward and prefetch through a cache with reading threads, limits and staging allocate nothing") {
  oracle::Random random(408);
  const Problem<moe::bf16> p(setup, random);
  moe::CacheOptions options{.bytes = 4 * slot_bytes(p)};
  options.slots_by_layer = {2};
  options.staging_slots = 2;
  const moe::ExpertCache cache{options, moe::Lfu{.decay = 0.5, .period = 8}};
  CHECK(allocations_of_cached(p, moe::Cached{cache, moe::Background{p.source(), 2}}) == 0);
}
TEST_CASE("forward and prefetch through a cache of two precisions allocate nothing") {
  oracle::Random random(409);
  const Problem<moe::bf16> p(setup, random);
  const moe::ExpertCache cache{{.bytes = 2 * slot_bytes(p)}, moe::MissCost{}};
  const moe::Mixed two{moe::ByImportance{.up_to = {0.2f, 0.9f, 1, 1}}, p.source(), p.source()};
  CHECK(allocations_of_cached(p, moe::Cached{cache, two}) == 0);
}

// No memory is asked for during a call: the global operator new of this program counts.
#include <atomic>
#include <cstdlib>
#include <moe/any_layer.hpp>
#include <moe/layer.hpp>
#include <new>

#include "layer_support.hpp"
#include "test_policies.hpp"

namespace {

std::atomic<long> allocations{0};

void* counted(std::size_t bytes, std::size_t align) {
  ++allocations;
  void* p = std::aligned_alloc(align, moe::round_up(bytes == 0 ? 1 : bytes, align));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t a) { return counted(bytes, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t bytes, std::align_val_t a) { return counted(bytes, static_cast<std::size_t>(a)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

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
  const moe::MoELayer layer(moe::Linear(p.gate_view()), Capacity{{.experts = 6, .k = 3}, 2}, p.storage(),
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

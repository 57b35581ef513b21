// The C++ of docs/ and README.md, compiled as readers see it (tests/docs/snippets.cmake takes it out) and run.
#include <cmath>

#include <doctest/doctest.h>

#include <moe/moe.hpp>

#include "storage_fixture.hpp"

namespace {

struct MyPin {};
struct MyKeys {
  bool operator()(moe::ExpertId, float&) const noexcept;
};
#include "a_decorator.inc"
#include "a_family.inc"
#include "a_gate_s_interface.inc"
#include "a_lending_storage_s_interface.inc"
#include "a_router_s_interface.inc"
#include "an_executor_s_interface.inc"
#include "an_observer_s_interface.inc"
#include "most_used_stays.inc"
#include "neighbour_router.inc"
#include "random_router.inc"
#include "storage_interfaces.inc"
#include "tanh_activation.inc"
#include "the_memory_of_a_cache_s_slots.inc"

static_assert(moe::KeyRouter<MyRouter> && moe::HasTables<MyRouter> && moe::has_column_rule<MyRouter>() &&
              moe::detail::has_finish<MyRouter>::value && moe::detail::has_ids<MyRouter>::value);
static_assert(moe::ResidentStorage<MyResident> && moe::RecordSource<MySource> && moe::LeasingStorage<MyLending>);
static_assert(moe::CacheMemory<MySlots> && moe::LeasingStorage<moe::Cached<MySource, MySlots>>);
static_assert(moe::ExecutorFor<MyExecutor, MyResident, moe::ExpertForm<moe::SwiGlu>>);
static_assert(moe::Gate<MyGate, moe::Cpu>);
static_assert(moe::Eviction<LeastUsed> && moe::Activation<GatedTanh>);

constexpr moe::ExpertShape narrow{24, 40};
constexpr int six = 6;

}  // namespace

TEST_CASE("the documented router routes a layer") {
  const fixture::RandomExperts weights(narrow, six, 1);
  const fixture::Inputs in(5, narrow.hidden, six, 2);
  const moe::MoELayer layer{in.linear(), NeighbourRouter{six}, moe::Resident{weights.packed<moe::f32>()},
                            moe::Cpu{.threads = 1}};
  struct Picks {
    int* wrong;
    void routed(const moe::Frame<>& f) const {
      for (int t = 0; t < f.dims.tokens; ++t) {
        const moe::Row<moe::Slot> row = f.table.slots.row(t);
        *wrong += row[1].expert != (row[0].expert + 1) % six;
      }
    }
  };
  int wrong = 0;
  std::vector<float> y(in.x.size());
  moe::Workspace ws{layer.workspace(5)};
  layer.forward({.x = in.view(), .y = {y.data(), 5, narrow.hidden}}, ws, Picks{&wrong});
  CHECK(wrong == 0);
}

TEST_CASE("the documented decorator takes half of the choices") {
  const HalfTheChoices<moe::TopK> router{{.experts = 6, .k = 3}};
  const std::vector<float> logits{0, 5, 3, 1, 4, 2};
  moe::Slot out[3];
  CHECK(moe::num_logits(router) == 6);
  CHECK(moe::select(router, {.logits = {logits.data(), 6}}, {out, moe::max_slots(router)}) == 2);
  CHECK((out[0].expert == 1 && out[1].expert == 4));
}

TEST_CASE("the first snippet of the README is a layer") {
  const int hidden = 4096;
  const moe::ExpertShape shape{hidden, 32};
  const fixture::RandomExperts weights(shape, 8, 1);
  const fixture::Inputs in(3, hidden, 8, 2);
  const moe::View<const float> gate(in.gate.data(), 8, hidden), x = in.view();
  const std::vector<moe::ExpertMatrices>& experts = weights.matrices;
  std::vector<float> out(in.x.size());
  const moe::View<float> y(out.data(), 3, hidden);
#include "mixtral_on_a_cpu.inc"
  CHECK(out == fixture::outputs(layer, in, 1));
  CHECK(out != std::vector<float>(out.size()));
}

TEST_CASE("the README's experts on disk give the results of resident ones") {
  const TemporaryFolder folder;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  const moe::ExpertShape small{32, 16};  // a record of bf16 fits a page
  const fixture::RandomExperts weights(small, 8, 1);
  const std::vector<moe::Packed<moe::bf16>> layers(4, weights.packed<moe::bf16>());
  moe::write_records<moe::Packed<moe::bf16>>("model.moe", layers);
  const fixture::Inputs in(3, 32, 8, 2);
  const moe::View<const float> gate(in.gate.data(), 8, 32);
  const std::size_t budget = 3 * moe::page_alignment;
#include "experts_on_disk.inc"
  const std::vector<float> found = fixture::outputs(layer, in, 3);
  std::filesystem::current_path(before);
  const moe::MoELayer resident{moe::Linear{gate}, moe::TopK{.experts = 8, .k = 2}, moe::Resident{layers[0]},
                               moe::Cpu{}};
  CHECK(found == fixture::outputs(resident, in, 3));
}

TEST_CASE("the README's router picks two different experts for every position, the same at every call") {
  const RandomRouter router{7};
  for (int p = 0; p < 500; ++p) {
    moe::RowContext row;
    row.position = p;
    row.seed = 9;
    moe::Slot one[2], two[2];
    REQUIRE(router.select(row, {one, 2}) == 2);
    router.select(row, {two, 2});
    CHECK(one[0].expert != one[1].expert);
    CHECK((one[0].expert >= 0 && one[0].expert < 7 && one[1].expert >= 0 && one[1].expert < 7));
    CHECK((one[0].expert == two[0].expert && one[1].expert == two[1].expert));
  }
}

TEST_CASE("the documented eviction keeps the expert that was used more often") {
  const fixture::RandomExperts weights(narrow, six, 1);
  const auto source = weights.packed<moe::f32>();
  const std::size_t slot = moe::round_up(source.bytes(0), moe::page_alignment);
  const moe::ExpertCache cache{{.bytes = 2 * slot}, LeastUsed{}};
  const moe::Cached storage{cache, source};
  const moe::MoELayer layer{moe::NoGate{}, moe::TopK{.experts = six, .k = 1}, storage, moe::Cpu{.threads = 1}};
  const std::vector<float> x(24, 1.0f);
  std::vector<float> y(24);
  moe::Workspace ws{layer.workspace(1)};
  for (const int e : {0, 0, 1, 2}) {
    moe::Slot choice{e, 1.0f};
    const moe::RoutingTable<> table{{&choice, 1, 1}, nullptr};
    layer.forward({.x = {x.data(), 1, 24}, .y = {y.data(), 1, 24}, .table = table}, ws);
  }
  std::uint32_t bits = 0;
  storage.residency(&bits);
  CHECK(bits == 0b101);
}

TEST_CASE("the documented activation is what an expert computes") {
  const fixture::RandomExperts weights(narrow, 1, 1);
  const fixture::Inputs in(1, narrow.hidden, 1, 2);
  const moe::MoELayer layer{in.linear(), moe::TopK{.experts = 1}, moe::Resident{weights.packed<moe::f32>()},
                            moe::Cpu{.threads = 1}, moe::ExpertForm<GatedTanh>{}};
  const std::vector<float> y = fixture::outputs(layer, in, 1);
  const moe::ExpertMatrices& m = weights.matrices[0];
  double expected = 0, size = 0;
  for (int f = 0; f < narrow.ffn; ++f) {
    double gate = 0, up = 0;
    for (int h = 0; h < narrow.hidden; ++h) {
      gate += double{m.gate.at(f, h)} * in.x[static_cast<std::size_t>(h)];
      up += double{m.up.at(f, h)} * in.x[static_cast<std::size_t>(h)];
    }
    expected += double{m.down.at(0, f)} * std::tanh(gate) * up;
    size += std::fabs(m.down.at(0, f) * up);
  }
  // Chains of 24 and 40 fma and an activation within a few ulp: (24 + 40 + 8) roundings of at most 2^-24 of the sum.
  CHECK(std::fabs(y[0] - expected) <= 72 * 0x1p-24 * size);
}

TEST_CASE("the documented family is a layer of known parts") {
  const int outer = 40, inner = narrow.hidden;
  const fixture::RandomExperts weights(narrow, 64, 1);
  const fixture::Inputs in(3, outer, 64, 2);
  const std::vector<float> enter(static_cast<std::size_t>(inner * outer), 0.1f), leave(enter), bias(64);
  const moe::Latent<> latent{.enter_weight = {enter.data(), inner, outer},
                             .leave_weight = {leave.data(), outer, inner}};
  using Storage = moe::Resident<moe::PanelLayout, moe::formats<moe::f32>>;
  const MuseSpark<Storage> layer{in.linear(),
                                 muse_spark_router({bias.data(), 64}),
                                 moe::Resident{weights.packed<moe::f32>()},
                                 moe::Cpu{.threads = 1},
                                 {.expert_norm_eps = 1e-6f, .envelope = latent}};
  CHECK(layer.router().k == 4);
  CHECK(fixture::outputs(layer, in, 3) != std::vector<float>(in.x.size()));
}

// Which types satisfy which concepts, and how hooks of decorators are found.
#include <moe/concepts.hpp>
#include <moe/cpu/threads.hpp>
#include <moe/executors/cpu.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/resident.hpp>

#include "problem.hpp"

namespace {

using moe::Row;
using moe::RowContext;
using moe::Slot;

struct Plain {
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
  int max_slots() const noexcept { return 1; }
  int select(Row<const float>, Row<Slot> out) const noexcept {
    out[0] = {1, 0.5f};
    return 1;
  }
};
struct WithHooks : Plain {
  static constexpr moe::Uses uses = moe::Uses::tokens;
  moe::IdMap ids() const { return {3, 1}; }
  void admit(const moe::Column& column) const noexcept {
    for (int i = 0; i < column.size(); ++i) column.drop(i);
  }
  void finish(Row<Slot> row) const noexcept {
    for (Slot& s : row) s.weight = 9;
  }
};
template <class R>
struct Around {
  R inner;
  int select(const RowContext& row, Row<Slot> out) const noexcept { return moe::select(inner, row, out); }
};
struct Batch {
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
  int max_slots() const noexcept { return 1; }
  void route(const moe::RouteContext<>&, moe::View<const float>, moe::RoutingTable<>&) const {}
};
using Storage = moe::Resident<moe::PanelLayout, moe::formats<float>>;

}  // namespace

TEST_CASE("TopK decides row by row") { CHECK(moe::TokenRouter<moe::TopK>); }
TEST_CASE("a router may ignore the context of a row") { CHECK(moe::TokenRouter<Plain>); }
TEST_CASE("a batch router is no token router") {
  CHECK(moe::BatchRouter<Batch>);
  CHECK_FALSE(moe::TokenRouter<Batch>);
}
TEST_CASE("a source of records is no storage") {
  CHECK(moe::RecordSource<moe::Packed<float>>);
  CHECK_FALSE(moe::ExpertStorage<moe::Packed<float>>);
}
TEST_CASE("Resident lends all experts at once") { CHECK(moe::ResidentStorage<Storage>); }
TEST_CASE("Cpu executes what Resident holds") {
  CHECK(moe::ExecutorFor<moe::Cpu, Storage, moe::ExpertForm<moe::SwiGlu>>);
}
TEST_CASE("the thread pool is a parallel for") { CHECK(moe::ParallelFor<moe::ThreadPool>); }

TEST_CASE("both forms of select are asked the same way") {
  Slot slot;
  CHECK(moe::select(Plain{}, RowContext{}, {&slot, 1}) == 1);
  CHECK(moe::select(Around<Plain>{}, RowContext{}, {&slot, 1}) == 1);
}
TEST_CASE("without a hook all experts are networks") { CHECK(moe::ids_of(Plain{}).networks == 4); }
TEST_CASE("ids are looked up in the inner router") { CHECK(moe::ids_of(Around<Around<WithHooks>>{}).identities == 1); }
TEST_CASE("uses are looked up in the inner router") {
  CHECK(moe::uses_of<Around<WithHooks>>() == moe::Uses::tokens);
  CHECK(moe::uses_of<Around<Plain>>() == moe::Uses::nothing);
}
TEST_CASE("a column rule is looked up in the inner router") {
  CHECK(moe::has_column_rule<Around<WithHooks>>());
  CHECK_FALSE(moe::has_column_rule<Around<Plain>>());
}
TEST_CASE("admit reaches the inner router") {
  Slot slot{2, 1};
  const int entry = 0;
  moe::admit(Around<WithHooks>{}, {.expert = 2, .entries = {&entry, 1}, .slots = {&slot, 1}});
  CHECK(slot.expert == moe::dropped(2));
}
TEST_CASE("finish reaches the inner router") {
  Slot slot{2, 1};
  moe::finish(Around<WithHooks>{}, {&slot, 1});
  CHECK(slot.weight == 9);
}
TEST_CASE("finish of a router without one changes nothing") {
  Slot slot{2, 1};
  moe::finish(Plain{}, {&slot, 1});
  CHECK(slot.weight == 1);
}

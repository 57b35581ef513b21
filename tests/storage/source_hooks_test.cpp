// Sources around others hand on what they are told of a record: that it is waited for, and which format would serve.
#include <vector>

#include <doctest/doctest.h>

#include "storage_fixture.hpp"

namespace {

constexpr moe::ExpertShape shape{40, 23};

struct Told {
  std::vector<moe::ExpertId> asked;
  std::vector<const void*> hurried;
};
/// Has a format of its own mind for each expert.
struct Choosing {
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16, moe::q8_0>;
  Told* told;
  std::vector<int> format_of;

  moe::ExpertShape shape() const noexcept { return ::shape; }
  int num_experts() const noexcept { return static_cast<int>(format_of.size()); }
  std::size_t bytes(int format) const noexcept { return format == 0 ? 4096 : 2048; }
  void read(const moe::ReadRequest& request) const { request.done(request.who, nullptr); }
  void hurry(const void* who) const noexcept { told->hurried.push_back(who); }
  int choose(const moe::ExpertNeed& need) const noexcept {
    told->asked.push_back(need.expert);
    return format_of[static_cast<std::size_t>(need.expert)];
  }
};
/// What the source chooses for each of its experts.
template <class Source>
std::vector<int> choices(const Source& source) {
  std::vector<int> out;
  for (moe::ExpertId e = 0; e < source.num_experts(); ++e) out.push_back(moe::choose(source, {.expert = e, .rows = 1}));
  return out;
}
using Ints = std::vector<int>;

}  // namespace

TEST_CASE("a source on threads chooses as the one it runs") {
  Told told;
  const moe::Background source{Choosing{&told, {1, 0, -1}}};
  CHECK(choices(source) == Ints{1, 0, -1});
}
TEST_CASE("some records of a source: each is chosen for as the one that it is there") {
  Told told;
  const std::vector<moe::ExpertId> kept{2, 0, 2, 2};  // more than there are
  const moe::SubsetSource source{Choosing{&told, {1, 0, -1}}, kept};
  CHECK(choices(source) == Ints{-1, 1, -1, -1});
  CHECK(told.asked == kept);
  moe::hurry(source, &told);
  CHECK(told.hurried == std::vector<const void*>{&told});
}
TEST_CASE(
    "two sources as one: each chooses for its own experts, as it counts them, and both are told what is hurried") {
  Told first, second;
  const moe::ConcatSource source{Choosing{&first, {1, 0}}, Choosing{&second, {0, -1, 1}}};
  CHECK(choices(source) == Ints{1, 0, 0, -1, 1});
  CHECK(first.asked == Ints{0, 1});
  CHECK(second.asked == Ints{0, 1, 2});
  moe::hurry(source, &source);
  CHECK(first.hurried == std::vector<const void*>{&source});
  CHECK(second.hurried == std::vector<const void*>{&source});
}
TEST_CASE("a source behind virtual functions is the one that it holds") {
  Told told;
  const moe::AnySource<moe::formats<moe::bf16, moe::q8_0>> source{Choosing{&told, {1, 0, -1}}};
  CHECK(source.shape() == shape);
  CHECK(source.bytes(0) == 4096);
  CHECK(source.bytes(1) == 2048);
  CHECK(choices(source) == Ints{1, 0, -1});
  moe::hurry(source, &told);
  CHECK(told.hurried == std::vector<const void*>{&told});
  const fixture::RandomExperts weights(shape, 3, 1);
  const moe::AnySource<moe::formats<moe::bf16>> packed{weights.packed<moe::bf16>()};
  for (moe::ExpertId e = 0; e < 3; ++e)
    CHECK(fixture::record(packed, e) == fixture::record(weights.packed<moe::bf16>(), e));
}
TEST_CASE("a mixture chooses by its own rule, and every source of it is told what is hurried") {
  Told high, low;
  const moe::Mixed source{moe::ByImportance{}, Choosing{&high, {1, 1}}, Choosing{&low, {1, 1}}};
  CHECK(choices(source) == Ints{0, 0});
  CHECK(high.asked.empty());
  moe::hurry(source, &source);
  CHECK(high.hurried.size() == 1);
  CHECK(low.hurried.size() == 1);
}
TEST_CASE("a source that has no hooks serves every need in its first format, and hears nothing") {
  const fixture::RandomExperts weights(shape, 2, 1);
  const std::vector<moe::ExpertId> kept{1, 0};
  const moe::SubsetSource source{weights.packed<moe::bf16>(), kept};
  CHECK(choices(source) == Ints{0, 0});
  moe::hurry(source, &source);
}
TEST_CASE("two resident storages in different formats are cached as one layer, each read in its own") {
  const fixture::RandomExperts a(shape, 2, 1), b(shape, 3, 2);
  const moe::Mixed both_of_a{moe::ByImportance{}, a.packed<moe::bf16>(), a.packed<moe::q8_0>()};
  const moe::Mixed both_of_b{moe::ByImportance{}, b.packed<moe::bf16>(), b.packed<moe::q8_0>()};
  const moe::ConcatSource source{moe::StorageSource{moe::Resident{both_of_a, 1}},
                                 moe::StorageSource{moe::Resident{both_of_b, 0}}};
  CHECK(choices(source) == Ints{1, 1, 0, 0, 0});
  const moe::Buffer record(source.bytes(0));
  for (moe::ExpertId e = 0; e < source.num_experts(); ++e) {
    moe::PendingReads read(1);
    source.read({e, moe::choose(source, {.expert = e, .rows = 1}), record.data(), &moe::PendingReads::done, &read});
    CHECK_NOTHROW(read.wait());
  }
}

#include <doctest/doctest.h>

#include <moe/storage/concat.hpp>
#include <moe/storage/subset.hpp>

#include "laws/storage_laws.hpp"

namespace {

constexpr moe::ExpertShape shape{40, 23};

/// The first three experts of the laws' source, then the others.
auto taken_apart(const storage_laws::Source& source) {
  const std::vector<moe::ExpertId> first = {0, 1, 2}, rest = {3, 4, 5, 6};
  return moe::ConcatSource{moe::SubsetSource{source, first}, moe::SubsetSource{source, rest}};
}

}  // namespace

TEST_CASE("two sources as one, resident, keep the storage laws") {
  storage_laws::all([](const storage_laws::Source& source) { return moe::Resident{taken_apart(source)}; });
}

TEST_CASE("two sources as one, cached, keep the storage laws") {
  storage_laws::all([](const storage_laws::Source& source) {
    return moe::Cached{moe::ExpertCache{{.bytes = 3 * moe::round_up(source.bytes(0), moe::page_alignment)}},
                       moe::Background{taken_apart(source), 2}};
  });
}

TEST_CASE("sources that pad their records differently may be joined") {
  const TemporaryFolder folder;
  const fixture::RandomExperts a(shape, 2, 1), b(shape, 3, 2);
  const std::string path = (folder / "b.moe").string();
  moe::write_records(path, b.packed<moe::bf16>());
  const moe::ConcatSource both{a.packed<moe::bf16>(), moe::File<moe::bf16>{path}};
  REQUIRE(both.num_experts() == 5);
  CHECK(both.bytes(0) == moe::File<moe::bf16>{path}.bytes(0));
  for (moe::ExpertId e = 0; e < 5; ++e) {
    const std::vector<std::byte> expected =
        e < 2 ? fixture::record(a.packed<moe::bf16>(), e) : fixture::record(b.packed<moe::bf16>(), e - 2);
    CHECK(std::memcmp(fixture::record(both, e).data(), expected.data(), expected.size()) == 0);
  }
}

TEST_CASE("two resident storages as one lend their own bytes: the first one's experts, then the second one's") {
  const fixture::RandomExperts a(shape, 2, 3), b(shape, 3, 4);
  const moe::Resident first{a.packed<moe::bf16>()}, second{b.packed<moe::bf16>()};
  const moe::ConcatStorage both{first, second};
  REQUIRE(both.num_experts() == 5);
  CHECK(both.shape() == shape);
  for (moe::ExpertId e = 0; e < 5; ++e) {
    CHECK(both.table()[e].expert == e);
    CHECK(both.table()[e].bytes == (e < 2 ? first.table()[e].bytes : second.table()[e - 2].bytes));
  }
}

TEST_CASE("experts of different shapes are refused, with both shapes in the message") {
  const fixture::RandomExperts a({40, 23}, 2, 5), b({40, 24}, 2, 6);
  CHECK_THROWS_WITH_AS(
      (moe::ConcatSource{a.packed<moe::bf16>(), b.packed<moe::bf16>()}),
      "moe::ConcatSource: shape of the second layer's experts: expected 40 x 23, gated, found 40 x 24, "
      "gated",
      moe::Error);
  const moe::Resident first{a.packed<moe::bf16>()}, second{b.packed<moe::bf16>()};
  CHECK_THROWS_AS((moe::ConcatStorage{first, second}), moe::Error);
}

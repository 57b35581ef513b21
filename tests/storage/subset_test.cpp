#include <doctest/doctest.h>

#include <moe/storage/subset.hpp>
#include <numeric>

#include "laws/storage_laws.hpp"

namespace {

constexpr moe::ExpertShape shape{40, 23};
const std::vector<moe::ExpertId> kept = {1, 4, 5};

std::string message_of_subset(const std::vector<moe::ExpertId>& list) {
  const fixture::RandomExperts weights(shape, 6, 1);
  try {
    moe::SubsetSource{weights.packed<moe::bf16>(), list};
  } catch (const moe::Error& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("a source of all records, in order, keeps the storage laws") {
  std::vector<moe::ExpertId> all(storage_laws::experts);
  std::iota(all.begin(), all.end(), 0);
  storage_laws::all([&](const storage_laws::Source& source) { return moe::Resident{moe::SubsetSource{source, all}}; });
}

TEST_CASE("a cache may be put around some of the records") {
  std::vector<moe::ExpertId> all(storage_laws::experts);
  std::iota(all.begin(), all.end(), 0);
  storage_laws::all([&](const storage_laws::Source& source) {
    return moe::Cached{moe::ExpertCache{{.bytes = 3 * moe::round_up(source.bytes(0), moe::page_alignment)}},
                       moe::Background{moe::SubsetSource{source, all}, 2}};
  });
}

TEST_CASE("a subset has the records that were kept, and never reads another") {
  const fixture::RandomExperts weights(shape, 6, 2);
  fixture::Plan plan;
  const fixture::Planned<moe::Packed<moe::bf16>> source{weights.packed<moe::bf16>(), &plan};
  const moe::SubsetSource subset{source, kept};
  CHECK(subset.num_experts() == 3);
  CHECK(subset.shape() == shape);
  CHECK(subset.bytes(0) == source.bytes(0));
  const moe::Resident storage{subset};
  CHECK(plan.reads == 3);
  for (moe::ExpertId e = 0; e < 3; ++e) {
    const std::vector<std::byte> expected = fixture::record(source, kept[static_cast<std::size_t>(e)]);
    CHECK(storage.table()[e].expert == e);
    CHECK(std::memcmp(storage.table()[e].bytes, expected.data(), expected.size()) == 0);
  }
}

TEST_CASE("a file of half the experts has half the records") {
  const TemporaryFolder folder;
  const fixture::RandomExperts weights(shape, 6, 3);
  const moe::Packed<moe::bf16> source = weights.packed<moe::bf16>();
  const std::string all = (folder / "all.moe").string(), half = (folder / "half.moe").string();
  moe::write_records(all, source);
  moe::write_records(half, moe::SubsetSource{source, kept});
  const moe::File<moe::bf16> file{half}, whole{all};
  CHECK(2 * (std::filesystem::file_size(half) - file.head().front_bytes()) ==
        std::filesystem::file_size(all) - whole.head().front_bytes());
  REQUIRE(file.num_experts() == 3);
  for (moe::ExpertId e = 0; e < 3; ++e) {
    const std::vector<std::byte> expected = fixture::record(source, kept[static_cast<std::size_t>(e)]);
    CHECK(std::memcmp(fixture::record(file, e).data(), expected.data(), expected.size()) == 0);
  }
}

TEST_CASE("a view of resident experts lends their own bytes under new ids") {
  const fixture::RandomExperts weights(shape, 6, 4);
  const moe::Resident all{weights.packed<moe::f16>()};
  const moe::SubsetStorage view{all, kept};
  REQUIRE(view.num_experts() == 3);
  REQUIRE(view.table().size() == 3);
  CHECK(view.shape() == shape);
  for (moe::ExpertId e = 0; e < 3; ++e) {
    CHECK(view.table()[e].expert == e);
    CHECK(view.table()[e].bytes == all.table()[kept[static_cast<std::size_t>(e)]].bytes);
    CHECK(view.table()[e].format == all.table()[kept[static_cast<std::size_t>(e)]].format);
  }
}

TEST_CASE("a view cannot be made of a storage that goes at once") {
  using Storage = moe::Resident<moe::PanelLayout, moe::formats<moe::bf16>>;
  using View = moe::SubsetStorage<Storage>;
  CHECK(std::is_constructible_v<View, const Storage&, std::span<const moe::ExpertId>>);
  CHECK_FALSE(std::is_constructible_v<View, Storage, std::span<const moe::ExpertId>>);
}

TEST_CASE("a list that is empty or names an expert that there is not is refused") {
  CHECK(message_of_subset({}) == "moe::SubsetSource: experts to keep: expected at least 1, found 0");
  CHECK(message_of_subset({0, 6}) == "moe::SubsetSource: expert to keep: expected 0 to 5, found 6");
  CHECK(message_of_subset({-1}) == "moe::SubsetSource: expert to keep: expected 0 to 5, found -1");
  const fixture::RandomExperts weights(shape, 6, 5);
  const moe::Resident all{weights.packed<moe::f16>()};
  const std::vector<moe::ExpertId> wrong = {6};
  CHECK_THROWS_WITH_AS((moe::SubsetStorage{all, wrong}), "moe::SubsetStorage: expert to keep: expected 0 to 5, found 6",
                       moe::Error);
}

#include <doctest/doctest.h>

#include "laws/storage_laws.hpp"

TEST_CASE("resident experts keep the storage laws") {
  storage_laws::all([](const storage_laws::Source& source) { return moe::Resident{source}; });
}

TEST_CASE("experts that came through reading threads keep the storage laws") {
  storage_laws::all([](const storage_laws::Source& source) { return moe::Resident{moe::Background{source, 3}}; });
}

TEST_CASE("resident records are page aligned and in one block") {
  const fixture::RandomExperts weights({33, 17}, 3, 1);
  const moe::Resident storage{weights.packed<moe::f32>()};
  REQUIRE(storage.table().size() == 3);
  for (const moe::ExpertRef& ref : storage.table())
    CHECK(reinterpret_cast<std::uintptr_t>(ref.bytes) % moe::page_alignment == 0);
  CHECK(storage.bytes_held() >= 3 * moe::PanelLayout::record_bytes<moe::f32>({33, 17}));
}

TEST_CASE("a matrix of the wrong shape is refused when it is packed, with both shapes in the message") {
  fixture::RandomExperts weights({33, 17}, 2, 1);
  weights.matrices[1].down = moe::Matrix(weights.weights.data(), 17, 33);
  CHECK_THROWS_WITH_AS(moe::Resident{weights.packed<moe::bf16>()},
                       "moe::PanelLayout::pack: down matrix: expected [33, 17], found [17, 33]", moe::Error);
}

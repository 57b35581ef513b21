#include <doctest/doctest.h>

#include <moe/storage/eviction.hpp>

TEST_CASE("LRU keeps what was used later, also after very many uses") {
  const moe::Lru lru;
  const std::uint64_t late = 1ull << 52;
  CHECK(lru.keep_score({0, late, 1}, late + 2) < lru.keep_score({1, late + 1, 1}, late + 2));
}

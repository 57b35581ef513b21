// Ids and shapes.
#include <limits>
#include <moe/expert.hpp>

#include "problem.hpp"

namespace {
constexpr moe::IdMap ids{.networks = 4, .identities = 2};
}

TEST_CASE("the first ids are networks") {
  CHECK(ids.network(0));
  CHECK(ids.network(3));
  CHECK_FALSE(ids.network(4));
}
TEST_CASE("the next ids are identities") {
  CHECK_FALSE(ids.identity(3));
  CHECK(ids.identity(4));
  CHECK(ids.identity(5));
  CHECK_FALSE(ids.identity(6));
}
TEST_CASE("all other ids are nothing") {
  for (const int e : {-1, 6, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()})
    CHECK_FALSE((ids.network(e) || ids.identity(e)));
}

TEST_CASE("shapes are equal when all their numbers are") {
  CHECK(moe::ExpertShape{1, 2, true, false} == moe::ExpertShape{1, 2, true, false});
  CHECK_FALSE(moe::ExpertShape{1, 2, true, false} == moe::ExpertShape{1, 2, true, true});
}

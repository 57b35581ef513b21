// Ids, shapes and shipped activations.
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

TEST_CASE("SwiGlu agrees with double precision") {
  oracle::Random random(51);
  for (int i = 0; i < 2000; ++i) {
    const float gate = random.real(16), up = random.real(16);
    CHECK(within(moe::SwiGlu{}(gate, up), oracle::swiglu({static_cast<double>(gate)}, {static_cast<double>(up)})));
  }
}
TEST_CASE("Relu ignores the gate") { CHECK(moe::Relu{}(5, 2) == 2); }
TEST_CASE("Relu of a negative number is zero") { CHECK(moe::Relu{}(5, -2) == 0); }
TEST_CASE("SwiGlu is gated and Relu is not") {
  CHECK(moe::SwiGlu::gated);
  CHECK_FALSE(moe::Relu::gated);
}
TEST_CASE("shapes are equal when all their numbers are") {
  CHECK(moe::ExpertShape{1, 2, true, false} == moe::ExpertShape{1, 2, true, false});
  CHECK_FALSE(moe::ExpertShape{1, 2, true, false} == moe::ExpertShape{1, 2, true, true});
}

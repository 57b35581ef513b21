// What the macros promise where checks are switched off.
#undef MOE_CHECKED
#define MOE_CHECKED 0
#include <doctest/doctest.h>

#include <moe/config.hpp>

TEST_CASE("an assertion of an unchecked build evaluates nothing") {
  int evaluated = 0;
  MOE_ASSERT(++evaluated > 0);
  CHECK(evaluated == 0);
}
TEST_CASE("an assertion of an unchecked build is one statement") {
  bool reached = false;
  if (!reached)
    MOE_ASSERT(false);
  else
    reached = true;
  CHECK_FALSE(reached);
}

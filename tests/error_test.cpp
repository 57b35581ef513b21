// Messages of errors.
#include <doctest/doctest.h>

#include <moe/error.hpp>
#include <string>

TEST_CASE("an error says where, what, what was expected and what was found") {
  CHECK(std::string(moe::Error("here", "rows", "2", "3").what()) == "here: rows: expected 2, found 3");
}
TEST_CASE("an input error can be caught as an error") { CHECK_THROWS_AS(moe::raise(moe::IoError("disk")), moe::Error); }
TEST_CASE("concat writes strings and integers one after the other") {
  CHECK(moe::concat("a", std::string("b"), -3, " ", 4u) == "ab-3 4");
}
TEST_CASE("require_equal throws with both numbers when they differ") {
  CHECK_THROWS_WITH_AS(moe::require_equal("f", "rows of x", 4, 5), "f: rows of x: expected 4, found 5", moe::Error);
}
TEST_CASE("require_equal accepts equal numbers") { CHECK_NOTHROW(moe::require_equal("f", "rows of x", 4, 4)); }

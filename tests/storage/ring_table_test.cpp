#include <doctest/doctest.h>

#include "ring_table_model.hpp"

namespace {

void check_all_states(const ring_model::Setup& setup, std::size_t at_least) {
  ring_model::Model model(setup);
  const std::string problem = model.explore();
  MESSAGE(model.states(), " states");
  CHECK(problem == "");
  CHECK(model.states() > at_least);
}

}  // namespace

TEST_CASE("two threads, three layers in two sections: in every state nothing is lost and every call gets to its end") {
  check_all_states({}, 40000);
}
TEST_CASE("so it is with one section") { check_all_states({.sections = 1}, 3000); }
TEST_CASE("so it is with a section for every layer") { check_all_states({.layers = 2}, 4000); }
TEST_CASE("so it is with three threads") { check_all_states({.threads = 3, .leaving = false}, 40000); }
TEST_CASE("so it is with three threads on one section") { check_all_states({.sections = 1, .threads = 3}, 10000); }
TEST_CASE("so it is with more layers than calls and sections together") {
  check_all_states({.layers = 4, .sections = 3, .leaving = false}, 10000);
}

#include <doctest/doctest.h>

#include "slot_table_model.hpp"

namespace {

using slot_model::ExpertNeed;
using slot_model::Phase;

void check_all_states(const slot_model::Setup& setup, std::size_t at_least = 1000) {
  slot_model::Model model(setup);
  const std::string problem = model.explore();
  MESSAGE(model.states(), " states");
  CHECK(problem == "");
  CHECK(model.states() > at_least);
}

}  // namespace

TEST_CASE("two threads, three slots and four experts: in every state nothing is lost and every call gets to its end") {
  check_all_states({.limits = {{3}, {}, 0}, .keep_guesses = false}, 50000);
}
TEST_CASE("so it is where guesses are kept until their layer is called") {
  check_all_states({.limits = {{2}, {}, 0}, .experts = 3}, 10000);
}
TEST_CASE("so it is with fewer slots than a call wants") {
  check_all_states({.limits = {{1}, {}, 0}, .experts = 3, .keep_guesses = false}, 300);
}
TEST_CASE("so it is with a staging slot beside the others") {
  check_all_states({.limits = {{3}, {}, 1}, .experts = 3, .keep_guesses = false});
}
TEST_CASE("so it is where a layer keeps nothing and all is streamed") {
  check_all_states({.limits = {{2}, {0}, 2}, .experts = 3, .keep_guesses = false}, 300);
}
TEST_CASE("so it is where a layer keeps less than there are slots") {
  check_all_states({.limits = {{3}, {1}, 1}, .experts = 3, .keep_guesses = false});
}
TEST_CASE("so it is with two precisions, of which one may be skipped") {
  check_all_states({.limits = {{1, 1}, {}, 0}, .experts = 2, .lowest = {0, 1, -1}, .keep_guesses = false});
}
TEST_CASE("so it is where two precisions are only streamed") {
  check_all_states({.limits = {{1, 1}, {}, 1}, .experts = 2, .lowest = {0, 1, -1}, .keep_guesses = false}, 300);
}
TEST_CASE("a hundred thousand random steps never give up what is lent or wanted, and the statistics add up") {
  const slot_model::Setup one{.limits = {{6}, {}, 0}, .experts = 12, .lowest = {0, -1}};
  const slot_model::Setup two{.limits = {{6, 4}, {3}, 2}, .experts = 12, .lowest = {0, 1, -1}};
  for (const slot_model::Setup& setup : {one, two}) CHECK(slot_model::Model(setup).walk(50000, 7) == "");
}

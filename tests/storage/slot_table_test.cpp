#include <cstdio>

#include <doctest/doctest.h>

#include "slot_table_model.hpp"

namespace {

void check_all_states(const slot_model::Setup& setup) {
  slot_model::Model model(setup);
  const std::string problem = model.explore();
  std::printf("%zu states\n", model.states());
  CHECK(problem == "");
  CHECK(model.states() > 1000);
}

}  // namespace

TEST_CASE("two threads, three slots and four experts: whatever happens, every call ends with what it asked for") {
  check_all_states({.limits = {{3}, {}, 0}});
}

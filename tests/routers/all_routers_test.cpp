// The laws, over every router that decides row by row.
#include "all_routers.hpp"

#include "../laws/router_laws.hpp"

namespace {

using all_routers::Promises;

template <class Law>
void for_all(const Law& law) {
  all_routers::for_each([&](const std::string& name, const auto& router, Promises) {
    CAPTURE(name);
    law(router);
  });
}
/// Where `router` makes this promise.
template <class Law>
void for_those(bool Promises::*promise, const Law& law) {
  all_routers::for_each([&](const std::string& name, const auto& router, Promises promises) {
    CAPTURE(name);
    if (promises.*promise) law(router);
  });
}

}  // namespace

TEST_CASE("every router is a plain value") {
  for_all([](const auto& r) { router_laws::is_a_plain_value(r); });
}
TEST_CASE("every router's options of this list are sound") {
  for_all([](const auto& r) { CHECK_NOTHROW(moe::check_options(r)); });
}
TEST_CASE("every router chooses distinct ids that somebody knows") {
  for_all([](const auto& r) { router_laws::ids_are_distinct_and_known(r); });
}
TEST_CASE("every router gives finite weights that are not negative, whatever the logits are") {
  for_all([](const auto& r) { router_laws::weights_are_finite_and_not_negative(r); });
}
TEST_CASE("every router, given fewer slots, chooses a prefix of what it would choose") {
  for_all([](const auto& r) { router_laws::fewer_slots_give_a_prefix(r); });
}
TEST_CASE("every router chooses nothing where there is no room") {
  for_all([](const auto& r) { router_laws::no_room_gives_no_slot(r); });
}
TEST_CASE("every router chooses only what is allowed") {
  for_all([](const auto& r) { router_laws::chooses_only_what_is_allowed(r); });
}
TEST_CASE("every router chooses nothing where nothing is allowed") {
  for_all([](const auto& r) { router_laws::nothing_allowed_gives_nothing(r); });
}
TEST_CASE("routers that name keys choose the largest of them") {
  int with_keys = 0;
  for_all([&](const auto& r) {
    with_keys += moe::KeyRouter<std::remove_cvref_t<decltype(r)>> ? 1 : 0;
    router_laws::keys_choose_as_select(r);
  });
  CHECK(with_keys >= 7);
}
TEST_CASE("every router answers the same twice") {
  for_all([](const auto& r) { router_laws::answers_the_same_twice(r); });
}
TEST_CASE("every router answers the same wherever the row stands in its batch") {
  for_all([](const auto& r) { router_laws::the_row_of_the_batch_does_not_matter(r); });
}
TEST_CASE("routers that promise it give weights in descending order") {
  for_those(&Promises::descends, [](const auto& r) { router_laws::weights_descend(r); });
}
TEST_CASE("routers that promise it fill every slot") {
  for_those(&Promises::fills, [](const auto& r) { router_laws::fills_every_slot(r); });
}
TEST_CASE("routers by logits permute their choices with the experts") {
  for_those(&Promises::by_logits, [](const auto& r) { router_laws::permuting_experts_permutes_the_answer(r); });
}
TEST_CASE("routers by logits break ties to the lower id") {
  for_those(&Promises::by_logits, [](const auto& r) { router_laws::ties_between_chosen_go_to_the_lower_id(r); });
}

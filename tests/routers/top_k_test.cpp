// Laws of routers, for every score and normalisation of TopK, and TopK's own corners.
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::Normalisation;
using moe::Score;
using moe::TopK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

struct Rule {
  Score score;
  Normalisation normalise;
  float scale;
  oracle::Routing same;
};

const Rule rules[] = {
    {Score::softmax_of_picked, Normalisation::none(), 1, {}},
    {Score::softmax, Normalisation::none(), 1, {oracle::Score::softmax}},
    {Score::softmax, Normalisation::by_sum(), 1, {oracle::Score::softmax, oracle::Divide::by_sum}},
    {Score::softmax, Normalisation::by_sum(0, 0.75f), 1, {oracle::Score::softmax, oracle::Divide::by_sum, 0, 0.75}},
    {Score::softmax, Normalisation::by_norm(1), 1, {oracle::Score::softmax, oracle::Divide::by_norm}},
    {Score::softmax, Normalisation::by_norm(2), 1, {oracle::Score::softmax, oracle::Divide::by_norm, 0, 0, 2}},
    {Score::sigmoid, Normalisation::none(), 2.5f, {oracle::Score::sigmoid, oracle::Divide::by_nothing, 0, 0, 1, 2.5}},
    {Score::sigmoid, Normalisation::by_sum(0.5f), 1, {oracle::Score::sigmoid, oracle::Divide::by_sum, 0.5}},
    {Score::sigmoid, Normalisation::by_sum(), 2, {oracle::Score::sigmoid, oracle::Divide::by_sum, 0, 0, 1, 2}},
};

TopK router_of(const Rule& r, int experts, int k) {
  return {.experts = experts, .k = k, .score = r.score, .normalise = r.normalise, .scale = r.scale};
}

/// From one expert to more than a mask word.
struct Shape {
  int experts, k;
};
const Shape shapes[] = {{1, 1}, {2, 2}, {3, 1}, {8, 2}, {8, 8}, {33, 5}, {300, 4}};

/// Calls law(router, rule) for every rule and shape.
template <class Law>
void for_every_rule(const Law& law) {
  for (const Rule& rule : rules)
    for (const Shape& shape : shapes) {
      CAPTURE(&rule - rules);
      CAPTURE(shape.experts);
      CAPTURE(shape.k);
      law(router_of(rule, shape.experts, shape.k), rule);
    }
}
template <class Law>
void for_every_router(const Law& law) {
  for_every_rule([&](const TopK& router, const Rule&) { law(router); });
}
template <class Law>
void for_eight_experts(const Law& law) {
  for (const Rule& rule : rules)
    for (const int k : {1, 2, 8}) {
      CAPTURE(&rule - rules);
      CAPTURE(k);
      law(router_of(rule, 8, k));
    }
}

float sum(const std::vector<float>& values) {
  float total = 0;
  for (const float v : values) total += v;
  return total;
}

}  // namespace

TEST_CASE("TopK picks distinct experts in range") {
  for_every_router([](const TopK& r) { router_laws::ids_are_distinct_and_in_range(r); });
}
TEST_CASE("TopK fills every slot") {
  for_every_router([](const TopK& r) { router_laws::fills_every_slot(r); });
}
TEST_CASE("TopK gives weights in descending order") {
  for_every_router([](const TopK& r) { router_laws::weights_descend(r); });
}
TEST_CASE("TopK breaks ties to the lower id") {
  for_every_router([](const TopK& r) { router_laws::ties_go_to_the_lower_id(r); });
}
TEST_CASE("TopK answers the same twice") {
  for_every_router([](const TopK& r) { router_laws::answers_the_same_twice(r); });
}
TEST_CASE("TopK with fewer slots gives the first of its picks") {
  for_every_router([](const TopK& r) { router_laws::fewer_slots_give_the_first_picks(r); });
}
TEST_CASE("TopK gives finite weights and distinct ids for every pattern of NaN and infinities") {
  for_eight_experts([](const TopK& r) { router_laws::survives_every_pattern(r); });
}
TEST_CASE("TopK ranks NaN below every number") {
  for_every_router([](const TopK& r) { router_laws::ranks_not_a_number_below_every_number(r); });
}
TEST_CASE("TopK with softmax does not see a constant added to the logits") {
  for_every_router([](const TopK& r) {
    if (r.score != Score::sigmoid) router_laws::adding_a_constant_changes_nothing(r);
  });
}
TEST_CASE("TopK permutes its picks with the experts") {
  for_every_router([](const TopK& r) { router_laws::permuting_experts_permutes_the_answer(r); });
}
TEST_CASE("TopK picks only allowed experts") {
  for_every_router([](const TopK& r) { router_laws::picks_only_what_is_allowed(r); });
}
TEST_CASE("TopK picks nothing when nothing is allowed") {
  for_every_router([](const TopK& r) { router_laws::nothing_allowed_gives_no_slot(r); });
}
TEST_CASE("TopK gives the weights of the oracle") {
  for_every_rule([](const TopK& r, const Rule& rule) { router_laws::weights_agree_with_oracle(r, rule.same); });
}

TEST_CASE("TopK asks for no more slots than there are experts") { CHECK(TopK{.experts = 3, .k = 5}.max_slots() == 3); }
TEST_CASE("TopK counts the excluded experts out of the softmax") {
  const std::uint32_t mask = 0b011;
  const std::vector<float> found =
      weights(choose(TopK{.experts = 3, .k = 2, .score = Score::softmax}, {0, 0, 50}, -1, &mask));
  CHECK(found == std::vector<float>{0.5f, 0.5f});
}
TEST_CASE("TopK treats -0 and 0 as equal") {
  CHECK(ids(choose(TopK{.experts = 3, .k = 3}, {-0.0f, 0.0f, -0.0f})) == std::vector<int>{0, 1, 2});
}
TEST_CASE("TopK gives weights of zero to a row of nothing but NaN") {
  const std::vector<float> logits(4, not_a_number);
  for (const Rule& rule : rules) {
    const TopK router{.experts = 4, .k = 2, .score = rule.score, .normalise = rule.normalise};
    CHECK(weights(choose(router, logits)) == std::vector<float>{0, 0});
  }
}
TEST_CASE("TopK treats an infinite logit as the largest number") {
  const float most = std::numeric_limits<float>::max();
  CHECK(ids(choose(TopK{.experts = 3, .k = 2}, {1, most, infinity})) == std::vector<int>{1, 2});
}
TEST_CASE("TopK with infinite logits shares the weight among them") {
  CHECK(weights(choose(TopK{.experts = 4, .k = 3}, {infinity, 3, infinity, -infinity})) ==
        std::vector<float>{0.5f, 0.5f, 0});
}
TEST_CASE("TopK's scale multiplies the normalised weights") {
  const TopK router{.experts = 4, .k = 2, .score = Score::sigmoid, .normalise = Normalisation::by_sum(), .scale = 4};
  CHECK(sum(weights(choose(router, {1, 1, 1, 1}))) == 4);
}
TEST_CASE("TopK's softmax over the picked equals softmax over all, renormalised, within rounding") {
  oracle::Random random(21);
  for (int i = 0; i < 100; ++i) {
    const std::vector<float> logits = random.reals(16, 4);
    const std::vector<float> found = weights(choose(TopK{.experts = 16, .k = 3}, logits));
    const auto expected = oracle::route({oracle::Score::softmax, oracle::Divide::by_sum}, logits, 3);
    for (std::size_t k = 0; k < 3; ++k) CHECK(within(found[k], expected[k].weight));
  }
}

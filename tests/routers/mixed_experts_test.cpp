// MixedExperts against MoE++'s rule, and its ranges of ids.
#include <moe/routers/mixed_experts.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::MixedExperts;
using moe::Normalisation;
using moe::Score;
using moe::TopK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

/// 5 networks, 1 copy, 2 constants, 1 zero.
MixedExperts<TopK> router_of(TopK inner) { return {inner, 1, 2, 1}; }
const TopK softmax_of_two{.experts = 9, .k = 2};

/// Top 2 of the softmax, the weight of the zero set to 0, divided by the sum (MoE++'s gate).
std::vector<oracle::Pick> by_the_paper(const std::vector<float>& logits) {
  std::vector<oracle::Pick> picked = oracle::route({oracle::Score::softmax}, logits, 2);
  std::erase_if(picked, [](const oracle::Pick& p) { return p.expert == 8; });
  oracle::Value sum{};
  for (const oracle::Pick& p : picked) sum = sum + p.weight;
  for (oracle::Pick& p : picked) p.weight = p.weight / sum;
  return picked;
}

}  // namespace

TEST_CASE("MixedExperts sets a zero's weight to 0 before it normalises") {
  oracle::Random random(121);
  CAPTURE(random.seed);
  int with_zero = 0;
  const TopK inners[] = {softmax_of_two,
                         {.experts = 9, .k = 2, .score = Score::softmax, .normalise = Normalisation::by_sum()}};
  for (const TopK& inner : inners)
    for (int i = 0; i < 300; ++i) {
      const std::vector<float> logits = router_laws::distinct_logits(random, 9);
      const auto found = choose(router_of(inner), logits);
      const auto expected = by_the_paper(logits);
      REQUIRE(found.size() == expected.size());
      with_zero += found.size() == 1;
      for (std::size_t s = 0; s < found.size(); ++s) {
        CHECK(found[s].expert == expected[s].expert);
        CHECK(within(found[s].weight, expected[s].weight));
      }
    }
  CHECK(with_zero > 50);
}
TEST_CASE("a zero's partner gets weight one") {
  CHECK(weights(choose(router_of(softmax_of_two), {0, 0, 3, 0, 0, 0, 0, 0, 4})) == std::vector<float>{1});
}
TEST_CASE("the ids are networks, copies, constants, zeros") {
  const MixedExperts<TopK> r = router_of(softmax_of_two);
  CHECK(moe::num_experts(r) == 5);
  CHECK(moe::ids_of(r).networks == 5);
  CHECK(moe::ids_of(r).identities == 1);
  CHECK(r.first_constant() == 6);
  CHECK(r.first_zero() == 8);
}
TEST_CASE("copies and constants stay in the row with their weights") {
  const std::vector<float> logits{0, 0, 0, 0, 0, 5, 0, 5, 0};
  const auto found = choose(router_of(softmax_of_two), logits);
  CHECK(ids(found) == std::vector<int>{5, 7});
  CHECK(weights(found) == std::vector<float>{0.5f, 0.5f});
}
TEST_CASE("nothing but zeros gives no choice") {
  CHECK(choose(MixedExperts<TopK>{{.experts = 4, .k = 2}, 0, 0, 2}, {0, 0, 3, 4}).empty());
}
TEST_CASE("without zeros nothing changes, bit for bit") {
  const MixedExperts<TopK> r{softmax_of_two, 2, 2, 0};
  router_laws::for_many_rows(r, [&](const std::vector<float>& logits) {
    CHECK(ids(choose(r, logits)) == ids(choose(softmax_of_two, logits)));
    CHECK(bits(weights(choose(r, logits))) == bits(weights(choose(softmax_of_two, logits))));
  });
}
TEST_CASE("MixedExperts refuses ranges that leave no network") {
  CHECK(message_of([] { MixedExperts<TopK>{softmax_of_two, 4, 4, 1}.check(); }).find("networks") != std::string::npos);
  CHECK(message_of([] {
          MixedExperts<TopK>{softmax_of_two, -1, 0, 0}.check();
        }).find("0 or more") != std::string::npos);
}

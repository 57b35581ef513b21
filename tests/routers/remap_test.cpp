#include <doctest/doctest.h>

#include <moe/routers/remap.hpp>
#include <moe/routers/top_k.hpp>

#include "laws/router_laws.hpp"

namespace {

using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

moe::Row<const moe::ExpertId> row(const std::vector<moe::ExpertId>& v) {
  return {v.data(), static_cast<int>(v.size())};
}
using Remapped = moe::RemapRouter<moe::TopK>;

constexpr int experts = 8;
const std::vector<moe::ExpertId> kept = {1, 2, 5, 6, 7};
const std::vector<moe::ExpertId> pruned = {-1, 0, 1, -1, -1, 2, 3, 4};
constexpr moe::Score scores[] = {moe::Score::softmax, moe::Score::softmax_of_picked, moe::Score::sigmoid};

std::vector<float> logits_of(const std::vector<float>& all, const std::vector<moe::ExpertId>& some) {
  std::vector<float> out;
  for (const moe::ExpertId e : some) out.push_back(all[static_cast<std::size_t>(e)]);
  return out;
}
bool bit(const std::vector<std::uint32_t>& mask, int e) {
  return (mask[static_cast<std::size_t>(e / 32)] >> (e % 32) & 1u) != 0;
}
std::vector<std::uint32_t> random_mask(oracle::Random& random) { return {static_cast<std::uint32_t>(random.engine())}; }

/// The best expert that is in memory, else the best one.
struct PrefersResident {
  int experts;
  int num_logits() const noexcept { return experts; }
  int num_experts() const noexcept { return experts; }
  int max_slots() const noexcept { return 1; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    out[0] = {-1, 1};
    for (const bool here : {true, false})
      for (int e = 0; e < experts; ++e)
        if (row.may_use(e) && row.is_resident(e) == here && out[0].expert < 0) out[0].expert = e;
    return 1;
  }
};

}  // namespace

TEST_CASE("a pruned router keeps the laws of routers") {
  const Remapped router{{.experts = experts, .k = 3}, row(pruned), 5};
  router.check();
  router_laws::ids_are_distinct_and_in_range(router);
  router_laws::fills_every_slot(router);
  router_laws::weights_descend(router);
  router_laws::answers_the_same_twice(router);
  router_laws::fewer_slots_give_the_first_picks(router);
  router_laws::survives_every_pattern(router);
}

TEST_CASE("a router that keeps all experts is the router itself") {
  std::vector<moe::ExpertId> same(experts);
  std::iota(same.begin(), same.end(), 0);
  for (const moe::Score score : scores) {
    const moe::TopK inner{.experts = experts, .k = 3, .score = score};
    const Remapped router{inner, row(same), experts};
    router_laws::for_many_rows(inner, [&](const std::vector<float>& logits) {
      CHECK(ids(choose(router, logits)) == ids(choose(inner, logits)));
      CHECK(bits(weights(choose(router, logits))) == bits(weights(choose(inner, logits))));
    });
    router_laws::picks_only_what_is_allowed(router);
    router_laws::nothing_allowed_gives_no_slot(router);
  }
}

TEST_CASE("a pruned router gives the bits of a router over the kept logits alone") {
  oracle::Random random(1);
  CAPTURE(random.seed);
  for (const moe::Score score : scores) {
    const Remapped router{{.experts = experts, .k = 3, .score = score}, row(pruned), 5};
    const moe::TopK cut{.experts = 5, .k = 3, .score = score};
    for (int i = 0; i < 300; ++i) {
      const std::vector<float> all =
          i % 2 == 0 ? random.reals(experts, 8) : router_laws::coarse_logits(random, experts);
      const std::vector<std::uint32_t> mask = random_mask(random);
      const std::uint32_t* allowed = i % 3 == 0 ? nullptr : mask.data();  // of the five
      const auto found = choose(router, all, 3, allowed), expected = choose(cut, logits_of(all, kept), 3, allowed);
      CHECK(ids(found) == ids(expected));
      CHECK(bits(weights(found)) == bits(weights(expected)));
    }
  }
}

TEST_CASE("identities and nulls keep their order behind the experts that are left") {
  oracle::Random random(2);
  CAPTURE(random.seed);
  const moe::TopK inner{.experts = 5, .k = 4, .score = moe::Score::softmax, .identities = 2, .nulls = 1};
  const std::vector<moe::ExpertId> to = {-1, 0, -1, 1, -1};
  const Remapped router{inner, row(to), 2};
  router.check();
  CHECK(router.ids().networks == 2);
  CHECK(router.ids().identities == 2);
  const moe::TopK cut{.experts = 2, .k = 4, .score = moe::Score::softmax, .identities = 2, .nulls = 1};
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> all = random.reals(8, 4);
    const std::vector<std::uint32_t> mask = {static_cast<std::uint32_t>(random.engine()) | 28u};  // of the two experts
    const std::uint32_t* allowed = i % 2 == 0 ? nullptr : mask.data();
    const auto found = choose(router, all, 4, allowed);
    const auto expected = choose(cut, logits_of(all, {1, 3, 5, 6, 7}), 4, allowed);
    CHECK(ids(found) == ids(expected));
    CHECK(bits(weights(found)) == bits(weights(expected)));
  }
}

TEST_CASE("merged experts come once, where the first of them stood, with the sum of their weights") {
  oracle::Random random(3);
  CAPTURE(random.seed);
  const moe::TopK inner{.experts = experts, .k = 4, .score = moe::Score::softmax};
  const std::vector<moe::ExpertId> to = {2, 0, 1, 1, 2, 0, 1, -1};
  const Remapped router{inner, row(to), 3};
  const std::vector<std::uint32_t> not_the_last = {0x7f};
  int merged = 0;
  for (int i = 0; i < 500; ++i) {
    const std::vector<float> logits = random.reals(experts, 4);
    std::vector<int> order;
    std::vector<double> sum(3), roundings(3);
    const std::vector<moe::Slot> apart = choose(inner, logits, 4, not_the_last.data());
    for (const moe::Slot& s : apart) {
      const int group = to[static_cast<std::size_t>(s.expert)];
      if (sum[static_cast<std::size_t>(group)] == 0) order.push_back(group);
      sum[static_cast<std::size_t>(group)] += static_cast<double>(s.weight);
      roundings[static_cast<std::size_t>(group)] += 1;
    }
    const std::vector<moe::Slot> found = choose(router, logits);
    REQUIRE(ids(found) == order);
    for (const moe::Slot& s : found) {
      const auto g = static_cast<std::size_t>(s.expert);
      CHECK(within(s.weight, oracle::rounded(sum[g], 0, static_cast<int>(roundings[g]) - 1)));
    }
    merged += static_cast<int>(apart.size() - found.size());
  }
  CHECK(merged > 500);  // every row of four picks among three groups
}

TEST_CASE("the call's mask and residency speak of the new ids") {
  oracle::Random random(4);
  CAPTURE(random.seed);
  const std::vector<moe::ExpertId> to = {2, 0, 1, 1, 2, 0, 1, -1};
  const Remapped masked{{.experts = experts, .k = 4}, row(to), 3};
  for (int i = 0; i < 200; ++i) {
    const std::vector<std::uint32_t> mask = random_mask(random);
    for (const moe::Slot& s : choose(masked, random.reals(experts, 4), 4, mask.data())) CHECK(bit(mask, s.expert));
  }
  const moe::RemapRouter<PrefersResident> router{{experts}, row(to), 3};
  for (std::uint32_t here = 0; here < 8; ++here) {
    moe::RowContext context;
    context.resident_bits = &here;
    moe::Slot out;
    REQUIRE(moe::select(router, context, {&out, 1}) == 1);
    // The lowest old id whose group is here: the groups of ids 0, 1, 2 are 2, 0, 1.
    const int expected = (here & 4u) != 0 || here == 0 ? 2 : (here & 1u) != 0 ? 0 : 1;
    CHECK(out.expert == expected);
  }
}

TEST_CASE("a table that does not fit the inner router is refused") {
  const moe::TopK inner{.experts = 3, .k = 1};
  const std::vector<moe::ExpertId> two = {0, 1}, high = {0, 1, 2}, low = {0, -2, 1};
  CHECK(message_of([&] {
          Remapped{inner, row(two), 2}.check();
        }) == "moe::RemapRouter: entries of `to`: expected 3, found 2");
  CHECK(message_of([&] {
          Remapped{inner, row(high), 2}.check();
        }) == "moe::RemapRouter: an entry of `to`: expected -1 to 1, found 2");
  CHECK(message_of([&] {
          Remapped{inner, row(low), 2}.check();
        }) == "moe::RemapRouter: an entry of `to`: expected -1 to 1, found -2");
}

TEST_CASE("thousands of experts can be renumbered") {
  std::vector<moe::ExpertId> to(5000, -1);
  to[1000] = 0;
  to[1023] = 1;
  const Remapped router{{.experts = 5000, .k = 2}, row(to), 2};
  router.check();
  std::vector<float> logits(5000);
  for (std::size_t e = 0; e < logits.size(); ++e) logits[e] = static_cast<float>(e % 1000);
  CHECK(ids(choose(router, logits)) == std::vector<int>{1, 0});  // 23, and 0
}

TEST_CASE("a renumbered router may be renumbered again, and keep to a part in between") {
  oracle::Random random(12);
  CAPTURE(random.seed);
  const std::vector<moe::ExpertId> first = {3, 0, -1, 2, 1, 2, 0, 1}, second = {1, 0, -1, 2},
                                   both = {2, 1, -1, -1, 0, -1, 1, 0};
  using Twice = moe::RemapRouter<Remapped>;
  const Twice twice{{{.experts = experts, .k = 3}, row(first), 4}, row(second), 3};
  const Remapped once{{.experts = experts, .k = 3}, row(both), 3};
  moe::check_options(twice);
  for (int i = 0; i < 200; ++i) {
    const std::vector<float> logits = random.reals(experts, 4);
    const std::vector<std::uint32_t> mask = random_mask(random);
    CHECK(ids(choose(twice, logits, 3, mask.data())) == ids(choose(once, logits, 3, mask.data())));
  }
}

TEST_CASE("a row keeps to the part of its first choice, with that part's weights") {
  oracle::Random random(5);
  CAPTURE(random.seed);
  for (const moe::Score score : scores) {
    const moe::PartRouter<moe::TopK> router{{.experts = 12, .k = 3, .score = score}, 4};
    router.check();
    const moe::TopK alone{.experts = 4, .k = 3, .score = score};
    for (int i = 0; i < 300; ++i) {
      const std::vector<float> all = random.reals(12, 8);
      const int part = static_cast<int>(std::max_element(all.begin(), all.end()) - all.begin()) / 4;
      const std::vector<moe::Slot> found = choose(router, all);
      const std::vector<moe::Slot> expected =
          choose(alone, std::vector<float>(all.begin() + part * 4, all.begin() + part * 4 + 4));
      std::vector<int> moved = ids(expected);
      for (int& e : moved) e += part * 4;
      CHECK(ids(found) == moved);
      CHECK(bits(weights(found)) == bits(weights(expected)));
    }
  }
}

TEST_CASE("a row keeps to the part of the best expert that it may use, and to what it may use there") {
  oracle::Random random(7);
  CAPTURE(random.seed);
  const moe::PartRouter<moe::TopK> router{{.experts = 12, .k = 3}, 4};
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> logits = random.reals(12, 8);
    const std::vector<std::uint32_t> mask = random_mask(random);
    std::vector<bool> allowed;
    for (int e = 0; e < 12; ++e) allowed.push_back(bit(mask, e));
    const std::vector<oracle::Pick> all = oracle::ranked(logits, allowed);
    std::vector<int> expected;
    for (const oracle::Pick& p : all)
      if (p.expert / 4 == all[0].expert / 4 && expected.size() < 3) expected.push_back(p.expert);
    CHECK(ids(choose(router, logits, 3, mask.data())) == expected);
  }
}

TEST_CASE("a router of parts keeps the laws of routers") {
  const moe::PartRouter<moe::TopK> router{{.experts = 8, .k = 3}, 4};
  router_laws::ids_are_distinct_and_in_range(router);
  router_laws::fills_every_slot(router);
  router_laws::weights_descend(router);
  router_laws::answers_the_same_twice(router);
  router_laws::fewer_slots_give_the_first_picks(router);
  router_laws::survives_every_pattern(router);
  router_laws::nothing_allowed_gives_no_slot(router);
}

TEST_CASE("the halves of one gate twice route as the gate does, and a plain router halves top-1's softmax weight") {
  oracle::Random random(6);
  CAPTURE(random.seed);
  for (const int k : {1, 3}) {
    const moe::TopK one{.experts = 5, .k = k, .score = moe::Score::softmax};
    const moe::PartRouter<moe::TopK> both{{.experts = 10, .k = k, .score = moe::Score::softmax}, 5};
    for (int i = 0; i < 200; ++i) {
      const std::vector<float> half = random.reals(5, 4);
      std::vector<float> twice = half;
      twice.insert(twice.end(), half.begin(), half.end());
      CHECK(ids(choose(both, twice)) == ids(choose(one, half)));
      CHECK(bits(weights(choose(both, twice))) == bits(weights(choose(one, half))));
      if (k > 1) continue;
      const oracle::Pick expected = oracle::route({oracle::Score::softmax}, twice, 1)[0];
      const moe::Slot plain = choose(both.inner, twice)[0];
      CHECK(plain.expert == expected.expert);
      CHECK(within(plain.weight, expected.weight));
      const double whole = oracle::route({oracle::Score::softmax}, half, 1)[0].weight.v;
      CHECK(expected.weight.v == doctest::Approx(whole / 2).epsilon(1e-14));
    }
  }
}

TEST_CASE("parts that do not divide the experts, and ids that are no experts, are refused") {
  CHECK(message_of([] {
          moe::PartRouter<moe::TopK>{{.experts = 10, .k = 2}, 4}.check();
        }) == "moe::PartRouter: experts of a part: expected a divisor of 10, found 4");
  CHECK(message_of([] {
          moe::PartRouter<moe::TopK>{{.experts = 10, .k = 2, .nulls = 2}, 5}.check();
        }) == "moe::PartRouter: ids that may be chosen: expected 10, found 12");
}

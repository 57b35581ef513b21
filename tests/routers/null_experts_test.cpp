// NullExperts against the paper by brute force, the identity of a converted gate, and the shift as a knob.
#include <rapidcheck.h>

#include <moe/routers/null_experts.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::Null;
using moe::NullExperts;
using moe::TopK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

NullExperts<TopK> router_of(int experts, int nulls, int k, Null kind = Null::zero) {
  return {{.experts = experts, .k = std::min(k, experts)}, nulls, k, 0, kind};
}

/// Sorts all n + m ids, takes k, drops the nulls, and divides by the sum of what is left, in double precision.
std::vector<oracle::Pick> by_the_paper(const NullExperts<TopK>& r, const std::vector<float>& logits) {
  const int experts = moe::num_experts(r);
  std::vector<float> shifted = logits;
  for (std::size_t e = static_cast<std::size_t>(experts); e < shifted.size(); ++e) shifted[e] += r.shift;
  std::vector<oracle::Pick> picked = oracle::route({oracle::Score::softmax}, shifted, r.k);
  if (r.kind == Null::identity) return oracle::route({}, shifted, r.k);
  std::erase_if(picked, [&](const oracle::Pick& p) { return p.expert >= experts; });
  oracle::Value sum{};
  for (const oracle::Pick& p : picked) sum = sum + p.weight;
  for (oracle::Pick& p : picked) p.weight = p.weight / sum;
  return picked;
}
void check_against_paper(const NullExperts<TopK>& r, const std::vector<float>& logits) {
  const std::vector<moe::Slot> found = choose(r, logits);
  const std::vector<oracle::Pick> expected = by_the_paper(r, logits);
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].expert == expected[i].expert);
    CHECK(within(found[i].weight, expected[i].weight));
  }
}

std::vector<float> with_copies(const std::vector<float>& logits, int copies) {
  std::vector<float> all;
  for (int c = 0; c <= copies; ++c) all.insert(all.end(), logits.begin(), logits.end());
  return all;
}

/// Logits [T, 12] of a router with 8 experts and 4 nulls.
std::vector<float> batch(int tokens) {
  oracle::Random random(31);
  return random.reals(tokens * 12, 2);
}

}  // namespace

TEST_CASE("NullExperts does what the paper says, over sizes from the paper and odd ones") {
  oracle::Random random(30);
  CAPTURE(random.seed);
  const int sizes[][3] = {{8, 8, 3}, {8, 16, 4}, {8, 40, 7}, {4, 9, 4}, {4, 5, 2}, {1, 1, 1}, {3, 9, 11}, {5, 0, 2}};
  for (const auto& [experts, nulls, k] : sizes)
    for (const Null kind : {Null::zero, Null::identity})
      for (int i = 0; i < 200; ++i) {
        NullExperts<TopK> r = router_of(experts, nulls, k, kind);
        r.shift = static_cast<float>(random.between(-4, 4)) / 2;  // sums with multiples of 1/64 are exact
        check_against_paper(r, i % 4 == 0 ? router_laws::coarse_logits(random, moe::num_logits(r))
                                          : router_laws::distinct_logits(random, moe::num_logits(r)));
      }
}
TEST_CASE("a gate with copied columns routes as the trained one did, bit for bit") {
  oracle::Random random(32);
  int cases = 0;
  for (int copies = 1; copies <= 5; ++copies)
    for (int k0 = 1; k0 <= 3; ++k0)
      for (int i = 0; i < 250; ++i, ++cases) {
        CAPTURE(copies);
        CAPTURE(k0);
        const int experts = random.between(k0, 16);
        const std::vector<float> logits = router_laws::distinct_logits(random, experts);
        const auto before = choose(TopK{.experts = experts, .k = k0}, logits);
        const auto after =
            choose(router_of(experts, copies * experts, moe::null_picks(copies, k0)), with_copies(logits, copies));
        CHECK(ids(before) == ids(after));
        CHECK(bits(weights(before)) == bits(weights(after)));
      }
  CHECK(cases >= 3000);
}
TEST_CASE("null_picks gives the paper's configurations") {
  const int k[] = {3, 4, 5, 6, 7};
  for (int copies = 1; copies <= 5; ++copies) CHECK(moe::null_picks(copies, 2) == k[copies - 1]);
}
TEST_CASE("null_gate repeats the rows of the gate") {
  const std::vector<float> gate{1, 2, 3, 4, 5, 6};
  CHECK(moe::null_gate(view(gate, 2), 2) == std::vector<float>{1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6});
}

TEST_CASE("nulls at minus infinity leave the top k") {
  oracle::Random random(33);
  for (int i = 0; i < 100; ++i) {
    std::vector<float> logits = random.reals(8, 4);
    const auto expected = choose(TopK{.experts = 8, .k = 3}, logits);
    logits.resize(12, -infinity);
    const auto found = choose(router_of(8, 4, 3), logits);
    CHECK(ids(found) == ids(expected));
    CHECK(bits(weights(found)) == bits(weights(expected)));
  }
}
TEST_CASE("nulls at infinity leave no expert") {
  std::vector<float> logits{1, 2, 3, 4, 5, 6, 7, moe::largest_float};
  logits.resize(11, infinity);
  logits[7] = 8;
  CHECK(choose(router_of(8, 3, 3), logits).empty());
}
TEST_CASE("an expert comes before a null of the same logit") {
  CHECK(ids(choose(router_of(2, 2, 2), {1, 1, 1, 1})) == std::vector<int>{0, 1});
  CHECK(ids(choose(router_of(2, 2, 2, Null::identity), {0, 1, 1, 1})) == std::vector<int>{1, 2});
}
TEST_CASE("a null that the mask excludes takes no pick") {
  const std::uint32_t mask = 0b0011;
  CHECK(ids(choose(router_of(2, 2, 2), {0, 1, 9, 9}, -1, &mask)) == std::vector<int>{1, 0});
}
TEST_CASE("nothing but NaN gives the experts, as an expert comes before a null") {
  const std::vector<float> logits(6, not_a_number);
  CHECK(ids(choose(router_of(3, 3, 2), logits)) == std::vector<int>{0, 1});
  CHECK(weights(choose(router_of(3, 3, 2), logits)) == std::vector<float>{0, 0});
}
TEST_CASE("null ids leave the table, identity ids stay in it") {
  const moe::IdMap zero = moe::ids_of(router_of(8, 4, 3)), identity = moe::ids_of(router_of(8, 4, 3, Null::identity));
  CHECK((zero.networks == 8 && zero.identities == 0));
  CHECK((identity.networks == 8 && identity.identities == 4));
}
TEST_CASE("NullExperts refuses a router inside that makes too few choices") {
  const NullExperts<TopK> r{{.experts = 8, .k = 2}, 8, 3};
  CHECK(message_of([&] { r.check(); }).find("choices of the router inside") != std::string::npos);
  CHECK(message_of([&] { router_of(8, 8, 17).check(); }).find("1 to the 16 experts") != std::string::npos);
  CHECK(message_of([&] { router_of(8, 8, 3).check(); }).empty());
}

TEST_CASE("the load never grows with the shift") {
  const std::vector<float> logits = batch(400);
  NullExperts<TopK> r = router_of(8, 4, 3);
  double before = 3;
  for (r.shift = -10; r.shift <= 10; r.shift += 0.25f) {
    const double load = moe::load_of(r, view(logits, 12));
    CHECK(load <= before);
    before = load;
  }
  CHECK(before == 0);
}
TEST_CASE("shift_for_load reaches a load to within one pick per batch") {
  const std::vector<float> logits = batch(1000);
  NullExperts<TopK> r = router_of(8, 4, 3);
  for (const double load : {0.5, 1.66, 2.4}) {
    r.shift = moe::shift_for_load(r, view(logits, 12), load);
    const double found = moe::load_of(r, view(logits, 12));
    CHECK(found <= load);
    CHECK(found > load - 0.01);
  }
}
TEST_CASE("load_of counts what a table of the same rows holds") {
  const std::vector<float> logits = batch(50);
  const NullExperts<TopK> r = router_of(8, 4, 3, Null::identity);
  Table table(50, 3);
  int experts = 0;
  for (int t = 0; t < 50; ++t) {
    table.count[static_cast<std::size_t>(t)] =
        moe::select(r, moe::RouteContext<>{}.at(t, view(logits, 12).row(t)), moe::Row<moe::Slot>{&table.at(t, 0), 3});
    for (const oracle::Pick& p : table.picks(t)) experts += p.expert < 8 ? 1 : 0;
  }
  CHECK(moe::mean_experts(table.get(), moe::ids_of(r)) == experts / 50.0);
  CHECK(moe::load_of(r, view(logits, 12)) == doctest::Approx(experts / 50.0).epsilon(1e-12));
  CHECK(moe::mean_experts({}, {8, 0}) == 0);
}

// ---- properties

namespace {

struct Case {
  NullExperts<TopK> router;
  std::vector<float> logits;
};
/// Logits are multiples of a quarter, so there are ties, and sums with the shift are exact.
Case arbitrary_case() {
  const int experts = *rc::gen::inRange(1, 12), nulls = *rc::gen::inRange(0, 12);
  Case c{router_of(experts, nulls, *rc::gen::inRange(1, experts + nulls + 1)), {}};
  c.router.shift = static_cast<float>(*rc::gen::inRange(-8, 8)) / 4;
  const auto levels =
      *rc::gen::container<std::vector<int>>(static_cast<std::size_t>(experts + nulls), rc::gen::inRange(-12, 12));
  for (const int level : levels) c.logits.push_back(static_cast<float>(level) / 4);
  return c;
}

}  // namespace

TEST_CASE("nulls only remove choices: the rest is the beginning of the top k") {
  CHECK(rc::check([] {
    const Case c = arbitrary_case();
    const std::vector<int> found = ids(choose(c.router, c.logits));
    const std::vector<float> experts(c.logits.begin(), c.logits.begin() + moe::num_experts(c.router));
    const std::vector<int> all = ids(choose(c.router.inner, experts));
    RC_ASSERT(found.size() <= all.size());
    RC_ASSERT(std::equal(found.begin(), found.end(), all.begin()));
  }));
}
TEST_CASE("weights are the softmax of the experts that are left, bit for bit, whatever the nulls are") {
  CHECK(rc::check([] {
    const Case c = arbitrary_case();
    const std::vector<moe::Slot> found = choose(c.router, c.logits);
    if (found.empty()) return;
    const std::vector<float> experts(c.logits.begin(), c.logits.begin() + moe::num_experts(c.router));
    TopK alone = c.router.inner;
    alone.k = static_cast<int>(found.size());
    RC_ASSERT(bits(weights(found)) == bits(weights(choose(alone, experts))));
  }));
}
TEST_CASE("experts and nulls together take k picks") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    const std::size_t experts = choose(c.router, c.logits).size();
    c.router.kind = Null::identity;
    const std::vector<int> all = ids(choose(c.router, c.logits));
    RC_ASSERT(static_cast<int>(all.size()) == c.router.k);
    const auto is_expert = [&](int e) { return e < moe::num_experts(c.router); };
    RC_ASSERT(static_cast<std::size_t>(std::count_if(all.begin(), all.end(), is_expert)) == experts);
  }));
}
TEST_CASE("a larger shift never adds an expert") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    const std::size_t before = choose(c.router, c.logits).size();
    c.router.shift += static_cast<float>(*rc::gen::inRange(0, 20)) / 4;
    RC_ASSERT(choose(c.router, c.logits).size() <= before);
  }));
}
TEST_CASE("the order of the nulls does not matter to the experts") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    const std::vector<moe::Slot> before = choose(c.router, c.logits);
    std::reverse(c.logits.begin() + moe::num_experts(c.router), c.logits.end());
    const std::vector<moe::Slot> after = choose(c.router, c.logits);
    RC_ASSERT(ids(before) == ids(after));
    RC_ASSERT(bits(weights(before)) == bits(weights(after)));
  }));
}

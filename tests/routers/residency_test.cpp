// SkipAbsent and PreferResident: the router laws whatever is resident, against plain rules, and over a cache.
#include <algorithm>
#include <array>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/residency.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"
#include "../storage_fixture.hpp"

using moe::PreferResident;
using moe::SkipAbsent;
using moe::TopK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

constexpr int experts = 12;

/// `inner` in a call in which these experts are resident.
template <class Inner>
struct Seeing {
  Inner inner;
  std::uint32_t resident = 0;

  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    moe::RowContext seeing = row;
    seeing.resident_bits = &resident;
    return moe::select(inner, seeing, out);
  }
};
bool here(std::uint32_t resident, int e) { return (resident >> e & 1u) != 0; }

/// Calls f(mask) for none, all and some random sets of resident experts.
template <class F>
void for_residencies(const F& f) {
  oracle::Random random(31);
  CAPTURE(random.seed);
  f(0u);
  f(~0u);
  for (int i = 0; i < 6; ++i) f(static_cast<std::uint32_t>(random.engine()));
}

template <class R>
void keeps_the_laws(const R& router) {
  using namespace router_laws;
  is_a_plain_value(router);
  moe::check_options(router);
  for_residencies([&](std::uint32_t resident) {
    CAPTURE(resident);
    const Seeing<R> seeing{router, resident};
    ids_are_distinct_and_known(seeing);
    weights_are_finite_and_not_negative(seeing);
    fewer_slots_give_a_prefix(seeing);
    no_room_gives_no_slot(seeing);
    chooses_only_what_is_allowed(seeing);
    nothing_allowed_gives_nothing(seeing);
    answers_the_same_twice(seeing);
    the_row_of_the_batch_does_not_matter(seeing);
  });
}

template <class R, class Inner>
void equals_where_everything_is_resident(const R& router, const Inner& inner) {
  const auto same = [&](const std::vector<float>& logits) {
    const auto expected = choose(inner, logits), found = choose(router, logits);
    CHECK(ids(expected) == ids(found));
    CHECK(bits(weights(expected)) == bits(weights(found)));
  };
  router_laws::for_many_rows(inner, same);
  router_laws::for_broken_rows(inner, same);
}

/// Softmax over chosen logits, in double.
std::vector<double> softmax(const std::vector<float>& logits, const std::vector<int>& chosen) {
  std::vector<double> out;
  double sum = 0;
  for (const int e : chosen) sum += std::exp(static_cast<double>(logits[static_cast<std::size_t>(e)]));
  for (const int e : chosen) out.push_back(std::exp(static_cast<double>(logits[static_cast<std::size_t>(e)])) / sum);
  return out;
}
/// The ids with the k largest keys, ties to the lower id.
std::vector<int> largest(const std::vector<double>& keys, int k) {
  std::vector<int> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return keys[static_cast<std::size_t>(a)] > keys[static_cast<std::size_t>(b)]; });
  order.resize(static_cast<std::size_t>(k));
  return order;
}
void check_weights(const std::vector<moe::Slot>& found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(static_cast<double>(found[i].weight) == doctest::Approx(expected[i]).epsilon(1e-5));
}

const TopK top3{.experts = experts, .k = 3};
const TopK grouped{.experts = experts, .k = 3, .score = moe::Score::sigmoid, .groups = {.count = 4, .kept = 2}};
const TopK with_identities{.experts = 8, .k = 3, .identities = 4};

}  // namespace

TEST_CASE("SkipAbsent keeps the router laws whatever is resident") {
  keeps_the_laws(SkipAbsent<TopK>{top3, 0.3f});
  keeps_the_laws(SkipAbsent<TopK>{top3, 0.3f, false});
  keeps_the_laws(SkipAbsent<TopK>{grouped, 0.35f});
  keeps_the_laws(SkipAbsent<moe::NullExperts<TopK>>{{{.experts = 8, .k = 3}, 4, 3}, 0.3f});
  keeps_the_laws(SkipAbsent<PreferResident<TopK>>{{top3, 1}, 0.3f});
}
TEST_CASE("PreferResident keeps the router laws whatever is resident") {
  keeps_the_laws(PreferResident<TopK>{top3, 1.5f});
  keeps_the_laws(PreferResident<TopK>{.inner = top3, .share = 0.25f, .always = 2});
  keeps_the_laws(PreferResident<TopK>{grouped, 2});
  keeps_the_laws(PreferResident<TopK>{with_identities, 2, 0, 1});
}
TEST_CASE("where everything is resident, both are their inner router, bit for bit") {
  for (const TopK& inner : {top3, grouped, with_identities}) {
    equals_where_everything_is_resident(SkipAbsent<TopK>{inner, 0.9f}, inner);
    equals_where_everything_is_resident(PreferResident<TopK>{inner, 3, 0.5f, 1}, inner);
  }
}
TEST_CASE("both ask for residency beside what their inner router asks for") {
  CHECK(moe::contains(moe::uses_of<SkipAbsent<TopK>>(), moe::Uses::residency));
  CHECK(moe::contains(moe::uses_of<PreferResident<TopK>>(), moe::Uses::residency));
}

TEST_CASE("SkipAbsent drops absent choices of a small share of the weight so far, and weighs the rest alone") {
  oracle::Random random(32);
  CAPTURE(random.seed);
  int dropped = 0;
  for (int i = 0; i < 500; ++i) {
    const std::vector<float> logits = router_laws::distinct_logits(random, experts);
    const auto resident = static_cast<std::uint32_t>(random.engine());
    const std::vector<int> chosen = largest({logits.begin(), logits.end()}, 4);
    const std::vector<double> w = softmax(logits, chosen);
    std::vector<int> kept;
    double so_far = 0;
    for (std::size_t c = 0; c < chosen.size(); ++c) {
      so_far += w[c];
      if (c == 0 || here(resident, chosen[c]) || w[c] >= 0.25 * so_far) kept.push_back(chosen[c]);
    }
    dropped += 4 - static_cast<int>(kept.size());
    const auto found = choose(Seeing<SkipAbsent<TopK>>{{{.experts = experts, .k = 4}, 0.25f}, resident}, logits);
    REQUIRE(ids(found) == kept);
    check_weights(found, softmax(logits, kept));
  }
  CHECK(dropped > 100);
}
TEST_CASE("SkipAbsent without renormalising leaves the weights of what stays as they were") {
  const std::vector<float> logits{3, 2, 1, 0};
  const TopK inner{.experts = 4, .k = 3};
  const auto all = choose(inner, logits);
  const auto found = choose(Seeing<SkipAbsent<TopK>>{{inner, 0.5f, false}, 0b0100u}, logits);
  CHECK(ids(found) == std::vector<int>{0, 2});
  CHECK(found[0].weight == all[0].weight);
  CHECK(found[1].weight == all[2].weight);
}
TEST_CASE("what SkipAbsent drops has less than the given share of the row's weight") {
  oracle::Random random(33);
  const TopK inner{.experts = experts, .k = 4};
  router_laws::for_many_rows(inner, [&](const std::vector<float>& logits) {
    const auto all = choose(inner, logits);
    const auto kept = ids(choose(Seeing<SkipAbsent<TopK>>{{inner, 0.3f}, 0u}, logits));
    for (const moe::Slot& s : all)
      if (std::find(kept.begin(), kept.end(), s.expert) == kept.end()) CHECK(s.weight < 0.3f);
  });
}

TEST_CASE("PreferResident chooses by logits with a bonus on resident experts and weighs by those without") {
  oracle::Random random(34);
  CAPTURE(random.seed);
  int moved = 0;
  for (int i = 0; i < 500; ++i) {
    const std::vector<float> logits = router_laws::distinct_logits(random, experts);
    const auto resident = static_cast<std::uint32_t>(random.engine());
    std::vector<double> keys(logits.begin(), logits.end());
    for (int e = 0; e < experts; ++e) keys[static_cast<std::size_t>(e)] += here(resident, e) ? 1.0 : 0.0;
    const auto found = choose(Seeing<PreferResident<TopK>>{{top3, 1}, resident}, logits);
    REQUIRE(ids(found) == largest(keys, 3));
    check_weights(found, softmax(logits, ids(found)));
    moved += ids(found) != ids(choose(top3, logits));
  }
  CHECK(moved > 50);
}
TEST_CASE("PreferResident's share is of the row's range of logits") {
  oracle::Random random(35);
  for (int i = 0; i < 200; ++i) {
    const std::vector<float> logits = router_laws::distinct_logits(random, experts);
    const auto resident = static_cast<std::uint32_t>(random.engine());
    const auto [low, high] = std::minmax_element(logits.begin(), logits.end());
    const PreferResident<TopK> by_share{.inner = top3, .share = 0.25f}, by_bonus{top3, 0.25f * (*high - *low)};
    CHECK(ids(choose(Seeing<PreferResident<TopK>>{by_share, resident}, logits)) ==
          ids(choose(Seeing<PreferResident<TopK>>{by_bonus, resident}, logits)));
  }
}
TEST_CASE("a bonus that outweighs every logit takes resident experts first, and the choices that always stay") {
  const std::vector<float> logits{5, 4, 3, 2, 1, 0};
  const TopK inner{.experts = 6, .k = 3};
  const std::uint32_t resident = 0b110000;
  const auto chosen = [&](int always) {
    std::vector<int> found = ids(choose(Seeing<PreferResident<TopK>>{{inner, 100, 0, always}, resident}, logits));
    std::sort(found.begin(), found.end());
    return found;
  };
  CHECK(chosen(0) == std::vector<int>{0, 4, 5});
  CHECK(chosen(1) == std::vector<int>{0, 4, 5});
  CHECK(chosen(2) == std::vector<int>{0, 1, 4});
  CHECK(chosen(3) == std::vector<int>{0, 1, 2});
}
TEST_CASE("an absent expert with a logit stays ahead of one whose logit is not a number") {
  const auto found = choose(Seeing<PreferResident<TopK>>{{{.experts = 3, .k = 3}, 5}, 0b001u},
                            std::vector<float>{not_a_number, 1, not_a_number});
  CHECK(ids(found) == std::vector<int>{1, 0, 2});
}
TEST_CASE("PreferResident of thousands of experts chooses as on a row of lowered logits") {
  constexpr int many = 3000;
  oracle::Random random(36);
  const TopK inner{.experts = many, .k = 5};
  std::vector<std::uint32_t> resident(static_cast<std::size_t>(many + 31) / 32);
  for (int i = 0; i < 20; ++i) {
    for (std::uint32_t& word : resident) word = static_cast<std::uint32_t>(random.engine());
    const std::vector<float> logits = random.reals(many, 8);
    const auto is_here = [&](std::size_t e) { return (resident[e / 32] >> (e % 32) & 1u) != 0; };
    std::vector<float> lowered = logits;
    const std::vector<int> first = ids(choose(inner, logits, 2));
    for (std::size_t e = 0; e < many; ++e)
      if (!is_here(e) && std::find(first.begin(), first.end(), static_cast<int>(e)) == first.end()) lowered[e] -= 1.5f;
    std::vector<moe::Slot> found(5);
    moe::RowContext context;
    context.logits = {logits.data(), many};
    context.resident_bits = resident.data();
    REQUIRE(moe::select(PreferResident<TopK>{inner, 1.5f, 0, 2}, context, {found.data(), 5}) == 5);
    CHECK(ids(found) == ids(choose(inner, lowered)));
    check_weights(found, softmax(logits, ids(found)));
  }
}
TEST_CASE("PreferResident refuses options below zero, and more spared choices than it has room for") {
  CHECK_THROWS_AS(moe::check_options(PreferResident<TopK>{top3, -1}), moe::Error);
  CHECK_THROWS_AS(moe::check_options(PreferResident<TopK>{top3, 1, -1}), moe::Error);
  CHECK_THROWS_AS(moe::check_options(PreferResident<TopK>{top3, 1, 0, -1}), moe::Error);
  const std::string both = message_of([] { moe::check_options(PreferResident<TopK>{{.experts = 4, .k = -1}, -1}); });
  CHECK(both.find("moe::PreferResident") == 0);  // the outermost router is asked first
  CHECK_THROWS_AS(moe::check_options(PreferResident<TopK>{{.experts = 4, .k = -1}, 1}), moe::Error);
  CHECK_NOTHROW(moe::check_options(PreferResident<TopK>{top3, 1, 0, 16}));
  CHECK(message_of([] {
          moe::check_options(PreferResident<TopK>{top3, 1, 0, 17});
        }) == "moe::PreferResident: always: expected 0 to 16, found 17");
}

// ---- over a cache

namespace {

/// One row of logits [experts] over a cache of which some experts are resident, and over all of them.
struct OverCache {
  static constexpr moe::ExpertShape shape{40, 23};
  using Source = fixture::Planned<moe::Packed<moe::bf16>>;

  explicit OverCache(std::initializer_list<moe::ExpertId> resident) : cached(cache, source) {
    std::vector<moe::ExpertNeed> needs;
    for (const moe::ExpertId e : resident) needs.push_back({e, 1, 1, 0});
    cached.expect(needs);
  }
  template <class Router, class Storage>
  std::vector<float> output(const Router& router, Storage storage, const std::vector<float>& logits) const {
    const moe::MoELayer layer{moe::NoGate{}, router, std::move(storage), moe::Cpu{.threads = 1}};
    moe::Workspace ws{layer.workspace(1)};
    std::vector<float> y(static_cast<std::size_t>(shape.hidden));
    moe::Call<> call{.x = in.view(), .y = {y.data(), 1, shape.hidden}};
    call.logits = {logits.data(), 1, experts};
    layer.forward(call, ws);
    return y;
  }

  fixture::RandomExperts weights{shape, experts, 41};
  fixture::Inputs in{1, shape.hidden, experts, 42};
  fixture::Plan plan;
  Source source{weights.packed<moe::bf16>(), &plan};
  moe::ExpertCache cache{{.bytes = experts * moe::page_alignment * 4}};
  moe::Cached<Source> cached;
};

}  // namespace

TEST_CASE("over a cache, a light choice that is absent is not read, and the output is that of the others") {
  const OverCache c{0, 1};
  const std::vector<float> logits{3, 2.5f, 0, -9, -9, -9, -9, -9, -9, -9, -9, -9};
  const auto found = c.output(SkipAbsent<TopK>{top3, 0.1f}, c.cached, logits);
  CHECK(c.plan.reads == 2);
  CHECK(found == c.output(TopK{.experts = experts, .k = 2}, moe::Resident{c.source}, logits));
}
TEST_CASE("over a cache, a heavy choice that is absent is read") {
  const OverCache c{0};
  const std::vector<float> logits{3, 2.5f, 2, -9, -9, -9, -9, -9, -9, -9, -9, -9};
  const auto found = c.output(SkipAbsent<TopK>{top3, 0.1f}, c.cached, logits);
  CHECK(c.plan.reads == 3);
  CHECK(found == c.output(top3, moe::Resident{c.source}, logits));
}
TEST_CASE("over a cache, a resident expert is preferred to an absent one that is little better") {
  const OverCache c{0, 1, 4};
  const std::vector<float> logits{3, 2.5f, 2, -9, 1.5f, -9, -9, -9, -9, -9, -9, -9};
  std::vector<float> without_2 = logits;
  without_2[2] = -9;
  const auto found = c.output(PreferResident<TopK>{top3, 1}, c.cached, logits);
  CHECK(c.plan.reads == 3);
  CHECK(found == c.output(top3, moe::Resident{c.source}, without_2));
}

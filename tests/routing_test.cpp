// Tables by token and by expert, needs, contexts and their slices.
#include <moe/routing.hpp>
#include <set>
#include <vector>

#include "problem.hpp"

namespace {

using moe::Dispatch;
using moe::ExpertNeed;
using moe::IdMap;

struct Grouped {
  std::vector<int> offset, entry, row;
};
Grouped group(Table& table, IdMap ids) {
  Grouped g{std::vector<int>(static_cast<std::size_t>(ids.networks) + 1, -5),
            std::vector<int>(table.slots_of_all.size(), -5), std::vector<int>(table.slots_of_all.size(), -5)};
  Dispatch<> d{g.offset.data(), g.entry.data(), g.row.data()};
  moe::group_by_expert(table.get(), ids, d);
  return g;
}
/// The entries of each expert, found by looking at all of them.
std::vector<std::vector<int>> naive(Table& table, IdMap ids) {
  std::vector<std::vector<int>> entries(static_cast<std::size_t>(ids.networks));
  for (int t = 0; t < static_cast<int>(table.count.size()); ++t)
    for (int k = 0; k < table.count[static_cast<std::size_t>(t)]; ++k)
      if (ids.network(table.at(t, k).expert))
        entries[static_cast<std::size_t>(table.at(t, k).expert)].push_back(t * table.columns + k);
  return entries;
}
std::vector<ExpertNeed> needs(Table& table, IdMap ids) {
  Grouped g = group(table, ids);
  std::vector<ExpertNeed> all(static_cast<std::size_t>(ids.networks));
  const auto found = moe::collect_needs(table.get(), ids, {g.offset.data(), g.entry.data(), g.row.data()}, all.data());
  return {found.begin(), found.end()};
}
Table two_tokens() {
  Table table(2, 3);
  table.at(0, 0) = {2, 0.5f};
  table.at(0, 1) = {0, 0.25f};
  table.at(0, 2) = {-1, 0.125f};
  table.at(1, 0) = {3, 0.75f};
  table.at(1, 1) = {2, 0.125f};
  table.at(1, 2) = {0, 0.0625f};
  return table;
}
/// Ids from -2 to two beyond the experts, counts from 0 to all.
Table wild_table(oracle::Random& random, int tokens, int slots, int experts) {
  Table table(tokens, slots);
  for (int t = 0; t < tokens; ++t) {
    table.count[static_cast<std::size_t>(t)] = random.between(0, slots);
    for (int k = 0; k < slots; ++k) table.at(t, k) = {random.between(-2, experts + 1), random.real()};
  }
  return table;
}

}  // namespace

TEST_CASE("grouping lists the entries of each expert in token order") {
  oracle::Random random(61);
  CAPTURE(random.seed);
  for (int i = 0; i < 300; ++i) {
    const int experts = random.between(1, 40);
    Table table = wild_table(random, random.between(0, 20), random.between(1, 5), experts);
    const Grouped g = group(table, {experts, 1});
    std::vector<std::vector<int>> found;
    for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e)
      found.emplace_back(g.entry.begin() + g.offset[e], g.entry.begin() + g.offset[e + 1]);
    CHECK(found == naive(table, {experts, 1}));
  }
}
TEST_CASE("grouping tells the token of every entry") {
  Table table = two_tokens();
  const Grouped g = group(table, {4, 0});
  CHECK(g.entry == std::vector<int>{1, 5, 0, 4, 3, -5});
  CHECK(g.row == std::vector<int>{0, 1, 0, 1, 1, -5});
}
TEST_CASE("grouping no tokens gives every expert nothing") {
  Table table(0, 2);
  CHECK(group(table, {3, 0}).offset == std::vector<int>{0, 0, 0, 0});
}
TEST_CASE("grouping takes a table without counts as full") {
  Table table = two_tokens();
  moe::RoutingTable<> full = table.get();
  full.count = nullptr;
  std::vector<int> offset(5), entry(6), row(6);
  Dispatch<> d{offset.data(), entry.data(), row.data()};
  moe::group_by_expert(full, {4, 0}, d);
  CHECK(offset == std::vector<int>{0, 2, 2, 4, 5});
}

TEST_CASE("needs name the experts that have rows, by id") {
  Table table = two_tokens();
  std::vector<int> ids;
  for (const ExpertNeed& need : needs(table, {4, 0})) ids.push_back(need.expert);
  CHECK(ids == std::vector<int>{0, 2, 3});
}
TEST_CASE("needs count rows") {
  Table table = two_tokens();
  CHECK(needs(table, {4, 0})[1].rows == 2);
}
TEST_CASE("needs tell the largest weight") {
  Table table = two_tokens();
  CHECK(needs(table, {4, 0})[1].largest_weight == 0.5f);
}
TEST_CASE("needs tell the smallest share of a row's weight ahead") {
  Table table = two_tokens();
  CHECK(needs(table, {4, 0})[0].mass_ahead == 0.5f / 0.875f);
  CHECK(needs(table, {4, 0})[1].mass_ahead == 0.0f);
}
TEST_CASE("needs of negative weights are their largest") {
  Table table(1, 1);
  table.at(0, 0) = {0, -2};
  CHECK(needs(table, {1, 0})[0].largest_weight == -2);
}

// ---- contexts

TEST_CASE("a row without positions stands at its number in the whole call") {
  moe::RouteContext<> context;
  context.first_row = 5;
  CHECK(context.at(2, {}).position == 7);
}
TEST_CASE("a row knows its token, rule and position") {
  const int tokens[] = {7, 8}, rules[] = {1, 2}, positions[] = {30, 40}, modalities[] = {0, 1}, picks[] = {4, 3};
  moe::RouteContext<> context;
  context.tokens = tokens;
  context.rules = rules;
  context.positions = positions;
  context.modalities = modalities;
  context.picks = picks;
  const moe::RowContext row = context.at(1, {});
  CHECK(row.token == 8);
  CHECK(row.rule == 2);
  CHECK(row.position == 40);
  CHECK(row.modality == 1);
  CHECK(row.picks == 3);
}
TEST_CASE("a row is no decode step unless somebody says so") {
  CHECK_FALSE(moe::RowContext{}.decode);
  CHECK_FALSE(moe::RouteContext<>{}.at(0, {}).decode);
}
TEST_CASE("a row of a call that says nothing of it is text and as free as the call") {
  const moe::RowContext row = moe::RouteContext<>{}.at(3, {});
  CHECK(row.token == -1);
  CHECK(row.rule == 0);
  CHECK(row.modality == 0);
  CHECK(row.picks < 0);
}
TEST_CASE("rows of a slice are the rows of the whole") {
  const int tokens[] = {7, 8, 9}, rules[] = {4, 5, 6}, positions[] = {30, 40, 50}, modalities[] = {2, 0, 1};
  const int picks[] = {3, 2, 1};
  const std::uint32_t allowed = 5, resident = 6;
  moe::RouteContext<> context;
  context.tokens = tokens;
  context.rules = rules;
  context.positions = positions;
  context.modalities = modalities;
  context.picks = picks;
  context.seed = 3;
  context.decode = true;
  context.allowed = &allowed;
  context.resident = &resident;
  context.first_row = 10;
  const moe::RowContext whole = context.at(2, {}), part = context.slice(1).at(1, {});
  CHECK(part.row == whole.row);
  CHECK(part.token == whole.token);
  CHECK(part.rule == whole.rule);
  CHECK(part.position == whole.position);
  CHECK(part.modality == whole.modality);
  CHECK(part.picks == whole.picks);
  CHECK(part.random(0) == whole.random(0));
  CHECK(part.decode);
  CHECK(part.allowed_bits == &allowed);
  CHECK(part.resident_bits == &resident);
}
TEST_CASE("random numbers of rows lie in [0, 1)") {
  moe::RowContext row;
  for (row.position = 0; row.position < 2000; ++row.position) CHECK((row.random(1) >= 0 && row.random(1) < 1));
}
TEST_CASE("random numbers of rows differ by seed, position and salt") {
  std::set<float> seen;
  moe::RowContext row;
  for (row.seed = 0; row.seed < 4; ++row.seed)
    for (row.position = 0; row.position < 4; ++row.position)
      for (std::uint32_t salt = 0; salt < 4; ++salt) seen.insert(row.random(salt));
  CHECK(seen.size() > 60);  // 64 draws out of 2^24: two equal ones have probability 1e-4
}
TEST_CASE("random numbers of rows have a mean of one half") {
  moe::RowContext row;
  double sum = 0;
  for (row.position = 0; row.position < 10000; ++row.position) sum += static_cast<double>(row.random(0));
  CHECK(std::fabs(sum / 10000 - 0.5) < 5 * std::sqrt(1.0 / 12 / 10000));  // five standard deviations
}
TEST_CASE("without a mask every expert may be used") { CHECK(moe::RowContext{}.may_use(1000)); }
TEST_CASE("a mask has a bit for each expert") {
  const std::uint32_t mask[] = {0, 2};
  moe::RowContext row;
  row.allowed_bits = mask;
  CHECK(row.may_use(33));
  CHECK_FALSE(row.may_use(32));
}

// ---- ids of routers inside others

TEST_CASE("ids of an inner router are the outer ones that they were renamed to") {
  const moe::ExpertId to[] = {33, -1, 0};
  const moe::InnerIds ids{.to = {to, 3}};
  const std::uint32_t mask[] = {0, 2};  // 33 alone
  moe::RowContext row;
  row.allowed_bits = row.resident_bits = mask;
  row.ids = &ids;
  CHECK(row.may_use(0));
  CHECK_FALSE(row.may_use(1));
  CHECK_FALSE(row.may_use(2));
  CHECK(row.may_use(3));  // behind the renamed ones
  CHECK(row.is_resident(0));
  CHECK_FALSE(row.is_resident(1));
  CHECK_FALSE(row.is_resident(2));
  CHECK(row.is_resident(3));
}
TEST_CASE("ranges and renamings of several routers apply one after the other") {
  const moe::ExpertId outer_to[] = {2, 1, 0}, inner_to[] = {0, 1, 2};
  const moe::InnerIds outer{.to = {outer_to, 3}}, range{.first = 0, .end = 2, .outer = &outer};
  const moe::InnerIds inner{.to = {inner_to, 3}, .outer = &range};
  const std::uint32_t mask = 4;  // 2 alone
  moe::RowContext row;
  row.allowed_bits = &mask;
  row.ids = &inner;
  CHECK(row.may_use(0));        // 0 -> in the range -> 2
  CHECK_FALSE(row.may_use(1));  // 1 -> in the range -> 1
  CHECK_FALSE(row.may_use(2));  // outside the range
}
TEST_CASE("every expert is resident where nobody knows, those that a renaming drops included") {
  CHECK(moe::RowContext{}.is_resident(1000));
  const std::vector<moe::ExpertId> to{-1, 0};
  const moe::InnerIds ids{.to = {to.data(), 2}};
  moe::RowContext row;
  row.ids = &ids;
  CHECK(row.is_resident(0));
  const std::uint32_t all = ~0u;
  row.resident_bits = &all;
  CHECK_FALSE(row.is_resident(0));
  CHECK(row.is_resident(1));
}
TEST_CASE("lowered logits are those of absent experts, but for the spared ones") {
  const float values[] = {1, 2, 3, 4, not_a_number};
  const std::uint32_t here = 1;
  moe::RowContext row;
  row.resident_bits = &here;
  const moe::ExpertId spared[] = {2};
  const moe::LoweredLogits lowered{&row, 8, 4, {spared, 1}};
  const moe::LogitRow logits{moe::LogitRow(values, 5), &lowered};
  CHECK(logits[0] == 1);   // here
  CHECK(logits[1] == -6);  // absent
  CHECK(logits[2] == 3);   // spared
  CHECK(logits[3] == -4);
  CHECK(std::isnan(logits[4]));  // no expert
  CHECK(logits.first(2).size() == 2);
  CHECK(logits.first(2)[1] == -6);
}

// ---- columns

TEST_CASE("a column's random numbers are those of its rows, wherever the chunk begins") {
  const int entries[] = {1, 2}, positions[] = {7, 30};
  moe::Slot slots[4];
  for (const int* at : {static_cast<const int*>(nullptr), positions}) {
    moe::RouteContext<> context;
    context.seed = 9;
    context.first_row = 5;
    context.positions = at;
    const moe::Column column{.expert = 0,
                             .entries = {entries, 2},
                             .slots = {slots, 4},
                             .slots_per_row = 2,
                             .tokens = 2,
                             .first_row = 5,
                             .seed = 9,
                             .positions = at};
    for (int i = 0; i < 2; ++i) CHECK(column.random(i, 3) == context.at(column.token(i), {}).random(3));
  }
}
TEST_CASE("a dropped choice says who was chosen and is no expert") {
  for (const int e : {0, 1, 500}) {
    CHECK(moe::is_dropped(moe::dropped(e)));
    CHECK(moe::dropped(moe::dropped(e)) == e);
    CHECK_FALSE(moe::IdMap{1000, 10}.network(moe::dropped(e)));
    CHECK_FALSE(moe::IdMap{1000, 10}.identity(moe::dropped(e)));
  }
  CHECK_FALSE(moe::is_dropped(-1));
  CHECK_FALSE(moe::is_dropped(moe::Slot{}.expert));
  CHECK_FALSE(moe::IdMap{1000, 10}.network(moe::Slot{}.expert));
}

TEST_CASE("a slice of a table keeps its counts") {
  Table table = two_tokens();
  table.count = {1, 2};
  CHECK(table.get().slice(1, 1).size(0) == 2);
}
TEST_CASE("sets of uses contain what they were made of") {
  constexpr moe::Uses both = moe::Uses::tokens | moe::Uses::residency;
  CHECK(moe::contains(both, moe::Uses::residency));
  CHECK_FALSE(moe::contains(both, moe::Uses::rules));
}

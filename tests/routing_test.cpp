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
  const int tokens[] = {7, 8}, rules[] = {1, 2}, positions[] = {30, 40};
  moe::RouteContext<> context;
  context.tokens = tokens;
  context.rules = rules;
  context.positions = positions;
  const moe::RowContext row = context.at(1, {});
  CHECK(row.token == 8);
  CHECK(row.rule == 2);
  CHECK(row.position == 40);
}
TEST_CASE("rows of a slice are the rows of the whole") {
  const int tokens[] = {7, 8, 9}, positions[] = {30, 40, 50};
  moe::RouteContext<> context;
  context.tokens = tokens;
  context.positions = positions;
  context.seed = 3;
  const moe::RowContext whole = context.at(2, {}), part = context.slice(1).at(1, {});
  CHECK(part.row == whole.row);
  CHECK(part.token == whole.token);
  CHECK(part.random(0) == whole.random(0));
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
  row.allowed = mask;
  CHECK(row.may_use(33));
  CHECK_FALSE(row.may_use(32));
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

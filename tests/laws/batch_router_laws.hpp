// What every router that sees the whole batch must do. Each law takes a router and is one fact.
#pragma once

#include <moe/concepts.hpp>
#include <set>
#include <vector>

#include "problem.hpp"

namespace batch_router_laws {

/// The table of one call; its memory holds NaN and strange ids before.
template <class R>
Table route(const R& router, const std::vector<float>& logits, const std::uint32_t* allowed = nullptr) {
  const auto all = view(logits, moe::num_logits(router));
  Table table(all.rows, moe::max_slots(router));
  for (moe::Slot& s : table.slots_of_all) s = {-77, not_a_number};
  table.count.assign(table.count.size(), -9);
  moe::RouteContext<> context;
  context.allowed = allowed;
  moe::RoutingTable<> t = table.get();
  router.route(context, all, t);
  return table;
}
inline std::vector<std::vector<moe::Slot>> rows(const Table& table) {
  std::vector<std::vector<moe::Slot>> out;
  for (std::size_t t = 0; t < table.count.size(); ++t) {
    const auto first = table.slots_of_all.begin() + static_cast<std::ptrdiff_t>(t) * table.columns;
    out.emplace_back(first, first + table.count[t]);
  }
  return out;
}
inline std::vector<int> loads(const Table& table, int experts) {
  std::vector<int> out(static_cast<std::size_t>(experts));
  for (const auto& row : rows(table))
    for (const moe::Slot& s : row) ++out[static_cast<std::size_t>(s.expert)];
  return out;
}

template <class R>
bool is_sound(const R& router, const Table& table) {
  for (std::size_t t = 0; t < table.count.size(); ++t)
    if (table.count[t] < 0 || table.count[t] > table.columns) return false;
  for (const auto& row : rows(table)) {
    std::set<int> seen;
    for (const moe::Slot& s : row)
      if (s.expert < 0 || s.expert >= moe::num_experts(router) || !seen.insert(s.expert).second ||
          !std::isfinite(s.weight) || s.weight < 0)
        return false;
  }
  return true;
}

/// Distinct ids in range, finite weights, a sound count: for ordinary batches, for ties, and for NaN and infinities.
template <class R>
void survives_every_batch(const R& router) {
  oracle::Random random(740);
  CAPTURE(random.seed);
  const float strange[] = {not_a_number, infinity, -infinity, std::numeric_limits<float>::max()};
  for (int i = 0; i < 300; ++i) {
    CAPTURE(i);
    std::vector<float> logits = random.reals(random.between(0, 20) * moe::num_logits(router), 4);
    for (float& l : logits) {
      if (i % 3 == 1) l = static_cast<float>(random.between(-1, 1));
      if (i % 3 == 2 && random.coin()) l = strange[random.below(4)];
    }
    CHECK(is_sound(router, route(router, logits)));
  }
  CHECK(is_sound(
      router, route(router, std::vector<float>(static_cast<std::size_t>(7 * moe::num_logits(router)), not_a_number))));
}
template <class R>
void uses_only_what_is_allowed(const R& router) {
  oracle::Random random(741);
  REQUIRE(moe::num_experts(router) <= 32);
  for (int i = 0; i < 100; ++i) {
    const auto mask = static_cast<std::uint32_t>(random.engine());
    for (const auto& row : rows(route(router, random.reals(9 * moe::num_logits(router), 4), &mask)))
      for (const moe::Slot& s : row) CHECK((mask >> s.expert & 1u) == 1u);
  }
  const std::uint32_t nobody = 0;
  for (const auto& row : rows(route(router, random.reals(9 * moe::num_logits(router), 4), &nobody))) CHECK(row.empty());
}
/// With logits that are all different, the rows' answers move with the rows.
template <class R>
void permuting_rows_permutes_the_answer(const R& router) {
  oracle::Random random(742);
  const int n = moe::num_logits(router), tokens = 12;
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(tokens * n, 4);
    std::vector<int> to(tokens);
    for (int t = 0; t < tokens; ++t) to[static_cast<std::size_t>(t)] = t;
    std::shuffle(to.begin(), to.end(), random.engine);
    std::vector<float> moved(logits.size());
    for (int t = 0; t < tokens; ++t)
      std::copy_n(logits.begin() + t * n, n, moved.begin() + to[static_cast<std::size_t>(t)] * n);
    const auto before = rows(route(router, logits)), after = rows(route(router, moved));
    for (std::size_t t = 0; t < before.size(); ++t) {
      const auto &a = before[t], &b = after[static_cast<std::size_t>(to[t])];
      REQUIRE(a.size() == b.size());
      for (std::size_t k = 0; k < a.size(); ++k) CHECK(a[k].expert == b[k].expert);
    }
  }
}

}  // namespace batch_router_laws

// Laws of BaseLayers: balance, and the value of its assignment against the best of all.
#include <moe/routers/base_layers.hpp>

#include "../laws/batch_router_laws.hpp"
#include "../layer_support.hpp"

using batch_router_laws::loads;
using batch_router_laws::route;
using batch_router_laws::rows;
using moe::BaseLayers;

namespace {

double value_of(const Table& table, const std::vector<float>& logits, int experts) {
  double sum = 0;
  for (std::size_t t = 0; t < table.count.size(); ++t)
    sum += static_cast<double>(
        logits[t * static_cast<std::size_t>(experts) + static_cast<std::size_t>(rows(table)[t][0].expert)]);
  return sum;
}

/// The best sum over all assignments of rows [t, T) with so many places left, by trying everything.
double best_of_all(const std::vector<float>& logits, std::vector<int>& places, std::size_t t = 0) {
  const std::size_t experts = places.size();
  if (t * experts == logits.size()) return 0;
  double best = -HUGE_VAL;
  for (std::size_t e = 0; e < experts; ++e) {
    if (places[e] == 0) continue;
    --places[e];
    best = std::max(best, static_cast<double>(logits[t * experts + e]) + best_of_all(logits, places, t + 1));
    ++places[e];
  }
  return best;
}

/// The Hungarian method on rows x places (Kuhn 1955, in the form with potentials; O(n^3)).
double hungarian(const std::vector<float>& logits, int experts, int per_expert) {
  const int n = static_cast<int>(logits.size()) / experts;
  REQUIRE(n == experts * per_expert);
  const auto cost = [&](int i, int j) {
    return -static_cast<double>(logits[static_cast<std::size_t>((i - 1) * experts + (j - 1) / per_expert)]);
  };
  const auto size = static_cast<std::size_t>(n) + 1;
  std::vector<double> u(size), v(size);
  std::vector<int> match(size), way(size);
  for (int i = 1; i <= n; ++i) {
    match[0] = i;
    int j0 = 0;
    std::vector<double> least(size, HUGE_VAL);
    std::vector<char> used(size);
    do {
      used[static_cast<std::size_t>(j0)] = 1;
      const int i0 = match[static_cast<std::size_t>(j0)];
      double delta = HUGE_VAL;
      int j1 = 0;
      for (int j = 1; j <= n; ++j) {
        const auto at = static_cast<std::size_t>(j);
        if (used[at] != 0) continue;
        const double reduced = cost(i0, j) - u[static_cast<std::size_t>(i0)] - v[at];
        if (reduced < least[at]) {
          least[at] = reduced;
          way[at] = j0;
        }
        if (least[at] < delta) {
          delta = least[at];
          j1 = j;
        }
      }
      for (std::size_t j = 0; j < size; ++j) {
        if (used[j] != 0) {
          u[static_cast<std::size_t>(match[j])] += delta;
          v[j] -= delta;
        } else {
          least[j] -= delta;
        }
      }
      j0 = j1;
    } while (match[static_cast<std::size_t>(j0)] != 0);
    while (j0 != 0) {
      const int j1 = way[static_cast<std::size_t>(j0)];
      match[static_cast<std::size_t>(j0)] = match[static_cast<std::size_t>(j1)];
      j0 = j1;
    }
  }
  double sum = 0;
  for (int j = 1; j <= n; ++j) sum -= cost(match[static_cast<std::size_t>(j)], j);
  return sum;
}

}  // namespace

TEST_CASE("BaseLayers gives sound rows for every batch") {
  batch_router_laws::survives_every_batch(BaseLayers{.experts = 6});
  batch_router_laws::survives_every_batch(BaseLayers{.experts = 1});
}
TEST_CASE("BaseLayers uses only allowed experts") {
  batch_router_laws::uses_only_what_is_allowed(BaseLayers{.experts = 9});
}
TEST_CASE("BaseLayers gives every expert the same number of rows") {
  oracle::Random random(760);
  CAPTURE(random.seed);
  for (int i = 0; i < 100; ++i) {
    const int experts = random.between(1, 8), each = random.between(1, 9);
    std::vector<float> logits = random.reals(experts * each * experts, 4);
    if (i % 2 == 0)
      for (std::size_t n = 0; n < logits.size(); n += static_cast<std::size_t>(experts))
        logits[n] += 8;  // all want one
    for (const int load : loads(route(BaseLayers{.experts = experts}, logits), experts)) CHECK(load == each);
  }
}
TEST_CASE("BaseLayers gives no expert more than its share of rows that cannot be shared evenly") {
  oracle::Random random(761);
  for (int tokens = 1; tokens < 20; ++tokens)
    for (const int load : loads(route(BaseLayers{.experts = 4}, random.reals(tokens * 4, 4)), 4))
      CHECK(load <= (tokens + 3) / 4);
}
TEST_CASE("BaseLayers is within T epsilon of the best of all assignments of few rows") {
  oracle::Random random(762);
  CAPTURE(random.seed);
  for (int i = 0; i < 200; ++i) {
    const int experts = random.between(1, 4), tokens = random.between(1, 8);
    std::vector<float> logits = random.reals(tokens * experts, 4);
    if (i % 3 == 0)
      for (float& l : logits) l = std::floor(l);  // ties
    for (const float epsilon : {0.001f, 0.1f, 1.0f}) {
      std::vector<int> places(static_cast<std::size_t>(experts), (tokens + experts - 1) / experts);
      const double best = best_of_all(logits, places);
      const double found = value_of(route(BaseLayers{.experts = experts, .epsilon = epsilon}, logits), logits, experts);
      CHECK(found <= best + 1e-9);
      CHECK(found >= best - tokens * static_cast<double>(epsilon) - 1e-9);
    }
  }
}
TEST_CASE("BaseLayers is within T epsilon of the Hungarian method on larger batches") {
  oracle::Random random(763);
  CAPTURE(random.seed);
  for (int i = 0; i < 10; ++i) {
    std::vector<float> logits = random.reals(64 * 8, 4);
    if (i % 2 == 0)
      for (std::size_t n = 0; n < logits.size(); n += 8) logits[n] += 8;
    const double best = hungarian(logits, 8, 8);
    const double found = value_of(route(BaseLayers{.experts = 8, .epsilon = 0.01f}, logits), logits, 8);
    CHECK(found <= best + 1e-9);
    CHECK(found >= best - 64 * 0.01);
  }
}
TEST_CASE("BaseLayers settles by large steps a war of prices that its epsilon would take millions of bids for") {
  std::vector<float> logits;
  for (int t = 0; t < 400; ++t)  // everybody wants the same two of four, by 2^24 units
    for (int e = 0; e < 4; ++e) logits.push_back(e < 2 ? 1.0f : 0.0f);
  for (const int load : loads(route(BaseLayers{.experts = 4, .epsilon = 1e-9f}, logits), 4)) CHECK(load == 100);
}
TEST_CASE("BaseLayers ends on logits that differ by more than its integers hold") {
  std::vector<float> logits;
  for (int t = 0; t < 8; ++t)
    for (int e = 0; e < 4; ++e) logits.push_back(e == 0 ? 1e30f : static_cast<float>(e));
  for (const int load : loads(route(BaseLayers{.experts = 4, .epsilon = 1e-6f}, logits), 4)) CHECK(load == 2);
}
TEST_CASE("BaseLayers weighs a row by the sigmoid of its logit") {
  oracle::Random random(764);
  const std::vector<float> logits = random.reals(12 * 4, 4);
  const auto found = rows(route(BaseLayers{.experts = 4}, logits));
  for (int t = 0; t < 12; ++t) {
    const moe::Slot s = found[static_cast<std::size_t>(t)][0];
    const float logit = logits[static_cast<std::size_t>(t * 4 + s.expert)];
    CHECK(within(s.weight, oracle::over_logistic({1}, {static_cast<double>(logit)})));
  }
}
TEST_CASE("BaseLayers is the argmax where that is balanced") {
  std::vector<float> logits(12 * 4);
  for (std::size_t t = 0; t < 12; ++t) logits[t * 4 + t % 4] = 1;
  const auto found = rows(route(BaseLayers{.experts = 4}, logits));
  for (std::size_t t = 0; t < 12; ++t) CHECK(found[t][0].expert == static_cast<int>(t % 4));
}
TEST_CASE("a layer with BaseLayers computes the assignment") {
  oracle::Random random(765);
  const Problem<float> p({.tokens = 8, .experts = 4}, random);
  const moe::MoELayer layer(moe::Linear(p.gate_view()), BaseLayers{.experts = 4}, p.storage(), moe::Cpu{.threads = 2});
  const std::vector<float> y = forward(layer, p);
  const Table table = route(BaseLayers{.experts = 4}, gate_logits(p));
  for (int t = 0; t < 8; ++t)
    CHECK(first_outside(view(y, 37).row(t), run_token(p.layer, p.token(t), table.picks(t))) == -1);
}

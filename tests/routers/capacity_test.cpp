// Laws of Capacity, by hand on tables and through the layer, against DeepSpeed's dispatch masks.
#include <rapidcheck.h>
#include <moe/routers/capacity.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"
#include "../layer_support.hpp"

using moe::Capacity;
using moe::Drop;
using moe::Normalisation;
using moe::Score;
using moe::TopK;
using Rule = Capacity<TopK>;

namespace {

TopK softmax_top(int experts, int k) { return {.experts = experts, .k = k, .score = Score::softmax}; }

/// Rows that each choose by their own logits, before any column rule.
template <class R>
Table chosen(const R& router, const std::vector<float>& logits, const moe::RouteContext<>& context = {}) {
  const auto all = view(logits, moe::num_logits(router));
  Table table(all.rows, moe::max_slots(router));
  for (int t = 0; t < all.rows; ++t)
    table.count[static_cast<std::size_t>(t)] = moe::select(router, context.at(t, all.row(t)), table.get().slots.row(t));
  return table;
}

/// What the layer does with a column rule; columns in the given direction.
template <class R>
void limit(const R& router, Table& table, const moe::RouteContext<>& context = {}, bool backwards = false) {
  const moe::RoutingTable<> t = table.get();
  std::vector<int> offset(static_cast<std::size_t>(moe::num_experts(router)) + 1), entry(table.slots_of_all.size()),
      rows(entry);
  moe::Dispatch<> d{offset.data(), entry.data(), rows.data()};
  moe::group_by_expert(t, moe::ids_of(router), d);
  for (int i = 0; i < moe::num_experts(router); ++i) {
    const int e = backwards ? moe::num_experts(router) - 1 - i : i;
    moe::admit(router, moe::Column{.expert = e,
                                   .entries = d.entries(e),
                                   .slots = {t.slots.data, t.slots.rows * t.slots.cols},
                                   .slots_per_row = t.slots.cols,
                                   .tokens = t.slots.rows,
                                   .seed = context.seed,
                                   .positions = context.positions});
  }
  for (int row = 0; row < t.slots.rows; ++row) moe::finish(router, t.slots.row(row).first(t.count[row]));
}
template <class R>
Table routed(const R& router, const std::vector<float>& logits, const moe::RouteContext<>& context = {}) {
  Table table = chosen(router, logits, context);
  limit(router, table, context);
  return table;
}

std::vector<int> ids_of_all(const Table& table) {
  std::vector<int> ids;
  for (const moe::Slot& s : table.slots_of_all) ids.push_back(s.expert);
  return ids;
}
std::vector<float> weights_of_all(const Table& table) {
  std::vector<float> weights;
  for (const moe::Slot& s : table.slots_of_all) weights.push_back(s.weight);
  return weights;
}
int load(const Table& table, int expert) {
  const std::vector<int> ids = ids_of_all(table);
  return static_cast<int>(std::count(ids.begin(), ids.end(), expert));
}
bool same(const Table& a, const Table& b) {
  return ids_of_all(a) == ids_of_all(b) && bits(weights_of_all(a)) == bits(weights_of_all(b));
}

// ---- DeepSpeed's text: one-hot masks [T,E] per choice, and running counts along T

using Mask = std::vector<std::vector<int>>;  // [T][E]

/// keep[j] [T,E] of `choice[j]` [T,E]: locations are counted along tokens, behind all of `ahead` [E].
Mask keep_by_location(const Mask& choice, std::vector<int> ahead, int capacity) {
  Mask kept = choice;
  for (std::size_t t = 0; t < choice.size(); ++t)
    for (std::size_t e = 0; e < ahead.size(); ++e)
      if (choice[t][e] != 0) kept[t][e] = ahead[e]++ < capacity ? 1 : 0;
  return kept;
}

struct DeepSpeed {
  int tokens, experts, k;
  std::vector<float> logits;
  int capacity;
  bool first_choices_first, renormalise;

  /// weight [T][E], zero where dropped or not chosen.
  std::vector<std::vector<double>> weights() const {
    const auto n = static_cast<std::size_t>(tokens), m = static_cast<std::size_t>(experts);
    std::vector<Mask> choices(static_cast<std::size_t>(k), Mask(n, std::vector<int>(m)));
    std::vector<std::vector<double>> p(n, std::vector<double>(m));
    for (std::size_t t = 0; t < n; ++t) {
      const std::vector<float> row = row_of(logits, experts, static_cast<int>(t));
      const auto picks = oracle::route({oracle::Score::softmax}, row, k);
      for (std::size_t j = 0; j < picks.size(); ++j) {
        choices[j][t][static_cast<std::size_t>(picks[j].expert)] = 1;
        p[t][static_cast<std::size_t>(picks[j].expert)] = picks[j].weight.v;
      }
    }
    if (!first_choices_first) merge(choices);
    Mask kept(n, std::vector<int>(m));
    std::vector<int> ahead(m);
    for (const Mask& choice : choices) {
      const Mask here = keep_by_location(choice, ahead, capacity);
      for (std::size_t t = 0; t < n; ++t)
        for (std::size_t e = 0; e < m; ++e) {
          kept[t][e] += here[t][e];
          ahead[e] += choice[t][e];  // before dropping, as DeepSpeed's sum of the first mask
        }
    }
    for (std::size_t t = 0; t < n; ++t) {
      double sum = 0;
      for (std::size_t e = 0; e < m; ++e) sum += p[t][e] *= kept[t][e];
      if (renormalise && sum > 0)
        for (double& w : p[t]) w /= sum;
    }
    return p;
  }

 private:
  static void merge(std::vector<Mask>& choices) {
    for (std::size_t j = 1; j < choices.size(); ++j)
      for (std::size_t t = 0; t < choices[j].size(); ++t)
        for (std::size_t e = 0; e < choices[j][t].size(); ++e) choices[0][t][e] += choices[j][t][e];
    choices.resize(1);
  }
};

/// Relative error of a softmax over E, a sum over k and a division: fewer than E + k + 20 roundings.
void check_weights(const Table& found, const std::vector<std::vector<double>>& expected, int experts) {
  const double tolerance = oracle::gamma(experts + found.columns + 20);
  for (std::size_t t = 0; t < expected.size(); ++t) {
    std::vector<double> row(static_cast<std::size_t>(experts));
    for (int k = 0; k < found.columns; ++k)
      if (const moe::Slot& s =
              found.slots_of_all[t * static_cast<std::size_t>(found.columns) + static_cast<std::size_t>(k)];
          s.expert >= 0)
        row[static_cast<std::size_t>(s.expert)] = static_cast<double>(s.weight);
    for (std::size_t e = 0; e < row.size(); ++e) {
      const bool close = std::fabs(row[e] - expected[t][e]) <= tolerance * expected[t][e];
      if (!close) CHECK(close);
    }
  }
}
void agrees_with_deepspeed(bool first_choices_first, bool renormalise) {
  oracle::Random random(700 + (first_choices_first ? 1u : 0u) + (renormalise ? 2u : 0u));
  CAPTURE(random.seed);
  for (int i = 0; i < 2500; ++i) {
    const int experts = random.between(1, 8), k = random.between(1, std::min(4, experts)),
              tokens = random.between(1, 24);
    CAPTURE(i);
    const std::vector<float> logits = random.reals(tokens * experts, 4);
    const Rule rule{.inner = softmax_top(experts, k),
                    .factor = {random.between(1, 8), random.between(1, 8)},
                    .minimum = random.between(0, 4),
                    .first_choices_first = first_choices_first,
                    .renormalise = renormalise};
    const double exact = static_cast<double>(tokens) * k * rule.factor.numerator / (experts * rule.factor.denominator);
    const int capacity = std::min(tokens, std::max(static_cast<int>(std::ceil(exact - 1e-9)), rule.minimum));
    check_weights(routed(rule, logits),
                  DeepSpeed{tokens, experts, k, logits, capacity, first_choices_first, renormalise}.weights(), experts);
  }
}

/// Every row wants expert 0 of 2 with its own probability.
std::vector<float> everyone_wants_the_first(int tokens, oracle::Random& random) {
  std::vector<float> logits;
  for (int t = 0; t < tokens; ++t) {
    logits.push_back(2 + random.real());
    logits.push_back(-2);
  }
  return logits;
}

/// A random rule and batch for properties.
struct Case {
  Rule rule;
  std::vector<float> logits;
  moe::RouteContext<> context;
  int tokens;
};
Case arbitrary_case() {
  const int experts = *rc::gen::inRange(1, 9), k = *rc::gen::inRange(1, experts + 1), tokens = *rc::gen::inRange(0, 40);
  Case c;
  c.rule.inner = softmax_top(experts, k);
  c.rule.factor = {*rc::gen::inRange(1, 9), *rc::gen::inRange(1, 9)};
  c.rule.minimum = *rc::gen::inRange(0, 5);
  c.rule.fixed = *rc::gen::element(0, 0, 1, 3, 100);
  c.rule.drop = *rc::gen::element(Drop::by_position, Drop::at_random, Drop::by_score);
  c.rule.first_choices_first = *rc::gen::arbitrary<bool>();
  c.rule.renormalise = *rc::gen::arbitrary<bool>();
  c.context.seed = static_cast<std::uint64_t>(*rc::gen::arbitrary<int>());
  const auto levels =
      *rc::gen::container<std::vector<int>>(static_cast<std::size_t>(tokens * experts), rc::gen::inRange(-8, 8));
  for (const int level : levels) c.logits.push_back(static_cast<float>(level) / 4);  // coarse: with ties
  c.tokens = tokens;
  return c;
}

const int out = moe::dropped(0);

}  // namespace

// ---- sizes

TEST_CASE("a capacity is exact where float arithmetic rounds it up") {
  CHECK(moe::CapacityFactor{6, 5}.capacity(50, 1, 4, 0) == 15);  // 1.2f * 50 / 4 is a little more than 15
}
TEST_CASE("a capacity is never more than the rows nor less than the minimum") {
  CHECK(moe::CapacityFactor{8, 1}.capacity(10, 1, 2, 0) == 10);
  CHECK(moe::CapacityFactor{1, 8}.capacity(10, 1, 2, 4) == 4);
  CHECK(moe::CapacityFactor{1, 1}.capacity(3, 1, 2, 4) == 3);
  CHECK(moe::CapacityFactor{1, 1}.capacity(0, 1, 2, 4) == 0);
}
TEST_CASE("a fixed capacity takes the place of the factor") {
  const Rule rule{.inner = softmax_top(8, 1), .fixed = 3};
  CHECK(rule.capacity(17, 1) == 3);
  CHECK(rule.capacity(2, 1) == 2);
}
TEST_CASE("Capacity refuses a factor that divides by zero") {
  const Rule rule{.inner = softmax_top(4, 1), .factor = {1, 0}};
  CHECK(message_of([&] { rule.check(); }) == "moe::Capacity: denominator of the factor: expected at least 1, found 0");
}

// ---- DeepSpeed

TEST_CASE("Capacity equals DeepSpeed's masks where first choices come first") {
  agrees_with_deepspeed(true, false);
  agrees_with_deepspeed(true, true);
}
TEST_CASE("Capacity equals DeepSpeed's masks where places are given in token order") {
  agrees_with_deepspeed(false, false);
  agrees_with_deepspeed(false, true);
}
TEST_CASE("Capacity leaves top-1 weights as probabilities of all experts") {
  const Rule rule{.inner = softmax_top(2, 1), .fixed = 1};
  const Table table = routed(rule, {1, 1, 1, 1});
  CHECK(weights_of_all(table) == std::vector<float>{0.5f, 0});
}
TEST_CASE("Capacity gives a lone survivor the weight 1 when it renormalises") {
  // Rows 0 and 1 choose experts 0 and 1, one place each: row 1 loses expert 0 and its second choice keeps nothing.
  const Rule rule{.inner = softmax_top(3, 2), .fixed = 1, .renormalise = true};
  const Table table = routed(rule, {3, 2, 0, 3, 0, 2});
  CHECK(ids_of_all(table) == std::vector<int>{0, 1, moe::dropped(0), 2});
  CHECK(weights_of_all(table)[3] == 1);
}
TEST_CASE("Capacity keeps the place of a dropped choice, which still says who was chosen, with weight 0") {
  const Rule rule{.inner = softmax_top(2, 1), .fixed = 1};
  const Table table = routed(rule, {5, 0, 5, 0});
  CHECK(table.count == std::vector<int>{1, 1});
  CHECK(table.slots_of_all[1].expert == moe::dropped(0));
  CHECK(table.slots_of_all[1].weight == 0);
}

// ---- laws

TEST_CASE("no expert gets more rows than its capacity, and a full one exactly that many") {
  CHECK(rc::check([] {
    const Case c = arbitrary_case();
    const Table before = chosen(c.rule, c.logits), after = routed(c.rule, c.logits, c.context);
    const int most = c.rule.capacity(c.tokens, before.columns);
    for (int e = 0; e < moe::num_experts(c.rule); ++e) RC_ASSERT(load(after, e) == std::min(most, load(before, e)));
  }));
}
TEST_CASE("Capacity that drops nothing keeps everything") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    c.rule.drop = Drop::nothing;
    c.rule.renormalise = false;
    RC_ASSERT(same(chosen(c.rule, c.logits), routed(c.rule, c.logits, c.context)));
  }));
}
TEST_CASE("a capacity of all rows equals none") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    c.rule.fixed = 1000;
    Rule unlimited = c.rule;
    unlimited.drop = Drop::nothing;
    RC_ASSERT(same(routed(unlimited, c.logits, c.context), routed(c.rule, c.logits, c.context)));
  }));
}
TEST_CASE("dropping never changes an id, only marks it as dropped") {
  CHECK(rc::check([] {
    const Case c = arbitrary_case();
    const std::vector<int> before = ids_of_all(chosen(c.rule, c.logits));
    const std::vector<int> after = ids_of_all(routed(c.rule, c.logits, c.context));
    for (std::size_t i = 0; i < after.size(); ++i)
      RC_ASSERT(after[i] == before[i] || after[i] == moe::dropped(before[i]));
  }));
}
TEST_CASE("who is kept by position in token order is a prefix of the column") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    c.rule.drop = Drop::by_position;
    c.rule.first_choices_first = false;
    const std::vector<int> before = ids_of_all(chosen(c.rule, c.logits));
    const std::vector<int> after = ids_of_all(routed(c.rule, c.logits, c.context));
    for (int e = 0; e < moe::num_experts(c.rule); ++e) {
      bool dropped = false;
      for (std::size_t i = 0; i < after.size(); ++i) {
        if (before[i] != e) continue;
        RC_ASSERT(!(dropped && after[i] == e));
        dropped = dropped || after[i] != e;
      }
    }
  }));
}
TEST_CASE("who is kept by score outweighs who is dropped, the earlier row among equals") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    c.rule.drop = Drop::by_score;
    const Table before = chosen(c.rule, c.logits), after = routed(c.rule, c.logits, c.context);
    for (std::size_t i = 0; i < before.slots_of_all.size(); ++i)
      for (std::size_t j = 0; j < before.slots_of_all.size(); ++j) {
        const moe::Slot &kept = before.slots_of_all[i], &lost = before.slots_of_all[j];
        if (kept.expert != lost.expert || after.slots_of_all[i].expert < 0 || after.slots_of_all[j].expert >= 0)
          continue;
        RC_ASSERT(kept.weight > lost.weight || (kept.weight == lost.weight && i < j));
      }
  }));
}
TEST_CASE("the order in which experts decide does not matter") {
  CHECK(rc::check([] {
    const Case c = arbitrary_case();
    Table forwards = chosen(c.rule, c.logits), backwards = forwards;
    limit(c.rule, forwards, c.context, false);
    limit(c.rule, backwards, c.context, true);
    RC_ASSERT(same(forwards, backwards));
  }));
}
TEST_CASE("what is left of a renormalised row sums to 1") {
  CHECK(rc::check([] {
    Case c = arbitrary_case();
    c.rule.renormalise = true;
    const Table table = routed(c.rule, c.logits, c.context);
    for (int t = 0; t < c.tokens; ++t) {
      double sum = 0;
      for (const oracle::Pick& p : table.picks(t)) sum += p.weight.v;
      RC_ASSERT(sum == 0 || std::fabs(sum - 1) <= oracle::gamma(2 * table.columns));
    }
  }));
}

// ---- random token selection

TEST_CASE("random selection keeps every position with the same probability") {
  constexpr int tokens = 40, kept = 10, draws = 4000;
  oracle::Random random(701);
  const Rule rule{.inner = softmax_top(2, 1), .fixed = kept, .drop = Drop::at_random};
  const std::vector<float> logits = everyone_wants_the_first(tokens, random);
  std::vector<int> counts(tokens);
  moe::RouteContext<> context;
  for (context.seed = 0; context.seed < draws; ++context.seed) {
    const Table table = routed(rule, logits, context);
    for (std::size_t t = 0; t < tokens; ++t) counts[t] += table.slots_of_all[t].expert == 0 ? 1 : 0;
  }
  constexpr double p = static_cast<double>(kept) / tokens;
  double statistic = 0;  // subsets have a fixed size: chi-square with tokens - 1 degrees of freedom
  for (const int count : counts) statistic += (count - draws * p) * (count - draws * p) / (draws * p * (1 - p));
  statistic *= static_cast<double>(tokens - 1) / tokens;
  MESSAGE("chi-square on 39 degrees of freedom: " << statistic);
  CHECK(statistic < 72.1);  // 99.9 %
  CHECK(statistic > 16.2);  // 0.1 %: no draw is that even
}
TEST_CASE("selection by position never keeps the last of too many rows") {
  oracle::Random random(702);
  const Table table = routed(Rule{.inner = softmax_top(2, 1), .fixed = 10}, everyone_wants_the_first(40, random));
  CHECK(table.slots_of_all.back().expert == moe::dropped(0));
}
TEST_CASE("random selection is another one for another seed") {
  oracle::Random random(703);
  const std::vector<float> logits = everyone_wants_the_first(40, random);
  const Rule rule{.inner = softmax_top(2, 1), .fixed = 10, .drop = Drop::at_random};
  moe::RouteContext<> one, two;
  two.seed = 1;
  CHECK(same(routed(rule, logits, one), routed(rule, logits, one)));
  CHECK_FALSE(same(routed(rule, logits, one), routed(rule, logits, two)));
}
TEST_CASE("experts draw independently of each other") {
  // Two experts, both wanted by every row: one draw for both would keep the same rows.
  oracle::Random random(704);
  const Table table = routed(Rule{.inner = softmax_top(2, 2), .fixed = 20, .drop = Drop::at_random},
                             everyone_wants_the_first(40, random));
  int both = 0;
  for (int t = 0; t < 40; ++t)
    both += table.slots_of_all[static_cast<std::size_t>(2 * t)].expert >= 0 &&
            table.slots_of_all[static_cast<std::size_t>(2 * t + 1)].expert >= 0;
  CHECK(both > 3);
  CHECK(both < 17);
}

// ---- sequences

TEST_CASE("a capacity per sequence counts each sequence on its own") {
  oracle::Random random(705);
  const std::vector<float> logits = everyone_wants_the_first(9, random);
  const int positions[] = {0, 1, 2, 3, 0, 1, 5, 6, 7};  // two sequences of 4 and 5
  moe::RouteContext<> context;
  context.positions = positions;
  const Rule rule{.inner = softmax_top(2, 1), .fixed = 2, .per_sequence = true};
  CHECK(ids_of_all(routed(rule, logits, context)) == std::vector<int>{0, 0, out, out, 0, 0, out, out, out});
}
TEST_CASE("a factor per sequence goes by the length of the sequence") {
  oracle::Random random(706);
  const std::vector<float> logits = everyone_wants_the_first(8, random);
  const int positions[] = {0, 1, 2, 3, 4, 5, 0, 1};
  moe::RouteContext<> context;
  context.positions = positions;
  const Rule rule{.inner = softmax_top(2, 1), .per_sequence = true};  // 6 / 2 and 2 / 2
  CHECK(ids_of_all(routed(rule, logits, context)) == std::vector<int>{0, 0, 0, out, out, out, 0, out});
}
TEST_CASE("rows at the same position are sequences of their own") {
  oracle::Random random(710);
  const std::vector<float> logits = everyone_wants_the_first(4, random);
  const int positions[] = {7, 7, 7, 7};
  moe::RouteContext<> context;
  context.positions = positions;
  const Rule rule{.inner = softmax_top(2, 1), .fixed = 1, .per_sequence = true};
  CHECK(ids_of_all(routed(rule, logits, context)) == std::vector<int>{0, 0, 0, 0});
}
TEST_CASE("without positions the whole call is one sequence") {
  oracle::Random random(707);
  const std::vector<float> logits = everyone_wants_the_first(9, random);
  const Rule all{.inner = softmax_top(2, 1), .fixed = 2},
      each{.inner = softmax_top(2, 1), .fixed = 2, .per_sequence = true};
  CHECK(same(routed(all, logits), routed(each, logits)));
}

// ---- in the layer

TEST_CASE("the layer's result is that of the rows that were kept, for every drop rule and number of threads") {
  oracle::Random random(708);
  CAPTURE(random.seed);
  const Problem<float> p({.tokens = 14, .hidden = 33, .ffn = 20, .experts = 4, .k = 2}, random);
  for (const Drop drop : {Drop::by_position, Drop::at_random, Drop::by_score}) {
    const Rule rule{.inner = softmax_top(4, 2), .fixed = 3, .drop = drop, .renormalise = true};
    moe::RouteContext<> context;
    context.seed = 5;
    const Table kept = routed(rule, gate_logits(p), context);
    CHECK(load(kept, 0) + load(kept, 1) + load(kept, 2) + load(kept, 3) < 28);
    std::vector<float> first;
    for (const int threads : {1, 3}) {
      const moe::MoELayer layer(moe::Linear(p.gate_view()), rule, p.storage(), moe::Cpu{.threads = threads});
      const std::vector<float> y = forward(layer, p, {.context = context});
      if (first.empty()) first = y;
      CHECK(bits(y) == bits(first));
      for (int t = 0; t < 14; ++t)
        CHECK(first_outside(view(y, 33).row(t), run_token(p.layer, p.token(t), kept.picks(t))) == -1);
    }
  }
}
TEST_CASE("a layer whose capacity drops nothing may be cut into chunks") {
  oracle::Random random(709);
  const Problem<float> p({.tokens = 6}, random);
  const moe::MoELayer layer(moe::Linear(p.gate_view()), Rule{.inner = softmax_top(5, 2), .drop = Drop::nothing},
                            p.storage(), moe::Cpu{.threads = 1});
  CHECK(bits(forward(layer, p, {}, 6)) == bits(forward(layer, p, {}, 2)));
}
TEST_CASE("Capacity is not causal") { CHECK_FALSE(moe::is_causal<Rule>()); }

// Laws of ExpertChoice, against a sort of every column.
#include <moe/routers/expert_choice.hpp>

#include "../laws/batch_router_laws.hpp"
#include "../layer_support.hpp"

using batch_router_laws::loads;
using batch_router_laws::route;
using batch_router_laws::rows;
using moe::ExpertChoice;

namespace {

/// P [T][E], softmax over experts.
std::vector<std::vector<double>> probabilities(const std::vector<float>& logits, int experts) {
  std::vector<std::vector<double>> p;
  for (std::size_t t = 0; t * static_cast<std::size_t>(experts) < logits.size(); ++t) {
    std::vector<double>& row = p.emplace_back(static_cast<std::size_t>(experts));
    for (const oracle::Pick& pick :
         oracle::route({oracle::Score::softmax}, row_of(logits, experts, static_cast<int>(t)), experts))
      row[static_cast<std::size_t>(pick.expert)] = pick.weight.v;
  }
  return p;
}
bool has(const std::vector<moe::Slot>& row, int expert) {
  for (const moe::Slot& s : row)
    if (s.expert == expert) return true;
  return false;
}

}  // namespace

TEST_CASE("ExpertChoice gives sound rows for every batch") {
  batch_router_laws::survives_every_batch(ExpertChoice{.experts = 6});
  batch_router_laws::survives_every_batch(ExpertChoice{.experts = 6, .most_per_row = 2});
  batch_router_laws::survives_every_batch(ExpertChoice{.experts = 1});
}
TEST_CASE("ExpertChoice uses only allowed experts") {
  batch_router_laws::uses_only_what_is_allowed(ExpertChoice{.experts = 9});
}
TEST_CASE("ExpertChoice's answers move with the rows") {
  batch_router_laws::permuting_rows_permutes_the_answer(ExpertChoice{.experts = 6});
}
TEST_CASE("every expert takes exactly its capacity, ties included") {
  oracle::Random random(743);
  CAPTURE(random.seed);
  for (int i = 0; i < 200; ++i) {
    const int experts = random.between(1, 9), tokens = random.between(1, 30);
    const ExpertChoice router{.experts = experts, .factor = {random.between(1, 6), random.between(1, 3)}};
    std::vector<float> logits = random.reals(tokens * experts, 4);
    if (i % 2 == 0)
      for (float& l : logits) l = static_cast<float>(random.between(-1, 1));
    const double mean = static_cast<double>(tokens) * router.factor.numerator / router.factor.denominator / experts;
    const int expected = std::min(tokens, static_cast<int>(std::ceil(mean - 1e-9)));
    for (const int load : loads(route(router, logits), experts)) CHECK(load == expected);
  }
}
TEST_CASE("an expert's rows are those with the largest probability of it, and the weight is the probability") {
  oracle::Random random(744);
  CAPTURE(random.seed);
  for (int i = 0; i < 100; ++i) {
    const int experts = random.between(2, 9), tokens = random.between(1, 30);
    const std::vector<float> logits = random.reals(tokens * experts, 4);
    const auto p = probabilities(logits, experts);
    const auto found = rows(route(ExpertChoice{.experts = experts}, logits));
    for (int e = 0; e < experts; ++e) {
      double least = 2, most = 0;  // of the taken, of the others
      for (std::size_t t = 0; t < p.size(); ++t) {
        double& bound = has(found[t], e) ? least : most;
        const double here = p[t][static_cast<std::size_t>(e)];
        bound = has(found[t], e) ? std::min(bound, here) : std::max(bound, here);
      }
      CHECK(least >= most * (1 - oracle::gamma(60)));  // float32 may confuse rows that are that close
    }
    for (std::size_t t = 0; t < p.size(); ++t)
      for (const moe::Slot& s : found[t]) {
        const double expected = p[t][static_cast<std::size_t>(s.expert)];
        CHECK(std::fabs(static_cast<double>(s.weight) - expected) <= oracle::gamma(60) * expected);
      }
  }
}
TEST_CASE("the earlier of two equal rows is taken") {
  const ExpertChoice router{.experts = 2, .factor = {1, 1}};
  const auto found = rows(route(router, {1, 0, 1, 0, 1, 0, 1, 0}));  // each expert takes 2 of 4
  CHECK(found[0].size() == 2);
  CHECK(found[1].size() == 2);
  CHECK(found[2].empty());
  CHECK(found[3].empty());
}
TEST_CASE("a row's experts come in descending order of weight") {
  oracle::Random random(745);
  for (const auto& row : rows(route(ExpertChoice{.experts = 8, .factor = {4, 1}}, random.reals(20 * 8, 4))))
    for (std::size_t k = 1; k < row.size(); ++k) CHECK(row[k - 1].weight >= row[k].weight);
}
TEST_CASE("a row that too many experts chose keeps its largest weights") {
  oracle::Random random(746);
  const std::vector<float> logits = random.reals(20 * 8, 4);
  const auto all = rows(route(ExpertChoice{.experts = 8, .factor = {4, 1}}, logits));
  const auto some = rows(route(ExpertChoice{.experts = 8, .factor = {4, 1}, .most_per_row = 3}, logits));
  int cut = 0;
  for (std::size_t t = 0; t < all.size(); ++t) {
    REQUIRE(some[t].size() == std::min<std::size_t>(3, all[t].size()));
    cut += all[t].size() > 3 ? 1 : 0;
    for (std::size_t k = 0; k < some[t].size(); ++k) CHECK(some[t][k].expert == all[t][k].expert);
  }
  CHECK(cut > 0);
}
TEST_CASE("a layer with ExpertChoice computes what the experts chose") {
  oracle::Random random(747);
  const Problem<float> p({.tokens = 9, .experts = 4}, random);
  const ExpertChoice router{.experts = 4};
  const moe::MoELayer layer(moe::Linear(p.gate_view()), router, p.storage(), moe::Cpu{.threads = 2});
  const std::vector<float> y = forward(layer, p);
  const Table table = route(router, gate_logits(p));
  for (int t = 0; t < 9; ++t)
    CHECK(first_outside(view(y, 37).row(t), run_token(p.layer, p.token(t), table.picks(t))) == -1);
}
TEST_CASE("ExpertChoice refuses no experts and no capacity") {
  CHECK(message_of([] { ExpertChoice{.experts = 0}.check(); }) ==
        "moe::ExpertChoice: experts: expected at least 1, found 0");
  CHECK_NOTHROW(ExpertChoice{.experts = 1}.check());
  CHECK(message_of([] { ExpertChoice{.experts = 2, .factor = {0, 1}}.check(); }).find("factor") != std::string::npos);
  CHECK(message_of([] { ExpertChoice{.experts = 2, .factor = {1, 0}}.check(); }).find("factor") != std::string::npos);
}
TEST_CASE("ExpertChoice is not causal") { CHECK_FALSE(moe::is_causal<ExpertChoice>()); }

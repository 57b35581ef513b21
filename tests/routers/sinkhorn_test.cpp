// Laws of Sinkhorn: the plan's sums, against iterations in double precision on the unshifted exponentials.
#include <moe/routers/sinkhorn.hpp>

#include "../laws/batch_router_laws.hpp"
#include "../layer_support.hpp"

using batch_router_laws::loads;
using batch_router_laws::route;
using batch_router_laws::rows;
using moe::Sinkhorn;

namespace {

using Plan = std::vector<std::vector<double>>;  // [T][E]

/// Megatron's text: alternate row and column factors, far beyond convergence.
Plan plan_of(const std::vector<float>& logits, int experts) {
  Plan plan;
  for (std::size_t t = 0; t * static_cast<std::size_t>(experts) < logits.size(); ++t) {
    plan.emplace_back();
    for (const float l : row_of(logits, experts, static_cast<int>(t)))
      plan.back().push_back(std::exp(static_cast<double>(l)));
  }
  const double tokens = static_cast<double>(plan.size());
  for (int i = 0; i < 2000; ++i) {
    for (auto& row : plan) {
      double sum = 0;
      for (const double x : row) sum += x;
      for (double& x : row) x /= sum * tokens;
    }
    for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
      double sum = 0;
      for (const auto& row : plan) sum += row[e];
      for (auto& row : plan) row[e] /= sum * experts;
    }
  }
  return plan;
}
/// What the router's column factors stand for.
Plan plan_of(const Sinkhorn& router, const std::vector<float>& logits) {
  std::vector<double> columns(static_cast<std::size_t>(router.experts));
  router.balance({}, view(logits, router.experts), {columns.data(), router.experts});
  Plan plan;
  for (std::size_t t = 0; t * columns.size() < logits.size(); ++t) {
    std::vector<double>& row = plan.emplace_back();
    const std::vector<float> z = row_of(logits, router.experts, static_cast<int>(t));
    const double best = static_cast<double>(*std::max_element(z.begin(), z.end()));
    double sum = 0;
    for (std::size_t e = 0; e < columns.size(); ++e)
      row.push_back(columns[e] * std::exp(static_cast<double>(z[e]) - best));
    for (const double x : row) sum += x;
    for (double& x : row) x *= static_cast<double>(columns.size()) / static_cast<double>(logits.size()) / sum;
  }
  return plan;
}

}  // namespace

TEST_CASE("Sinkhorn gives sound rows for every batch") {
  for (const int k : {1, 2, 6}) batch_router_laws::survives_every_batch(Sinkhorn{.experts = 6, .k = k});
}
TEST_CASE("Sinkhorn uses only allowed experts") {
  batch_router_laws::uses_only_what_is_allowed(Sinkhorn{.experts = 9, .k = 2});
}
TEST_CASE("Sinkhorn's plan has rows of 1/T and columns of 1/E") {
  oracle::Random random(750);
  CAPTURE(random.seed);
  for (int i = 0; i < 20; ++i) {
    const int experts = random.between(1, 8), tokens = random.between(1, 30);
    const Sinkhorn router{.experts = experts, .tolerance = 1e-6, .most_rounds = 2000};
    const Plan plan = plan_of(router, random.reals(tokens * experts, 4));
    for (const auto& row : plan) {
      double sum = 0;
      for (const double x : row) sum += x;
      CHECK(std::fabs(sum * tokens - 1) < 1e-9);
    }
    for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
      double sum = 0;
      for (const auto& row : plan) sum += row[e];
      CHECK(std::fabs(sum * experts - 1) < 2e-6);
    }
  }
}
TEST_CASE("Sinkhorn's plan is that of the unshifted iterations") {
  oracle::Random random(751);
  CAPTURE(random.seed);
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> logits = random.reals(12 * 5, 4);
    const Plan found = plan_of(Sinkhorn{.experts = 5, .tolerance = 1e-7, .most_rounds = 2000}, logits),
               expected = plan_of(logits, 5);
    for (std::size_t t = 0; t < 12; ++t)
      for (std::size_t e = 0; e < 5; ++e) CHECK(std::fabs(found[t][e] / expected[t][e] - 1) < 1e-5);
  }
}
TEST_CASE("Sinkhorn picks the largest entries of the plan") {
  oracle::Random random(752);
  CAPTURE(random.seed);
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> logits = random.reals(12 * 5, 4);
    const Plan expected = plan_of(logits, 5);
    const auto found = rows(route(Sinkhorn{.experts = 5, .k = 2, .tolerance = 1e-7, .most_rounds = 2000}, logits));
    for (std::size_t t = 0; t < 12; ++t) {
      REQUIRE(found[t].size() == 2);
      const auto entry = [&](const moe::Slot& s) { return expected[t][static_cast<std::size_t>(s.expert)]; };
      CHECK(entry(found[t][0]) >= entry(found[t][1]) * (1 - 1e-5));
      for (int e = 0; e < 5; ++e)
        if (e != found[t][0].expert && e != found[t][1].expert)
          CHECK(expected[t][static_cast<std::size_t>(e)] <= entry(found[t][1]) * (1 + 1e-5));
    }
  }
}
TEST_CASE("Sinkhorn weighs one pick by the sigmoid and several by the softmax of the raw logits") {
  oracle::Random random(753);
  const std::vector<float> logits = random.reals(12 * 5, 4);
  for (const int k : {1, 3}) {
    const auto found = rows(route(Sinkhorn{.experts = 5, .k = k}, logits));
    for (int t = 0; t < 12; ++t)
      for (const moe::Slot& s : found[static_cast<std::size_t>(t)]) {
        const auto score = k == 1 ? oracle::Score::sigmoid : oracle::Score::softmax;
        for (const oracle::Pick& p : oracle::route({score}, row_of(logits, 5, t), 5))
          if (p.expert == s.expert) CHECK(within(s.weight, p.weight));
      }
  }
}
TEST_CASE("Sinkhorn evens out a skewed batch") {
  oracle::Random random(754);
  std::vector<float> logits = random.reals(64 * 4, 1);
  for (std::size_t i = 0; i < logits.size(); i += 4) logits[i] += 3;  // everyone's favourite
  const std::vector<int> load = loads(route(Sinkhorn{.experts = 4}, logits), 4);
  CHECK(*std::max_element(load.begin(), load.end()) <= 24);
}
TEST_CASE("experts that may not be used leave no trace in Sinkhorn's plan") {
  oracle::Random random(757);
  const std::uint32_t mask = 0b10110;
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> logits = random.reals(9 * 5, 4);
    std::vector<float> without;
    for (std::size_t n = 0; n < logits.size(); ++n)
      if ((mask >> (n % 5) & 1u) != 0) without.push_back(logits[n]);
    std::vector<double> columns(5), expected(3);
    moe::RouteContext<> context;
    context.allowed = &mask;
    const int rounds = Sinkhorn{.experts = 5}.balance(context, view(logits, 5), {columns.data(), 5});
    CHECK(rounds == Sinkhorn{.experts = 3}.balance({}, view(without, 3), {expected.data(), 3}));
    CHECK(columns == std::vector<double>{0, expected[0], expected[1], 0, expected[2]});
  }
}
TEST_CASE("Sinkhorn does not overflow where the exponential does") {
  std::vector<float> logits;
  for (int t = 0; t < 8; ++t)
    for (int e = 0; e < 4; ++e) logits.push_back(t % 4 == e ? 1000.0f : 990.0f);
  CHECK(loads(route(Sinkhorn{.experts = 4}, logits), 4) == std::vector<int>{2, 2, 2, 2});
}
TEST_CASE("Sinkhorn's answers do not see a constant added to a row") {
  oracle::Random random(755);
  std::vector<float> logits;
  for (int i = 0; i < 12 * 4; ++i) logits.push_back(static_cast<float>(random.between(-128, 128)) / 64);
  const auto before = rows(route(Sinkhorn{.experts = 4, .k = 2}, logits));
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] += static_cast<float>(i / 4);
  const auto after = rows(route(Sinkhorn{.experts = 4, .k = 2}, logits));
  for (std::size_t t = 0; t < before.size(); ++t)
    for (std::size_t k = 0; k < 2; ++k) CHECK(before[t][k].expert == after[t][k].expert);
}
TEST_CASE("Sinkhorn ends after so many rounds where no plan exists") {
  // Only row 0 can use expert 1, which is to get half of all rows.
  const std::vector<float> logits = {0, 0, 0, -300, 0, -300, 0, -300};
  std::vector<double> columns(2);
  const Sinkhorn router{.experts = 2, .most_rounds = 5000};
  CHECK(router.balance({}, view(logits, 2), {columns.data(), 2}) == 5000);
  CHECK(columns[1] == 1);
  CHECK(rows(route(router, logits))[0][0].expert == 1);
}
TEST_CASE("Sinkhorn refuses more experts than its arrays hold") {
  CHECK(message_of([] { Sinkhorn{.experts = 5000}.check(); }) ==
        "moe::Sinkhorn: experts: expected 1 to 4096, found 5000");
}
TEST_CASE("a layer with Sinkhorn computes what the plan says") {
  oracle::Random random(756);
  const Problem<float> p({.tokens = 9, .experts = 4}, random);
  const Sinkhorn router{.experts = 4, .k = 2};
  const moe::MoELayer layer(moe::Linear(p.gate_view()), router, p.storage(), moe::Cpu{.threads = 2});
  const std::vector<float> y = forward(layer, p);
  const Table table = route(router, gate_logits(p));
  for (int t = 0; t < 9; ++t)
    CHECK(first_outside(view(y, 37).row(t), run_token(p.layer, p.token(t), table.picks(t))) == -1);
}

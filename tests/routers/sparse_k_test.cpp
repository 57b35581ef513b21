// SparseK: optimality of the projection, against a solution by sorting in double precision.
#include <moe/routers/sparse_k.hpp>

#include "../laws/router_laws.hpp"

using moe::SparseK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

double clip(double p) { return std::clamp(p, 0.0, 1.0); }

/// p of every expert: sorts the 2 E breakpoints and solves the linear piece that contains k.
std::vector<double> projection(const std::vector<float>& z, int k) {
  const auto mass = [&](double tau) {
    double sum = 0;
    for (const float l : z) sum += clip(static_cast<double>(l) - tau);
    return sum;
  };
  std::vector<double> points;
  for (const float l : z) {
    points.push_back(static_cast<double>(l));
    points.push_back(static_cast<double>(l) - 1);
  }
  std::sort(points.begin(), points.end());
  std::size_t i = 0;
  while (i + 1 < points.size() && mass(points[i + 1]) >= k) ++i;
  double tau = points[i];
  if (i + 1 < points.size() && mass(points[i]) > mass(points[i + 1]))
    tau += (mass(points[i]) - k) / (mass(points[i]) - mass(points[i + 1])) * (points[i + 1] - points[i]);
  std::vector<double> p;
  for (const float l : z) p.push_back(clip(static_cast<double>(l) - tau));
  return p;
}
std::vector<float> dense(const SparseK& r, const std::vector<float>& logits) {
  std::vector<float> p(logits.size());
  for (const moe::Slot& s : choose(r, logits)) p[static_cast<std::size_t>(s.expert)] = s.weight;
  return p;
}
double sum(const std::vector<float>& p) {
  double total = 0;
  for (const float v : p) total += static_cast<double>(v);
  return total;
}
/// tau is a mean of E differences below 1, and p one more: E + 4 roundings of numbers up to 1.
double bound(std::size_t experts) { return oracle::gamma(static_cast<int>(experts) + 4); }

}  // namespace

TEST_CASE("SparseK is the projection, for many sizes, spreads and k") {
  oracle::Random random(101);
  CAPTURE(random.seed);
  for (const int experts : {1, 2, 5, 16, 64, 512})
    for (const float spread : {0.0625f, 0.5f, 2.0f, 16.0f})
      for (const int k : {1, 2, 7, experts})
        for (int i = 0; i < 12 && k <= experts; ++i) {
          const std::vector<float> logits = random.reals(experts, spread);
          const std::vector<float> found = dense({.experts = experts, .k = k}, logits);
          const std::vector<double> expected = projection(logits, k);
          CAPTURE(experts);
          CAPTURE(spread);
          CAPTURE(k);
          for (std::size_t e = 0; e < expected.size(); ++e)
            if (std::fabs(static_cast<double>(found[e]) - expected[e]) > bound(expected.size()))
              CHECK(static_cast<double>(found[e]) == expected[e]);
          CHECK(std::fabs(sum(found) - k) <= experts * bound(expected.size()));
        }
}
TEST_CASE("no feasible point is nearer to the logits than SparseK's") {
  oracle::Random random(102);
  for (int i = 0; i < 100; ++i) {
    const std::vector<float> logits = random.reals(6, 2);
    const std::vector<float> p = dense({.experts = 6, .k = 2}, logits);
    // Moving mass from a to b keeps the sum; feasible moves must not bring p nearer: (z_b - p_b) <= (z_a - p_a).
    for (std::size_t a = 0; a < 6; ++a)
      for (std::size_t b = 0; b < 6; ++b)
        if (p[a] > 1e-4f && p[b] < 1 - 1e-4f) CHECK(logits[b] - p[b] <= logits[a] - p[a] + 1e-5f);
  }
}
TEST_CASE("SparseK with ties shares what is left among the equal") {
  CHECK(dense({.experts = 4, .k = 2}, {1, 1, 1, 1}) == std::vector<float>{0.5f, 0.5f, 0.5f, 0.5f});
  CHECK(dense({.experts = 4, .k = 2}, {9, 1, 1, 0}) == std::vector<float>{1, 0.5f, 0.5f, 0});
}
TEST_CASE("logits that are far apart make SparseK the top k with weights of one") {
  CHECK(dense({.experts = 5, .k = 2}, {0, 8, 2, 6, 4}) == std::vector<float>{0, 1, 0, 1, 0});
}
TEST_CASE("SparseK stays exact where one is below the spacing of floats") {
  CHECK(dense({.experts = 4, .k = 2}, {1e20f, 1e20f, 1e20f, 0})[0] == doctest::Approx(2.0 / 3));
  CHECK(dense({.experts = 3, .k = 2}, {infinity, -infinity, 0}) == std::vector<float>{1, 0, 1});
  CHECK(dense({.experts = 3, .k = 2}, {infinity, -infinity, not_a_number}) == std::vector<float>{1, 1, 0});
  CHECK(dense({.experts = 3, .k = 2}, {1e8f, 0, 0.5f}) == std::vector<float>{1, 0.25f, 0.75f});
}
TEST_CASE("SparseK's hard mode is the k largest with the weights of all") {
  oracle::Random random(103);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(16, 1);
    const auto all = choose(SparseK{.experts = 16, .k = 3}, logits);
    const auto hard = choose(SparseK{.experts = 16, .k = 3, .most = 3}, logits);
    REQUIRE(hard.size() == 3);
    REQUIRE(all.size() >= 3);
    for (std::size_t s = 0; s < 3; ++s) {
      CHECK(hard[s].expert == all[s].expert);
      CHECK(hard[s].weight == all[s].weight);
    }
  }
}
TEST_CASE("a higher temperature spreads SparseK over more experts") {
  oracle::Random random(104);
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> logits = random.reals(32, 4);
    std::size_t before = 3;
    for (const float scale : {4.0f, 1.0f, 0.25f, 0.0625f}) {
      const std::size_t n = choose(SparseK{.experts = 32, .k = 3, .logits = {.scale = scale}}, logits).size();
      CHECK(n >= before);
      before = n;
    }
  }
}
TEST_CASE("where no more than k experts may be used, all have weight one") {
  const std::uint32_t mask = 0b0101;
  const auto found = choose(SparseK{.experts = 4, .k = 3}, {1, 2, 3, 4}, -1, &mask);
  CHECK(ids(found) == std::vector<int>{2, 0});
  CHECK(weights(found) == std::vector<float>{1, 1});
}
TEST_CASE("experts that may not be used leave no trace in SparseK's weights") {
  oracle::Random random(105);
  for (int i = 0; i < 200; ++i) {
    const auto mask = static_cast<std::uint32_t>(random.below(256));
    const std::vector<float> logits = random.reals(8, 2);
    std::vector<float> without;
    for (std::size_t e = 0; e < 8; ++e)
      if ((mask >> e & 1u) != 0) without.push_back(logits[e]);
    if (without.size() < 2) continue;
    const int usable = static_cast<int>(without.size());
    CHECK(weights(choose(SparseK{.experts = 8, .k = 2}, logits, -1, &mask)) ==
          weights(choose(SparseK{.experts = usable, .k = 2}, without)));
  }
}
TEST_CASE("no weight of SparseK exceeds one, whatever rounding does") {
  oracle::Random random(106);
  for (int i = 0; i < 2000; ++i) {
    std::vector<float> logits = random.reals(6, 2);
    for (std::size_t e = 1; e < 6; ++e)  // around the breakpoints of expert 0
      if (random.below(2) == 0) logits[e] = std::nextafter(logits[0] - static_cast<float>(random.below(2)), infinity);
    for (const float w : weights(choose(SparseK{.experts = 6, .k = random.between(1, 5)}, logits))) CHECK(w <= 1);
  }
}
TEST_CASE("the scale of 1 / k makes the weights sum to one") {
  const std::vector<float> p = dense({.experts = 6, .k = 4, .scale = 0.25f}, {0, 0.5f, 0.25f, 0.75f, 1, 1.25f});
  CHECK(sum(p) == doctest::Approx(1).epsilon(1e-6));
}
TEST_CASE("SparseK gives nothing to nothing but NaN") {
  CHECK(choose(SparseK{.experts = 4, .k = 2}, std::vector<float>(4, not_a_number)).empty());
}
TEST_CASE("SparseK refuses a k that the experts cannot reach") {
  CHECK(message_of([] { SparseK{.experts = 4, .k = 5}.check(); }).find("1 to the 4 experts") != std::string::npos);
}

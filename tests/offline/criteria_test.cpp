#include <doctest/doctest.h>

#include <moe/offline/criteria.hpp>
#include <set>

#include "problem.hpp"

namespace {

constexpr int layers = 3, experts = 7;

/// Random choices, twice: as a trace and as plain rows.
struct Random3 {
  struct Line {
    int layer, expert;
    float weight, norm;
  };
  explicit Random3(bool norms) {
    for (int t = 0; t < 200; ++t)
      for (int l = 0; l < layers; ++l) {
        std::vector<moe::Slot> picks;
        std::vector<float> sizes;
        const int first = random.below(experts), count = random.below(4);
        for (int k = 0; k < count; ++k) {
          lines.push_back({l, (first + k * 2) % experts, std::fabs(random.real()), std::fabs(random.real(8))});
          picks.push_back({lines.back().expert, lines.back().weight});
          sizes.push_back(lines.back().norm);
        }
        trace.add(t / 50, t % 50, l, {picks.data(), count}, {sizes.data(), norms ? count : 0});
      }
  }
  /// Sum of value(line) over the lines of an expert, in double.
  template <class Value>
  double sum(int layer, int expert, const Value& value) const {
    double total = 0;
    for (const Line& line : lines)
      if (line.layer == layer && line.expert == expert) total += value(line);
    return total;
  }
  oracle::Random random{1};
  moe::RoutingTrace trace{layers, experts};
  std::vector<Line> lines;
};

/// The sums are in double on both sides and in one order; only the last bit of a product may differ.
template <class Value>
void agree(const moe::ExpertScores& scores, const Random3& r, const Value& value) {
  REQUIRE(scores.layers() == layers);
  REQUIRE(scores.experts() == experts);
  for (int l = 0; l < layers; ++l)
    for (int e = 0; e < experts; ++e) CHECK(scores.at(l, e) == doctest::Approx(r.sum(l, e, value)).epsilon(1e-13));
}

}  // namespace

TEST_CASE("utilisation is a brute-force count") {
  const Random3 r(false);
  agree(moe::utilisation(r.trace), r, [](const Random3::Line&) { return 1.0; });
}

TEST_CASE("the order by utilisation is that of a brute-force count") {
  const Random3 r(false);
  const moe::PruneSpec spec = moe::keep_best(moe::utilisation(r.trace), 3);
  REQUIRE(spec.keep.size() == layers);
  for (int l = 0; l < layers; ++l)
    for (int e = 0; e < experts; ++e) {
      int ahead = 0;
      const auto count = [&](int i) { return r.sum(l, i, [](const Random3::Line&) { return 1.0; }); };
      for (int other = 0; other < experts; ++other)
        ahead += count(other) > count(e) || (count(other) == count(e) && other < e) ? 1 : 0;
      const auto& kept = spec.keep[static_cast<std::size_t>(l)];
      CHECK((std::count(kept.begin(), kept.end(), e) == 1) == (ahead < 3));
    }
}

TEST_CASE("router mass is the sum of the weights") {
  const Random3 r(false);
  agree(moe::router_mass(r.trace), r, [](const Random3::Line& line) { return static_cast<double>(line.weight); });
}

TEST_CASE("the weighted norm is the sum of weight times norm") {
  const Random3 r(true);
  agree(moe::weighted_norm(r.trace), r,
        [](const Random3::Line& line) { return static_cast<double>(line.weight) * static_cast<double>(line.norm); });
}

TEST_CASE("a weighted norm needs norms") {
  CHECK(message_of([] { moe::weighted_norm(Random3(false).trace); }) ==
        "moe::weighted_norm: norms in the trace: expected TraceObserver{.norms = true}, found none");
}

TEST_CASE("random scores are the same for the same seed, and keep every expert about equally often") {
  CHECK(moe::keep_best(moe::random_scores(2, 8, 3), 4).keep == moe::keep_best(moe::random_scores(2, 8, 3), 4).keep);
  std::vector<int> times(16);
  std::set<std::vector<moe::ExpertId>> sets;
  for (std::uint64_t seed = 0; seed < 2000; ++seed)
    for (const auto& kept : moe::keep_best(moe::random_scores(2, 8, seed), 4).keep) {
      sets.insert(kept);
      for (const moe::ExpertId e : kept) ++times[static_cast<std::size_t>(e)];
    }
  CHECK(sets.size() == 70);  // all of C(8, 4)
  // 4000 sets, each expert in half of them: six standard deviations of the binomial are 6 sqrt(4000 / 4) = 190.
  for (int e = 0; e < 8; ++e) CHECK(std::abs(times[static_cast<std::size_t>(e)] - 2000) < 190);
}

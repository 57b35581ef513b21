#include <doctest/doctest.h>

#include <bit>
#include <moe/offline/catro.hpp>

#include "problem.hpp"

namespace {

/// The largest trace ratio of all sets of `count` channels.
double best_ratio(const moe::Scatter& s, int count) {
  double best = -1;
  for (unsigned set = 0; set < 1u << s.between.size(); ++set) {
    if (std::popcount(set) != count) continue;
    double between = 0, within = 0;
    for (std::size_t i = 0; i < s.between.size(); ++i)
      if ((set >> i & 1u) != 0) {
        between += s.between[i];
        within += s.within[i];
      }
    best = std::max(best, within > 0 ? between / within : (between > 0 ? HUGE_VAL : 0.0));
  }
  return best;
}
double ratio_of(const moe::Scatter& s, const std::vector<moe::ExpertId>& kept) {
  double between = 0, within = 0;
  for (const moe::ExpertId i : kept) {
    between += s.between[static_cast<std::size_t>(i)];
    within += s.within[static_cast<std::size_t>(i)];
  }
  return between / within;
}

}  // namespace

TEST_CASE("the scatter is that of the definition") {
  oracle::Random random(1);
  CAPTURE(random.seed);
  constexpr int rows = 40, channels = 3, count = 4;
  const std::vector<float> h = random.reals(rows * channels);
  std::vector<int> classes;
  for (int t = 0; t < rows; ++t) classes.push_back(random.below(count) * 2);  // classes between have no rows
  const moe::Scatter s = moe::class_scatter(view(h, channels), classes);
  for (int i = 0; i < channels; ++i) {
    // Between plus within is the total scatter; between is a sum over pairs of class means.
    double mean = 0, total = 0, pairs = 0;
    std::vector<double> sum(2 * count), size(2 * count);
    for (int t = 0; t < rows; ++t) mean += static_cast<double>(h[static_cast<std::size_t>(t * channels + i)]) / rows;
    for (int t = 0; t < rows; ++t) {
      const double v = static_cast<double>(h[static_cast<std::size_t>(t * channels + i)]);
      total += (v - mean) * (v - mean);
      sum[static_cast<std::size_t>(classes[static_cast<std::size_t>(t)])] += v;
      size[static_cast<std::size_t>(classes[static_cast<std::size_t>(t)])] += 1;
    }
    for (std::size_t a = 0; a < sum.size(); ++a)
      for (std::size_t b = 0; b < sum.size(); ++b)
        if (size[a] > 0 && size[b] > 0)
          pairs += size[a] * size[b] * std::pow(sum[a] / size[a] - sum[b] / size[b], 2) / (2 * rows);
    const auto u = static_cast<std::size_t>(i);
    CHECK(s.between[u] == doctest::Approx(pairs).epsilon(1e-12));
    CHECK(s.between[u] + s.within[u] == doctest::Approx(total).epsilon(1e-12));
  }
}

TEST_CASE("the fixed point has the largest trace ratio of all sets, in 400 cases") {
  oracle::Random random(2);
  CAPTURE(random.seed);
  for (int i = 0; i < 400; ++i) {
    CAPTURE(i);
    const int channels = random.between(2, 10), count = random.between(1, channels);
    moe::Scatter s;
    for (int c = 0; c < channels; ++c) {
      s.between.push_back(std::pow(2.0, static_cast<double>(random.real(8))));
      s.within.push_back(std::pow(2.0, static_cast<double>(random.real(8))));
    }
    const moe::TraceRatio found = moe::maximise_trace_ratio(s, count);
    REQUIRE(static_cast<int>(found.kept.size()) == count);
    CHECK(found.ratio == doctest::Approx(best_ratio(s, count)).epsilon(1e-12));
    CHECK(found.ratio == doctest::Approx(ratio_of(s, found.kept)).epsilon(1e-12));
    CHECK(moe::best(found.scores, count) == found.kept);
  }
}

TEST_CASE("channels that never vary within a class are taken, and channels without response do no harm") {
  const moe::Scatter exact{{1, 5, 2, 0}, {0, 1, 0, 0}};
  CHECK(moe::maximise_trace_ratio(exact, 2).kept == std::vector<moe::ExpertId>{0, 2});
  CHECK(moe::maximise_trace_ratio(exact, 2).ratio == HUGE_VAL);
  const moe::Scatter silent{{0, 0, 0}, {0, 0, 0}};
  CHECK(moe::maximise_trace_ratio(silent, 2).kept == std::vector<moe::ExpertId>{0, 1});
  CHECK(moe::maximise_trace_ratio(silent, 2).ratio == 0);
}

TEST_CASE("experts that tell the classes apart are kept, not those that are used most") {
  // Expert 0 takes half of every token, more or less; 1 and 2 belong to one class each; 3 comes at random.
  oracle::Random random(3);
  CAPTURE(random.seed);
  for (const bool norms : {false, true}) {
    moe::RoutingTrace trace(2, 4);
    std::vector<int> classes;
    for (int t = 0; t < 300; ++t)
      for (int l = 0; l < 2; ++l) {
        const int c = random.below(2);
        classes.push_back(c);
        const int other = random.below(4) == 0 ? 3 : 1 + (c + l) % 2;
        const moe::Slot picks[2] = {{0, 0.5f + 0.4f * random.real()}, {other, 0.4f}};
        const float sizes[2] = {1, 2};
        trace.add(0, t, l, {picks, 2}, {sizes, norms ? 2 : 0});
      }
    CHECK(moe::keep_best(moe::catro(trace, classes, 2), 2).keep ==
          std::vector<std::vector<moe::ExpertId>>{{1, 2}, {1, 2}});
  }
}

TEST_CASE("responses are weights, times norms where the trace has them") {
  oracle::Random random(4);
  CAPTURE(random.seed);
  constexpr int tokens = 60, experts = 5, count = 2;
  for (const bool norms : {false, true}) {
    moe::RoutingTrace trace(1, experts);
    std::vector<int> classes;
    std::vector<float> h(tokens * experts);
    for (int t = 0; t < tokens; ++t) {
      classes.push_back(random.below(3));
      const int a = random.below(experts), b = (a + 1 + random.below(experts - 1)) % experts;
      const moe::Slot picks[2] = {{a, 0.75f}, {b, 0.25f}};
      const float sizes[2] = {std::fabs(random.real(4)), std::fabs(random.real(4))};
      trace.add(0, t, 0, {picks, 2}, {sizes, norms ? 2 : 0});
      h[static_cast<std::size_t>(t * experts + a)] = norms ? 0.75f * sizes[0] : 0.75f;
      h[static_cast<std::size_t>(t * experts + b)] = norms ? 0.25f * sizes[1] : 0.25f;
    }
    const moe::Scatter s = moe::class_scatter(view(h, experts), classes);
    const auto kept = moe::keep_best(moe::catro(trace, classes, count), count).keep[0];
    CHECK(ratio_of(s, kept) == doctest::Approx(best_ratio(s, count)).epsilon(1e-12));
  }
}

TEST_CASE("classes that are missing or negative are refused") {
  moe::RoutingTrace trace(1, 2);
  const moe::Slot pick{0, 1.0f};
  trace.add(0, 0, 0, {&pick, 1});
  const std::vector<int> none, negative = {-1};
  CHECK(message_of([&] { moe::catro(trace, none, 1); }) == "moe::catro: classes, one per record: expected 1, found 0");
  CHECK(message_of([&] { moe::catro(trace, negative, 1); }) ==
        "moe::class_scatter: class of a row: expected 0 or more, found -1");
}

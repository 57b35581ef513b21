#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <moe/offline/belady.hpp>
#include <moe/offline/trace_generator.hpp>
#include <tuple>

namespace {

using Made = std::vector<std::tuple<int, int, int, std::vector<int>, std::vector<float>>>;

Made made(const moe::RoutingTrace& trace) {
  Made all;
  for (const moe::TraceRecord& r : trace.records()) {
    std::vector<int> experts;
    std::vector<float> weights;
    for (const moe::Slot& s : trace.picks(r)) {
      experts.push_back(s.expert);
      weights.push_back(s.weight);
    }
    all.emplace_back(r.sequence, r.token, r.layer, experts, weights);
  }
  return all;
}

/// Share of picks that the token before made too, in the same layer.
double repeated(const moe::RoutingTrace& trace) {
  std::vector<std::vector<int>> before(static_cast<std::size_t>(trace.layers()));
  double same = 0, all = 0;
  for (const auto& [sequence, token, layer, experts, weights] : made(trace)) {
    std::vector<int>& last = before[static_cast<std::size_t>(layer)];
    if (token > 0)
      for (const int e : experts) {
        same += std::count(last.begin(), last.end(), e) > 0 ? 1 : 0;
        all += 1;
      }
    last = experts;
  }
  return same / all;
}

}  // namespace

TEST_CASE("records come in order of execution, with different experts and falling weights that sum to 1") {
  const moe::TraceShape shape{.layers = 3, .experts = 5, .k = 3, .sequences = 5, .tokens = 4, .batch = 2};
  const moe::RoutingTrace trace = moe::generate_trace(shape);
  CHECK(trace.k() == 3);
  std::size_t at = 0;
  for (int first = 0; first < 5; first += 2)
    for (int token = 0; token < 4; ++token)
      for (int layer = 0; layer < 3; ++layer)
        for (int s = first; s < std::min(first + 2, 5); ++s) {
          const moe::TraceRecord& r = trace.records().at(at++);
          CHECK(r.sequence == s);
          CHECK(r.token == token);
          CHECK(r.layer == layer);
          const moe::Row<const moe::Slot> picks = trace.picks(r);
          REQUIRE(picks.size() == 3);
          CHECK(std::fabs(picks[0].weight + picks[1].weight + picks[2].weight - 1) < 1e-6f);
          CHECK(picks[0].weight >= picks[1].weight);
          CHECK(picks[1].weight >= picks[2].weight);
          CHECK(picks[0].expert != picks[1].expert);
          CHECK(picks[1].expert != picks[2].expert);
          CHECK(picks[0].expert != picks[2].expert);
        }
  CHECK(at == trace.records().size());
}

TEST_CASE("the same bits on every machine") {
  std::uint64_t hash = 14695981039346656037ull;
  const auto mix = [&](std::uint64_t value) { hash = (hash ^ value) * 1099511628211ull; };
  for (const auto& [sequence, token, layer, experts, weights] : made(moe::generate_trace({.k = 3, .seed = 7}))) {
    for (const int e : experts) mix(static_cast<std::uint64_t>(e));
    for (const float w : weights) mix(moe::bit_cast<std::uint32_t>(w));
  }
  CHECK(hash == 8320177823957648205ull);
}

TEST_CASE("a sequence is the same however many run together, and another with another seed") {
  moe::TraceShape shape{.sequences = 6, .tokens = 9};
  Made alone = made(moe::generate_trace(shape));
  shape.batch = 4;
  Made together = made(moe::generate_trace(shape));
  CHECK(alone != together);
  std::sort(alone.begin(), alone.end());
  std::sort(together.begin(), together.end());
  CHECK(alone == together);
  shape.seed = 1;
  Made other = made(moe::generate_trace(shape));
  std::sort(other.begin(), other.end());
  CHECK(other != together);
}

TEST_CASE("weights are the softmax of the logits: exponentials are right to six digits") {
  for (int i = 0; i <= 4000; ++i) {
    const double x = -i / 100.0;
    const double found = static_cast<double>(moe::detail::fixed::exp_of_negative(moe::detail::fixed::from(x)));
    CHECK(std::fabs(found * 0x1p-40 - std::exp(x)) < 1e-6 * std::exp(x) + 0x1p-38);
  }
}

TEST_CASE("eight experts of which two are picked have Mixtral's split of importance") {
  const moe::RoutingTrace trace = moe::generate_trace({.layers = 16, .sequences = 4, .tokens = 1000});
  double high = 0, low = 0, none = 0;
  for (const moe::TraceRecord& r : trace.records()) {
    const float first = trace.picks(r)[0].weight;
    (first <= 0.6f ? high : first <= 0.9f ? low : none) += 1;
    high += 1;  // the first is always important
  }
  const double all = high + low + none;
  CHECK(std::fabs(high / all - 0.672) < 0.01);
  CHECK(std::fabs(low / all - 0.300) < 0.01);
  CHECK(std::fabs(none / all - 0.028) < 0.01);
}

TEST_CASE("rho makes neighbours alike; taste without rho favours LFU over LRU") {
  const auto with = [](double rho, double bias, double tau) {
    return moe::generate_trace({.layers = 4, .sequences = 4, .tokens = 400, .bias = bias, .rho = rho, .tau = tau});
  };
  CHECK(std::fabs(repeated(with(0, 0, 0.8)) - 0.25) < 0.02);  // 2 of 8
  CHECK(repeated(with(0.75, 0, 0.8)) > 0.4);
  CHECK(repeated(with(1, 0, 0.8)) == 1);
  const auto hits = [](const moe::RoutingTrace& trace, const auto& eviction) {
    return moe::replay(trace, {moe::CacheScope::layer, 3}, eviction).hits;
  };
  const moe::RoutingTrace taste = with(0.3, 1.5, 0.62), mood = with(0.95, 0, 0.8);
  CHECK(hits(taste, moe::Lfu{}) > hits(taste, moe::Lru{}));
  CHECK(hits(mood, moe::Lru{}) > hits(mood, moe::Lfu{}));
}

TEST_CASE("tau sharpens the weights") {
  const auto first = [](double tau) {
    const moe::RoutingTrace trace = moe::generate_trace({.tau = tau});
    double sum = 0;
    for (const moe::TraceRecord& r : trace.records()) sum += static_cast<double>(trace.picks(r)[0].weight);
    return sum / static_cast<double>(trace.records().size());
  };
  CHECK(first(0) == 0.5);
  CHECK(first(0.4) < first(0.8));
  CHECK(first(0.8) < first(1.6));
}

TEST_CASE("impossible shapes are refused") {
  CHECK_THROWS_AS(moe::generate_trace({.experts = 2, .k = 3}), moe::Error);
  CHECK_THROWS_AS(moe::generate_trace({.tokens = 0}), moe::Error);
  CHECK_THROWS_AS(moe::generate_trace({.rho = 1.01}), moe::Error);
  CHECK_THROWS_AS(moe::generate_trace({.tau = std::nan("")}), moe::Error);
}

#include <doctest/doctest.h>

#include <moe/offline/cache_allocation.hpp>
#include <moe/offline/trace_generator.hpp>
#include <numeric>

#include "offline/replay_oracle.hpp"

namespace {

using Numbers = std::vector<double>;
using Slots = std::vector<int>;

// What AdapMoE measured on Mixtral-8x7B (the statistics released with the paper), rounded.
const Numbers mixtral_beta{0,        0.566327, 0.721088, 0.789116, 0.865646, 0.858844, 0.829932, 0.840136,
                           0.848639, 0.80102,  0.897959, 0.897959, 0.892857, 0.909864, 0.92517,  0.880952,
                           0.914966, 0.938776, 0.904762, 0.879252, 0.87585,  0.892857, 0.879252, 0.87585,
                           0.887755, 0.884354, 0.921769, 0.913265, 0.886054, 0.89966,  0.903061, 0.85034};
const Numbers mixtral_alpha{0.000019, 0.034755, 0.004884, 0.00094,  0.000376, 0.002507, 0.007886, 0.034135,
                            0.034509, 0.049134, 0.012986, 0.019571, 0.029581, 0.005487, 0.015525, 0.028414,
                            0.063888, 0.070999, 0.140717, 0.280264, 0.298669, 0.365106, 0.414477, 0.355607,
                            0.495191, 0.520984, 0.547891, 0.618038, 0.779979, 0.883992, 0.975375, 0.857713};

/// The paper's sum for a layer of a top-2 model, by its cases.
double paper_cost(double alpha, double beta, int n, int t) {
  const double both = static_cast<double>((n - t) * (n - 1 - t)) / (n * (n - 1));
  const double one = static_cast<double>(2 * t * (n - t)) / (n * (n - 1));
  const double single = (1 - static_cast<double>(t) / n) * (1 - beta);
  return alpha * single + (1 - alpha) * (2 * both * (1 - beta) + both * beta + one * (1 - beta));
}
double paper_cost(const Numbers& alpha, const Numbers& beta, int n, const Slots& slots) {
  double sum = 0;
  for (std::size_t l = 0; l < slots.size(); ++l) sum += paper_cost(alpha[l], beta[l], n, slots[l]);
  return sum;
}
Slots runs(const std::vector<std::pair<int, int>>& value_and_count) {
  Slots slots;
  for (const auto& [value, count] : value_and_count) slots.insert(slots.end(), static_cast<std::size_t>(count), value);
  return slots;
}

}  // namespace

TEST_CASE("expected loads are the paper's for one and two picks") {
  for (int n = 2; n <= 9; ++n)
    for (int t = 0; t <= n; ++t)
      for (const double alpha : {0.0, 0.3, 1.0})
        for (const double beta : {0.0, 0.25, 0.9, 1.0}) {
          const double found =
              alpha * moe::expected_loads(n, 1, t, beta) + (1 - alpha) * moe::expected_loads(n, 2, t, beta);
          CHECK(std::fabs(found - paper_cost(alpha, beta, n, t)) < 1e-14);
        }
}

TEST_CASE("expected loads are what random residency costs") {
  replay_oracle::Dice dice{4};
  constexpr int experts = 10, picks = 4, held = 6, draws = 100000;
  constexpr double beta = 0.4;
  double sum = 0, squares = 0;
  for (int i = 0; i < draws; ++i) {
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    int misses = 0;
    for (int p = 0; p < picks; ++p) {
      std::swap(order[static_cast<std::size_t>(p)], order[static_cast<std::size_t>(p + dice.below(experts - p))]);
      misses += order[static_cast<std::size_t>(p)] >= held ? 1 : 0;
    }
    const double loads = misses - (misses > 0 ? beta : 0);
    sum += loads;
    squares += loads * loads;
  }
  const double mean = sum / draws, sigma = std::sqrt((squares / draws - mean * mean) / draws);
  CHECK(std::fabs(mean - moe::expected_loads(experts, picks, held, beta)) < 3 * sigma);
}

TEST_CASE("the allocation is as good as the best of all") {
  replay_oracle::Dice dice{1};
  constexpr int layers = 4, experts = 4;
  for (int round = 0; round < 12; ++round) {
    Numbers alpha, beta;
    for (int l = 0; l < layers; ++l) {
      alpha.push_back(dice.below(100) / 100.0);
      beta.push_back(dice.below(100) / 100.0);
    }
    for (const int least : {0, 1}) {
      std::vector<double> best(layers * experts + 1, 1e300);
      for (int code = 0; code < 625; ++code) {
        const Slots slots{code % 5, code / 5 % 5, code / 25 % 5, code / 125};
        if (*std::min_element(slots.begin(), slots.end()) < least) continue;
        const double cost = paper_cost(alpha, beta, experts, slots);
        for (auto all = static_cast<std::size_t>(std::accumulate(slots.begin(), slots.end(), 0)); all < best.size();
             ++all)
          best[all] = std::min(best[all], cost);
      }
      for (int total = least * layers; total <= layers * experts; ++total) {
        const Slots found = moe::allocate_cache(alpha, beta, experts, 2, total, least);
        CAPTURE(total);
        CHECK(std::accumulate(found.begin(), found.end(), 0) <= total);
        CHECK(*std::min_element(found.begin(), found.end()) >= least);
        CHECK(*std::max_element(found.begin(), found.end()) <= experts);
        CHECK(std::fabs(paper_cost(alpha, beta, experts, found) - best[static_cast<std::size_t>(total)]) < 1e-9);
      }
    }
  }
}

TEST_CASE("with the paper's statistics of Mixtral the slots are the paper's") {
  const auto slots = [](int total, int least) {
    return moe::allocate_cache(mixtral_alpha, mixtral_beta, 8, 2, total, least);
  };
  CHECK(slots(64, 1) == runs({{8, 1}, {4, 1}, {3, 5}, {2, 12}, {1, 13}}));
  CHECK(slots(128, 1) == runs({{8, 1}, {7, 1}, {6, 2}, {5, 14}, {4, 3}, {3, 3}, {2, 2}, {1, 6}}));
  const auto cost = [](const Slots& s) { return paper_cost(mixtral_alpha, mixtral_beta, 8, s); };
  const std::vector<std::array<double, 4>> published{{64, 17.68, 16.16, 15.30}, {96, 12.96, 10.90, 10.45},
                                                     {128, 8.96, 6.91, 6.66},   {160, 5.66, 3.94, 3.80},
                                                     {192, 3.07, 1.90, 1.86},   {224, 1.18, 0.64, 0.63}};
  for (const auto& [total, uniform, at_least_one, with_zero] : published) {
    const int all = static_cast<int>(total);
    CHECK(std::fabs(cost(Slots(32, all / 32)) - uniform) < 0.006);
    CHECK(std::fabs(cost(slots(all, 1)) - at_least_one) < 0.006);
    CHECK(std::fabs(cost(slots(all, 0)) - with_zero) < 0.006);
  }
}

TEST_CASE("of equally good allocations the evenest is chosen") {
  const Numbers none(4, 0.0), half(4, 0.5);
  CHECK(moe::allocate_cache(none, none, 8, 2, 12) == Slots{3, 3, 3, 3});  // linear costs: any would do
  CHECK(moe::allocate_cache(half, none, 8, 2, 20) == Slots{5, 5, 5, 5});
}

TEST_CASE("more slots never cost more") {
  double before = 1e300;
  for (int total = 0; total <= 8 * 32 + 5; ++total) {
    const Slots found = moe::allocate_cache(mixtral_alpha, mixtral_beta, 8, 2, total);
    const double cost = paper_cost(mixtral_alpha, mixtral_beta, 8, found);
    CHECK(cost <= before + 1e-12);
    before = cost;
  }
  CHECK(before < 1e-12);
}

TEST_CASE("on a trace: alpha after the gate, and slots where they are missed") {
  moe::RoutingTrace trace(3, 4);
  const moe::Slot even[] = {{0, 0.5f}, {1, 0.5f}}, uneven[] = {{2, 0.875f}, {3, 0.125f}};
  for (int token = 0; token < 4; ++token) {
    trace.add(0, token, 0, {token == 0 ? even : uneven, 2});
    trace.add(0, token, 1, {even, 2});
  }
  CHECK(moe::single_expert_shares(trace, {0.25, 0.25, 0.25}) == Numbers{0.75, 0, 0});
  CHECK(moe::single_expert_shares(trace) == Numbers{0, 0, 0});
  const Numbers nothing(3, 0.0);
  const Slots found = moe::allocate_cache(trace, {0.25, 0.25, 0.25}, nothing, 4);
  CHECK(found == Slots{0, 4, 0});  // layer 1 picks twice as often as layer 0, layer 2 never
  CHECK(moe::allocate_cache(trace, {}, nothing, 100) == Slots{4, 4, 0});
}

TEST_CASE("an allocation for a trace is the paper's where all records have one or two picks") {
  const moe::RoutingTrace trace = moe::generate_trace({.layers = 5, .experts = 6, .k = 2, .tokens = 30, .tau = 1.5});
  const Numbers gate{0.1, 0.2, 0.3, 0.4, 0.5}, beta{0, 0.5, 0.6, 0.7, 0.8};
  const Numbers alpha = moe::single_expert_shares(trace, gate);
  CHECK(*std::max_element(alpha.begin(), alpha.end()) > 0.3);
  for (const int total : {3, 10, 20})
    CHECK(moe::allocate_cache(trace, gate, beta, total) == moe::allocate_cache(alpha, beta, 6, 2, total));
}

TEST_CASE("an allocation by reuse leaves as few loads on demand as the best of all") {
  constexpr int layers = 3, experts = 4;
  const moe::RoutingTrace trace =
      moe::generate_trace({.layers = layers, .experts = experts, .k = 2, .sequences = 2, .tokens = 20, .seed = 3});
  const Numbers gate{0.1, 0.3, 0.5};
  constexpr double calls = 40;  // of each layer: one a token
  const auto cost = [&](const Numbers& beta, const Slots& slots) {
    double sum = 0;
    for (int l = 0; l < layers; ++l) {
      const auto at = static_cast<std::size_t>(l);
      Slots alone(layers, 0);
      alone[at] = slots[at];
      const auto counts = moe::replay(trace, {moe::CacheScope::layer, 0, alone}, moe::Lru{}, {.gate = gate});
      double own = -static_cast<double>(counts.hits);  // all of this layer
      for (const moe::TraceRecord& r : trace.records())
        if (r.layer == l) own += trace.weight(r, 1) < gate[at] ? 1 : 2;
      sum += own - std::min(beta[at] * own, beta[at] * slots[at] * calls);
    }
    return sum;
  };
  for (const Numbers& beta : {Numbers{0, 0, 0}, Numbers{0.9, 0.9, 0.9}, Numbers{0, 0.5, 1}})
    for (const int least : {0, 1}) {
      std::vector<double> best(layers * experts + 1, 1e300);
      for (int code = 0; code < 125; ++code) {
        const Slots slots{code % 5, code / 5 % 5, code / 25};
        if (*std::min_element(slots.begin(), slots.end()) < least) continue;
        const double found = cost(beta, slots);
        for (auto all = static_cast<std::size_t>(std::accumulate(slots.begin(), slots.end(), 0)); all < best.size();
             ++all)
          best[all] = std::min(best[all], found);
      }
      for (int total = least * layers; total <= layers * experts; ++total) {
        const Slots found = moe::allocate_by_reuse(trace, gate, beta, total, least);
        CAPTURE(total);
        CHECK(std::accumulate(found.begin(), found.end(), 0) <= total);
        CHECK(*std::min_element(found.begin(), found.end()) >= least);
        CHECK(std::fabs(cost(beta, found) - best[static_cast<std::size_t>(total)]) < 1e-6);
      }
    }
}

TEST_CASE("over many experts the paper's slots are worse than even ones, and those by reuse better") {
  constexpr int layers = 7, experts = 128, k = 8, slots = layers * experts / 4;
  const moe::RoutingTrace trace = moe::generate_trace({.layers = layers, .experts = experts, .k = k, .tokens = 24});
  const Numbers gate{0.007, 0.013, 0.024, 0.045, 0.085, 0.16, 0.3}, beta(layers, 0.86);
  const auto loads = [&](const Slots& by_layer) {
    return moe::replay(trace, {moe::CacheScope::layer, 0, by_layer}, moe::Lru{}, {.gate = gate}).loads;
  };
  const auto even = loads(Slots(layers, slots / layers));
  const Slots paper = moe::allocate_cache(trace, gate, beta, slots);
  CHECK(*std::min_element(paper.begin(), paper.end()) == 0);
  CHECK(loads(paper) > even);
  const Slots reuse = moe::allocate_by_reuse(trace, gate, beta, slots);
  CHECK(*std::min_element(reuse.begin(), reuse.end()) >= k);  // room for the guesses of a call
  CHECK(loads(reuse) < even);
}

TEST_CASE("impossible allocations are refused") {
  const Numbers two{0.5, 0.5}, three{0, 0, 0};
  CHECK_THROWS_AS(moe::allocate_cache(two, three, 4, 2, 4), moe::Error);
  CHECK_THROWS_AS(moe::allocate_cache(two, two, 4, 2, 1, 1), moe::Error);
  CHECK_THROWS_AS(moe::allocate_cache(two, two, 4, 2, -1), moe::Error);
  CHECK_THROWS_AS(moe::allocate_cache(two, two, 4, 2, 10, -1), moe::Error);
  CHECK_THROWS_AS(moe::allocate_cache(two, two, 4, 2, 100, 5), moe::Error);
  const moe::RoutingTrace trace = moe::generate_trace({.layers = 2, .experts = 4, .k = 2, .tokens = 2});
  CHECK_THROWS_AS(moe::allocate_by_reuse(trace, {}, three, 4), moe::Error);
  CHECK_THROWS_AS(moe::allocate_by_reuse(trace, {}, two, 1, 1), moe::Error);
}

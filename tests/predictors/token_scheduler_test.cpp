// TokenScheduler against all balanced splits of ten tokens, and layers that do not notice the order of their rows.
#include <moe/predictors/token_scheduler.hpp>

#include <algorithm>
#include <numeric>
#include <set>

#include "../layer_support.hpp"

using moe::RoutingPaths;
using moe::TokenSchedule;
using moe::TokenScheduler;

namespace {

using Path = std::set<std::pair<int, int>>;  // (layer, expert)

struct Planted {
  int tokens = 10, layers = 18, experts = 16, k = 2;
  double noise = 0;  // the share of picks that are replaced by any expert

  /// Tokens of two groups in turn; the experts of the groups are disjoint.
  std::vector<Path> paths(oracle::Random& random) const {
    std::vector<Path> out(static_cast<std::size_t>(tokens));
    for (int t = 0; t < tokens; ++t)
      for (int l = 0; l < layers; ++l)
        for (int i = 0; i < k; ++i) {
          const bool replaced = random.below(1000) < static_cast<int>(1000 * noise);
          const int planted = (l + (t % 2) * k + i) % experts;
          out[static_cast<std::size_t>(t)].insert({l, replaced ? random.below(experts) : planted});
        }
    return out;
  }
};

RoutingPaths bits_of(const std::vector<Path>& paths, int layers, int experts) {
  RoutingPaths bits(static_cast<int>(paths.size()), layers, experts);
  for (std::size_t t = 0; t < paths.size(); ++t)
    for (const auto& [layer, expert] : paths[t]) bits.set(static_cast<int>(t), layer, expert);
  return bits;
}

/// Loads of one batch, counted with sets.
std::int64_t loads(const std::vector<Path>& paths, std::span<const int> batch, int layers, int cached) {
  Path all;
  for (const int t : batch)
    all.insert(paths[static_cast<std::size_t>(t)].begin(), paths[static_cast<std::size_t>(t)].end());
  std::int64_t total = 0;
  for (int l = 0; l < layers; ++l) {
    const auto used = std::count_if(all.begin(), all.end(), [&](const auto& use) { return use.first == l; });
    total += std::max<std::int64_t>(0, used - cached);
  }
  return total;
}
std::int64_t loads_of_halves(const std::vector<Path>& paths, const std::vector<int>& order, int layers, int cached) {
  const std::span<const int> all(order);
  return loads(paths, all.first(order.size() / 2), layers, cached) +
         loads(paths, all.subspan(order.size() / 2), layers, cached);
}

std::vector<int> in_order(std::size_t n) {
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

struct Best {
  std::int64_t cost = INT64_MAX;
  int splits = 0;
};
/// Token 0 stays in the first half: every split once.
Best best_split(const std::vector<Path>& paths, int layers, int cached) {
  Best best;
  std::vector<bool> second(paths.size(), false);
  std::fill(second.end() - static_cast<std::ptrdiff_t>(paths.size() / 2), second.end(), true);
  do {
    if (second[0]) continue;
    std::vector<int> order;
    for (const bool half : {false, true})
      for (std::size_t t = 0; t < paths.size(); ++t)
        if (second[t] == half) order.push_back(static_cast<int>(t));
    best.cost = std::min(best.cost, loads_of_halves(paths, order, layers, cached));
    ++best.splits;
  } while (std::next_permutation(second.begin(), second.end()));
  return best;
}

}  // namespace

TEST_CASE("two planted groups are separated: 72 loads instead of 144") {
  oracle::Random random(1);
  const Planted planted;
  const auto paths = planted.paths(random);
  const TokenSchedule schedule = TokenScheduler{}(bits_of(paths, planted.layers, planted.experts));
  CHECK(schedule.cost_before == 144);
  CHECK(schedule.cost == 72);
  CHECK(schedule.order == std::vector<int>{0, 2, 4, 6, 8, 1, 3, 5, 7, 9});
  CHECK(best_split(paths, planted.layers, 0).cost == 72);
}

TEST_CASE("with noise eight restarts find the best of all 126 balanced splits") {
  for (const double noise : {0.2, 0.4})
    for (const unsigned seed : {1u, 2u, 3u, 4u, 5u}) {
      CAPTURE(noise);
      CAPTURE(seed);
      oracle::Random random(seed);
      const Planted planted{.noise = noise};
      const auto paths = planted.paths(random);
      const Best best = best_split(paths, planted.layers, 0);
      CHECK(best.splits == 126);
      const TokenSchedule schedule = TokenScheduler{.restarts = 8}(bits_of(paths, planted.layers, planted.experts));
      CHECK(schedule.cost == best.cost);
      CHECK(schedule.cost < schedule.cost_before);
    }
}

TEST_CASE("the costs are those of sets, below them no split and no union of all can be") {
  oracle::Random random(7);
  for (int trial = 0; trial < 40; ++trial) {
    const int layers = 1 + random.below(4), experts = 1 + random.below(130);
    const Planted planted{10, layers, experts, 1 + random.below(3), 0.1 * random.below(11)};
    const int cached = random.below(3);
    CAPTURE(trial);
    const auto paths = planted.paths(random);
    const TokenScheduler scheduler{.cached_slots = cached, .restarts = 3, .seed = static_cast<unsigned>(trial)};
    const TokenSchedule s = scheduler(bits_of(paths, layers, experts));
    CHECK(s.cost == loads_of_halves(paths, s.order, layers, cached));
    CHECK(s.cost_before == loads_of_halves(paths, in_order(10), layers, cached));
    CHECK(s.cost <= s.cost_before);
    const Best best = best_split(paths, layers, cached);
    CHECK(s.cost >= best.cost);
    CHECK(best.cost >= loads(paths, in_order(10), layers, 2 * cached));  // (A-c) + (B-c) >= union - 2c
    if (s.cost == s.cost_before) CHECK(s.order == in_order(10));
  }
}

TEST_CASE("the halves have the same size and each token stands in one of them") {
  oracle::Random random(3);
  for (const int tokens : {0, 2, 4, 6, 32, 128}) {
    CAPTURE(tokens);
    const Planted planted{.tokens = tokens, .noise = 0.5};
    const TokenSchedule s = TokenScheduler{}(bits_of(planted.paths(random), planted.layers, planted.experts));
    std::vector<int> sorted = s.order;
    std::sort(sorted.begin(), sorted.end());
    CHECK(sorted == in_order(static_cast<std::size_t>(tokens)));
    for (std::size_t i = 0; i < sorted.size(); ++i)
      CHECK(s.inverse[static_cast<std::size_t>(s.order[i])] == static_cast<int>(i));
  }
}

TEST_CASE("the same paths and seed give the same schedule, and more restarts never a worse one") {
  oracle::Random random(5);
  const Planted planted{.tokens = 24, .noise = 0.5};
  const RoutingPaths paths = bits_of(planted.paths(random), planted.layers, planted.experts);
  const TokenSchedule once = TokenScheduler{.restarts = 2, .seed = 9}(paths);
  CHECK(once.order == TokenScheduler{.restarts = 2, .seed = 9}(paths).order);
  CHECK(TokenScheduler{.restarts = 8, .seed = 9}(paths).cost <= once.cost);
}

TEST_CASE("with a cache that holds all that is used, nothing is loaded and the order stays") {
  oracle::Random random(1);
  const Planted planted;
  const TokenSchedule s =
      TokenScheduler{.cached_slots = 4}(bits_of(planted.paths(random), planted.layers, planted.experts));
  CHECK(s.cost == 0);
  CHECK(s.order == in_order(10));
}

TEST_CASE("where paths do not say, the length term puts sequences of like length together") {
  // Each token shares one of two experts with two others, none with the third: 8 loads in order, 6 in both other
  // splits.
  RoutingPaths paths(4, 1, 4);
  const int uses[4][2] = {{0, 1}, {2, 3}, {0, 2}, {1, 3}};
  for (int t = 0; t < 4; ++t)
    for (const int e : uses[t]) paths.set(t, 0, e);
  const auto order = [&](std::vector<int> lengths) {
    const TokenSchedule s = TokenScheduler{.restarts = 8, .length_weight = 1.5}(paths, lengths);
    CHECK(s.cost_before == 8);
    CHECK(s.cost == 6);
    return s.order;
  };
  CHECK(order({10, 200, 200, 10}) == std::vector<int>{0, 3, 1, 2});
  CHECK(order({10, 200, 10, 200}) == std::vector<int>{0, 2, 1, 3});
  CHECK(order({10, 10, 200, 200}) != std::vector<int>{0, 1, 2, 3});  // but never at the price of loads
}

TEST_CASE("rows that are scheduled, computed and put back are those of the plain layer, bit by bit") {
  oracle::Random random(11);
  const Problem<moe::bf16> p({.tokens = 16, .hidden = 40, .ffn = 24, .experts = 8, .k = 2}, random);
  const auto layer = make_layer(p);
  const std::vector<float> y = forward(layer, p);

  const std::vector<float> logits = gate_logits(p);
  const TokenSchedule schedule =
      TokenScheduler{.restarts = 4}(moe::top_paths(view(logits, p.setup.experts), p.setup.experts, p.setup.k));
  REQUIRE(schedule.order != in_order(16));
  std::vector<float> x(p.x.size()), moved(p.x.size()), back(p.x.size());
  moe::gather_rows(std::span<const int>(schedule.order), p.x_view(), view(x, p.setup.hidden));
  moe::Workspace ws(layer.workspace(8));
  for (const int half : {0, 8})
    layer.forward(view(std::as_const(x), p.setup.hidden).slice(half, 8), view(moved, p.setup.hidden).slice(half, 8),
                  ws);
  moe::gather_rows(std::span<const int>(schedule.inverse), view(std::as_const(moved), p.setup.hidden),
                   view(back, p.setup.hidden));
  CHECK(bits(back) == bits(y));
}

TEST_CASE("rows of a KV cache move as bytes, and back") {
  oracle::Random random(2);
  const Planted planted{.noise = 0.3};
  const TokenSchedule s = TokenScheduler{}(bits_of(planted.paths(random), planted.layers, planted.experts));
  std::vector<unsigned char> cache(10 * 7), moved(cache.size()), back(cache.size());
  for (std::size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<unsigned char>(i);
  moe::gather_rows(std::span<const int>(s.order), moe::View<const unsigned char>(cache.data(), 10, 7),
                   moe::View<unsigned char>(moved.data(), 10, 7));
  CHECK(moved[7] == 7 * s.order[1]);
  moe::gather_rows(std::span<const int>(s.inverse), moe::View<const unsigned char>(moved.data(), 10, 7),
                   moe::View<unsigned char>(back.data(), 10, 7));
  CHECK(back == cache);
}

TEST_CASE("what does not fit is refused with what was expected") {
  const RoutingPaths three(3, 1, 4), four(4, 1, 4);
  const std::vector<int> lengths = {1, 2, 3};
  CHECK(message_of([&] { TokenScheduler{}(three); }) ==
        "moe::TokenScheduler: tokens: expected an even number, found 3");
  CHECK(message_of([&] { TokenScheduler{}(four, lengths); }) == "moe::TokenScheduler: lengths: expected 4, found 3");
  CHECK(message_of([&] { TokenScheduler{.restarts = 0}(four); }) ==
        "moe::TokenScheduler: restarts: expected at least 1, found 0");
  CHECK(message_of([&] { TokenScheduler{.cached_slots = -1}(four); }) ==
        "moe::TokenScheduler: cached_slots: expected 0 or more, found -1");
  const std::vector<int> order = {0, 2};
  std::vector<float> from(4), to(4);
  CHECK(message_of([&] { moe::gather_rows(std::span<const int>(order), view(std::as_const(from), 2), view(to, 2)); }) ==
        "moe::gather_rows: row: expected 0 to 1, found 2");
}

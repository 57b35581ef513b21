// The options of TopK by which families differ, against a double-precision text of the same rules.
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <moe/routers/top_k.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "laws/router_laws.hpp"

using moe::GroupLimit;
using moe::Normalisation;
using moe::Score;
using moe::TopK;
using router_laws::choose;

namespace {

using Numbers = std::vector<double>;

// ---- the rules once more, on whole vectors

double mapped(const TopK& r, float logit) {
  double l = static_cast<double>(logit) * static_cast<double>(r.logits.scale);
  const auto cap = static_cast<double>(r.logits.softcap);
  if (cap > 0) l = cap * std::tanh(l / cap);
  return l;
}
Numbers scores_of(const TopK& r, const std::vector<float>& logits, int choosable) {
  Numbers l;
  for (const float x : logits) l.push_back(mapped(r, x));
  if (r.score == Score::sigmoid)
    for (double& x : l) x = 1 / (1 + std::exp(-x));
  if (r.score == Score::sqrt_softplus)
    for (double& x : l) x = std::sqrt(std::log1p(std::exp(x)));
  if (r.score == Score::softmax) {
    double sum = 0;
    for (int e = 0; e < choosable; ++e) sum += std::exp(l[static_cast<std::size_t>(e)]);
    for (double& x : l) x = std::exp(x) / sum;
  }
  return l;
}
/// What experts are compared by.
Numbers keys_of(const TopK& r, const Numbers& scores) {
  Numbers keys(scores.begin(), scores.begin() + (r.experts + r.identities + r.nulls));
  for (std::size_t e = 0; e < keys.size(); ++e)
    if (!r.bias.values.empty()) keys[e] += static_cast<double>(r.bias.values[static_cast<int>(e)]);
  if (r.groups.count == 1) return keys;
  const std::size_t size = keys.size() / static_cast<std::size_t>(r.groups.count);
  std::vector<std::pair<double, int>> groups;
  for (int g = 0; g < r.groups.count; ++g) {
    Numbers inside(keys.begin() + g * static_cast<std::ptrdiff_t>(size),
                   keys.begin() + (g + 1) * static_cast<std::ptrdiff_t>(size));
    std::sort(inside.rbegin(), inside.rend());
    const bool two = r.groups.by == GroupLimit::By::two_best && inside.size() > 1;
    groups.emplace_back(two ? inside[0] + inside[1] : inside[0], -g);
  }
  std::sort(groups.rbegin(), groups.rend());
  for (std::size_t i = static_cast<std::size_t>(r.groups.kept); i < groups.size(); ++i)
    for (std::size_t e = 0; e < size; ++e)
      keys[static_cast<std::size_t>(-groups[i].second) * size + e] =
          r.groups.others == GroupLimit::Others::zero ? 0 : -HUGE_VAL;
  return keys;
}
std::vector<std::pair<int, double>> expected(const TopK& r, const std::vector<float>& logits) {
  const int choosable = r.experts + r.identities + r.nulls;
  const Numbers scores = scores_of(r, logits, choosable), keys = keys_of(r, scores);
  std::vector<int> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return keys[static_cast<std::size_t>(a)] > keys[static_cast<std::size_t>(b)]; });
  std::vector<std::pair<int, double>> picks;
  for (int i = 0; i < r.k; ++i)
    picks.emplace_back(order[static_cast<std::size_t>(i)],
                       scores[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]);
  double total = 0;
  for (auto& [e, w] : picks) total += w;
  for (int s = 0; s < r.shared; ++s) total += scores[static_cast<std::size_t>(choosable + s)];
  const double divisor =
      std::max(total + static_cast<double>(r.normalise.epsilon), static_cast<double>(r.normalise.floor));
  for (auto& [e, w] : picks) {
    if (r.normalise.by == Normalisation::By::sum) w /= divisor;
    if (!r.expert_scale.empty()) w *= static_cast<double>(r.expert_scale[e]);
    w *= static_cast<double>(r.scale);
  }
  return picks;
}

/// Scores are within about 12 roundings of the exact ones and sums add one for each term, so 2^-24 * 2 * (E + 12)
/// bounds the relative error of every weight.
double bound(const TopK& r, double weight) {
  return std::ldexp(2.0 * (moe::num_logits(r) + 12), -24) * std::fabs(weight);
}

/// Logits that are 1/16 apart, or 1/64 where there are many, so that float and double order scores alike: within [-4,
/// 4) neither a sigmoid nor an exponential saturates.
std::vector<float> separated(oracle::Random& random, int n) {
  const int count = std::max(n, 128);
  std::vector<int> steps(static_cast<std::size_t>(count));
  std::iota(steps.begin(), steps.end(), -count / 2);
  std::shuffle(steps.begin(), steps.end(), random.engine);
  std::vector<float> logits;
  for (int i = 0; i < n; ++i)
    logits.push_back(static_cast<float>(steps[static_cast<std::size_t>(i)]) / (count > 128 ? 64.0f : 16.0f));
  return logits;
}
void agrees(const TopK& router, std::uint64_t seed) {
  oracle::Random random(seed);
  CAPTURE(seed);
  for (int round = 0; round < 200; ++round) {
    const std::vector<float> logits = separated(random, moe::num_logits(router));
    const auto want = expected(router, logits);
    const std::vector<moe::Slot> found = choose(router, logits);
    REQUIRE(found.size() == want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      CHECK(found[i].expert == want[i].first);
      CHECK(std::fabs(static_cast<double>(found[i].weight) - want[i].second) <= bound(router, want[i].second));
    }
  }
}
moe::Row<const float> row(const std::vector<float>& v) { return {v.data(), static_cast<int>(v.size())}; }

}  // namespace

TEST_CASE("a selection bias moves the choice and not the weight") {
  const std::vector<float> bias{0.3f, -0.2f, 0, 0.1f, 0.4f, -0.4f, 0.2f, 0};
  for (const Score score : {Score::sigmoid, Score::softmax, Score::sqrt_softplus}) {
    agrees({.experts = 8,
            .k = 3,
            .score = score,
            .normalise = Normalisation::by_sum(1e-20f),
            .scale = 2.5f,
            .bias = {row(bias)}},
           1);
  }
}
TEST_CASE("a bias on the logit leaves the weight to the unbiased one") {
  const std::vector<float> bias{4, 0, 0, 0};
  const TopK router{.experts = 4, .k = 1, .score = Score::sigmoid, .bias = {row(bias), moe::BiasOn::logit}};
  const auto picks = choose(router, {-1, 2, 0, 1});
  CHECK(picks[0].expert == 0);
  CHECK(picks[0].weight == moe::sigmoid(-1));
}
TEST_CASE("groups by their best expert, and by their two best") {
  for (const GroupLimit::By by : {GroupLimit::By::maximum, GroupLimit::By::two_best})
    for (const Score score : {Score::softmax, Score::sigmoid})
      agrees({.experts = 12, .k = 4, .score = score, .groups = {.count = 4, .kept = 2, .by = by}}, 2);
}
TEST_CASE("biased groups as in DeepSeek-V3") {
  const std::vector<float> bias{0.1f, 0.2f, -0.3f, 0, 0, 0.05f, 0.4f, -0.1f, 0.3f, 0, 0.15f, -0.2f};
  agrees({.experts = 12,
          .k = 5,
          .score = Score::sigmoid,
          .normalise = Normalisation::by_sum(1e-20f),
          .scale = 2.5f,
          .bias = {row(bias)},
          .groups = {.count = 4, .kept = 3, .by = GroupLimit::By::two_best}},
         3);
}
TEST_CASE("experts of other groups compete with zero, and beat a negative biased score") {
  const std::vector<float> bias{-2, -2, -2, -2, -9, -9, -9, -9};
  const TopK router{.experts = 8,
                    .k = 2,
                    .score = Score::sigmoid,
                    .bias = {row(bias)},
                    .groups = {.count = 2, .kept = 1, .others = GroupLimit::Others::zero}};
  const std::vector<int> found = router_laws::ids(choose(router, std::vector<float>(8, 0.0f)));
  CHECK(found == std::vector<int>{4, 5});
  TopK excluding = router;
  excluding.groups.others = GroupLimit::Others::excluded;
  CHECK(router_laws::ids(choose(excluding, std::vector<float>(8, 0.0f))) == std::vector<int>{0, 1});
}
TEST_CASE("logits are scaled and capped before anything else") {
  agrees({.experts = 6, .k = 2, .score = Score::sigmoid, .logits = {.scale = 0.1768f}}, 4);
  agrees({.experts = 6, .k = 2, .score = Score::softmax, .logits = {.scale = 1, .softcap = 3}}, 5);
  agrees({.experts = 6, .k = 2, .score = Score::softmax, .logits = {.scale = 1, .softcap = 0.5f}}, 6);
}
TEST_CASE("every expert has a scale of its own") {
  const std::vector<float> scale{1, 0.5f, 2, 0.25f, 4, 1};
  agrees(
      {.experts = 6, .k = 3, .score = Score::softmax, .normalise = Normalisation::by_sum(), .expert_scale = row(scale)},
      6);
}
TEST_CASE("identities and nulls are chosen like experts, behind them") {
  const TopK router{.experts = 4, .k = 5, .score = Score::softmax, .scale = 6, .identities = 2, .nulls = 1};
  agrees(router, 7);
  CHECK(moe::num_logits(router) == 7);
  const moe::IdMap ids = router.ids();
  CHECK((ids.network(3) && ids.identity(4) && ids.identity(5)));
  CHECK_FALSE((ids.network(6) || ids.identity(6)));
}
TEST_CASE("logits of shared experts share the normalisation and are never chosen") {
  const TopK router{.experts = 5, .k = 2, .score = Score::sigmoid, .normalise = Normalisation::by_sum(), .shared = 2};
  agrees(router, 8);
  const std::vector<float> logits{1, 0, -1, 2, 0.5f, 9, 8};
  const auto picked = choose(router, logits);
  std::vector<float> shared(2);
  moe::RowContext context;
  context.logits = row(logits);
  router.weigh_shared(context, {picked.data(), 2}, {shared.data(), 2});
  CHECK(std::fabs(picked[0].weight + picked[1].weight + shared[0] + shared[1] - 1) <= 4 * 0x1p-24f);
  const double total =
      1 / (1 + std::exp(-1.0)) + 1 / (1 + std::exp(-2.0)) + 1 / (1 + std::exp(-9.0)) + 1 / (1 + std::exp(-8.0));
  CHECK(std::fabs(static_cast<double>(shared[0]) - 1 / (1 + std::exp(-9.0)) / total) <= 1e-6);
}
TEST_CASE("ids chosen by other means get the weights they would have had") {
  const TopK router{.experts = 8, .k = 3, .score = Score::softmax, .normalise = Normalisation::by_sum(), .scale = 3};
  oracle::Random random(9);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = separated(random, 8);
    const std::vector<moe::Slot> chosen = choose(router, logits);
    std::vector<moe::Slot> again = chosen;
    for (moe::Slot& s : again) s.weight = -1;
    moe::RowContext context;
    context.logits = row(logits);
    router.weigh(context, {again.data(), 3});
    CHECK(bits(router_laws::weights(again)) == bits(router_laws::weights(chosen)));
  }
}
TEST_CASE("ids beyond the logits weigh nothing, and the others as if they were not there") {
  const std::vector<float> logits{1, 0, -1, 2};
  moe::RowContext context;
  context.logits = row(logits);
  for (const Score score : {Score::softmax_of_picked, Score::softmax, Score::sigmoid}) {
    const TopK router{.experts = 4, .k = 2, .score = score};
    std::vector<moe::Slot> some{{3, 0}, {0, 0}}, more{{3, 0}, {-7, 1}, {0, 0}, {4, 1}};
    router.weigh(context, {some.data(), 2});
    router.weigh(context, {more.data(), 4});
    CHECK(bits(router_laws::weights(more)) == bits(std::vector<float>{some[0].weight, 0, some[1].weight, 0}));
  }
}
TEST_CASE("groups by the hundred, and groups of one, are chosen as sorting says") {
  for (const int size : {1, 2, 3})
    for (const GroupLimit::By by : {GroupLimit::By::maximum, GroupLimit::By::two_best})
      for (const int kept : {1, 7, 70, 150})
        agrees({.experts = 150 * size,
                .k = kept < 5 ? 1 : 5,
                .score = Score::sigmoid,
                .groups = {.count = 150, .kept = kept, .by = by}},
               static_cast<std::uint64_t>(40 + kept + size));
}
TEST_CASE("a group's score by two best is that of its only usable expert, whatever the mask left out") {
  const TopK router{
      .experts = 6, .k = 1, .score = Score::sigmoid, .groups = {.count = 2, .kept = 1, .by = GroupLimit::By::two_best}};
  const std::vector<float> logits{3, 9, 9, -1, -1, -1};  // 0.95 alone, or 0.27 + 0.27
  const std::uint32_t mask = 0b111001;
  CHECK(router_laws::ids(choose(router, logits, -1, &mask)) == std::vector<int>{0});
  const std::vector<float> close{0, 9, 9, -0.5f, -0.5f, -9};  // 0.5 alone, against 0.38 + 0.38
  CHECK(router_laws::ids(choose(router, close, -1, &mask)) == std::vector<int>{3});
}
TEST_CASE("an infinite logit weighs as the largest number, and NaN nothing, where logits are weights") {
  const auto picks = choose(TopK{.experts = 3, .k = 3, .score = Score::logit}, {-infinity, 1, not_a_number});
  CHECK(router_laws::ids(picks) == std::vector<int>{1, 0, 2});
  CHECK(router_laws::weights(picks) == std::vector<float>{1, -moe::largest_float, 0});
}
TEST_CASE("the modality of a row chooses its selection bias") {
  const std::vector<float> bias{0, 0, 0, 5, 0, 0, 0, 5, 0};  // [3 modalities, 3 experts]
  const TopK router{.experts = 3, .k = 1, .score = Score::sigmoid, .bias = {.by_modality = {bias.data(), 3, 3}}};
  const std::vector<float> logits{2, 1, 0};
  const auto chosen = [&](int modality) {
    moe::RowContext context;
    context.logits = row(logits);
    context.modality = modality;
    moe::Slot slot;
    REQUIRE(moe::select(router, context, {&slot, 1}) == 1);
    CHECK(slot.weight == moe::sigmoid(logits[static_cast<std::size_t>(slot.expert)]));
    return slot.expert;
  };
  CHECK(chosen(0) == 0);
  CHECK(chosen(1) == 0);
  CHECK(chosen(2) == 1);
  CHECK(chosen(3) == 0);  // none of the model's: text
  CHECK(chosen(-1) == 0);
}
TEST_CASE("property: chosen experts lie in at most the kept groups, as sorting says") {
  CHECK(rc::check("groups", [](std::uint32_t seed) {
    oracle::Random random(seed);
    const int groups = *rc::gen::inRange(2, 9), size = *rc::gen::inRange(2, 9);
    const int kept = *rc::gen::inRange(1, groups + 1);
    const int k = *rc::gen::inRange(1, kept * size + 1);
    const bool two = *rc::gen::arbitrary<bool>();
    const TopK router{
        .experts = groups * size,
        .k = k,
        .score = Score::sigmoid,
        .groups = {.count = groups, .kept = kept, .by = two ? GroupLimit::By::two_best : GroupLimit::By::maximum}};
    const std::vector<float> logits = separated(random, groups * size);
    std::vector<int> used, found, want;
    for (const moe::Slot& s : choose(router, logits)) {
      found.push_back(s.expert);
      used.push_back(s.expert / size);
    }
    for (const auto& [e, w] : expected(router, logits)) want.push_back(e);
    std::sort(used.begin(), used.end());
    used.erase(std::unique(used.begin(), used.end()), used.end());
    RC_ASSERT(static_cast<int>(used.size()) <= kept);
    RC_ASSERT(found == want);
  }));
}
TEST_CASE("options that contradict each other are refused with both numbers") {
  const auto refusal = [](const TopK& r) { return message_of([&] { r.check(); }); };
  const std::vector<float> three(3);
  CHECK(refusal({.experts = 8, .k = 2}).empty());
  CHECK(refusal({.experts = 4, .k = 5}) == "moe::TopK: k: expected at most the 4 experts, found 5");
  CHECK(refusal({.experts = 4, .k = 5, .identities = 1}).empty());
  CHECK(refusal({.experts = 4, .k = 1, .bias = {row(three)}}) == "moe::TopK: selection biases: expected 4, found 3");
  CHECK(refusal({.experts = 4, .k = 1, .bias = {.by_modality = {three.data(), 1, 3}}}) ==
        "moe::TopK: selection biases of a modality: expected 4, found 3");
  CHECK(refusal({.experts = 8, .k = 2, .groups = {.count = 3}}) ==
        "moe::TopK: groups: expected a divisor of the 8 experts, found 3");
  CHECK(refusal({.experts = 8, .k = 5, .groups = {.count = 2, .kept = 1}}) ==
        "moe::TopK: experts of the kept groups: expected at least 5, found 4");
}

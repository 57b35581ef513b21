// Specs of families: their published numbers, and routers with their rules, against the rules as published.
#include <algorithm>
#include <cmath>
#include <moe/models.hpp>
#include <numeric>

#include "laws/router_laws.hpp"
#include "layer_support.hpp"

namespace {

using moe::models::Spec;
using Numbers = std::vector<double>;

// ---- the rules once more, as the families' sources write them

enum class Score { softmax, sigmoid, sqrt_softplus };
enum class Group { none, maximum_others_zero, two_best_others_excluded, two_best_others_zero };
struct Rule {
  Score score = Score::softmax;
  double epsilon = -1, floor = 0, power = 1;  // epsilon below 0: weights as they are
  double scale = 1;
  Group group = Group::none;
  int groups = 1, kept = 1;
};
constexpr double renormalised = 0;

Numbers scores_of(const Rule& r, const std::vector<float>& logits) {
  Numbers s(logits.begin(), logits.end());
  double sum = 0;
  for (double& l : s) {
    if (r.score == Score::softmax) sum += l = std::exp(l);
    if (r.score == Score::sigmoid) l = 1 / (1 + std::exp(-l));
    if (r.score == Score::sqrt_softplus) l = std::sqrt(std::log1p(std::exp(l)));
  }
  if (r.score == Score::softmax)
    for (double& l : s) l /= sum;
  return s;
}
void limit_to_groups(const Rule& r, Numbers& choice) {
  const std::size_t size = choice.size() / static_cast<std::size_t>(r.groups);
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t g = 0; g < static_cast<std::size_t>(r.groups); ++g) {
    Numbers in(choice.begin() + static_cast<std::ptrdiff_t>(g * size),
               choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
    std::sort(in.rbegin(), in.rend());
    order.emplace_back(-(r.group == Group::maximum_others_zero ? in[0] : in[0] + in[1]), g);
  }
  std::sort(order.begin(), order.end());
  for (std::size_t i = static_cast<std::size_t>(r.kept); i < order.size(); ++i)
    std::fill_n(choice.begin() + static_cast<std::ptrdiff_t>(order[i].second * size), size,
                r.group == Group::two_best_others_excluded ? -HUGE_VAL : 0);
}
std::vector<std::pair<int, double>> expected(const Rule& r, const std::vector<float>& logits,
                                             const std::vector<float>& bias, int k) {
  const Numbers score = scores_of(r, logits);
  Numbers choice = score;
  for (std::size_t e = 0; e < bias.size(); ++e) choice[e] += static_cast<double>(bias[e]);
  if (r.group != Group::none) limit_to_groups(r, choice);
  std::vector<int> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [](const Numbers& n, int e) { return n[static_cast<std::size_t>(e)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return at(choice, a) > at(choice, b); });
  double total = 0;
  for (int i = 0; i < k; ++i) total += std::pow(at(score, order[static_cast<std::size_t>(i)]), r.power);
  const double divisor = r.epsilon < 0 ? 1 : std::max(std::pow(total, 1 / r.power) + r.epsilon, r.floor);
  std::vector<std::pair<int, double>> picks;
  for (int i = 0; i < k; ++i) {
    const int e = order[static_cast<std::size_t>(i)];
    picks.emplace_back(e, at(score, e) / divisor * r.scale);
  }
  return picks;
}

/// Logits 1/16 apart, so that float and double order scores alike.
std::vector<float> separated(oracle::Random& random, int n) {
  std::vector<float> logits(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) logits[static_cast<std::size_t>(i)] = static_cast<float>(i - n / 2) / 16;
  std::shuffle(logits.begin(), logits.end(), random.engine);
  return logits;
}
/// Scores within about 12 roundings, a root and a power within 8 more, sums one for each term.
void agrees(const char* family, const Spec& spec, const Rule& rule, bool biased = false) {
  CAPTURE(family);
  oracle::Random random(71);
  const int choosable = spec.experts + spec.identities + spec.nulls;
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = separated(random, choosable);
    // Biases far apart: no two of the shifted scores are nearly equal.
    std::vector<float> bias;
    for (int e = 0; biased && e < choosable; ++e) bias.push_back(static_cast<float>(random.between(-3, 3)));
    const auto found =
        router_laws::choose(moe::models::router(spec, {bias.data(), static_cast<int>(bias.size())}), logits);
    const auto want = expected(rule, logits, bias, spec.k);
    REQUIRE(found.size() == want.size());
    for (std::size_t k = 0; k < found.size(); ++k) {
      CHECK(found[k].expert == want[k].first);
      const double bound = std::ldexp(2.0 * (choosable + 20), -24) * want[k].second;
      CHECK(std::fabs(static_cast<double>(found[k].weight) - want[k].second) <= bound);
    }
  }
}

}  // namespace

TEST_CASE("routers of specs follow their families' published rules") {
  namespace r = moe::models::rules;
  const Rule as_they_are{}, by_sum{.epsilon = renormalised};
  agrees("Mixtral", {.rule = r::mixtral, .experts = 8, .k = 2}, by_sum);
  agrees("Qwen2-MoE", {.rule = r::qwen2_moe, .experts = 60, .k = 4}, as_they_are);
  agrees("Qwen3-MoE", {.rule = r::qwen3_moe, .experts = 64, .k = 8}, by_sum);
  agrees("OLMoE", {.rule = r::olmoe, .experts = 64, .k = 8}, as_they_are);
  agrees("DeepSeek-V2", {.rule = r::deepseek_v2, .experts = 64, .k = 6, .scale = 16}, {.scale = 16});
  agrees("DeepSeek-V2 in groups", {.rule = r::deepseek_v2, .experts = 64, .k = 6, .scale = 16, .groups = 8, .kept = 3},
         {.scale = 16, .group = Group::maximum_others_zero, .groups = 8, .kept = 3});
  agrees("DeepSeek-V3", {.rule = r::deepseek_v3, .experts = 64, .k = 8, .scale = 2.5f, .groups = 8, .kept = 4},
         {.score = Score::sigmoid,
          .epsilon = 1e-20,
          .scale = 2.5,
          .group = Group::two_best_others_excluded,
          .groups = 8,
          .kept = 4},
         true);
  agrees("Mistral-4", {.rule = r::mistral4, .experts = 64, .k = 6, .groups = 8, .kept = 3},
         {.epsilon = 1e-20, .group = Group::two_best_others_zero, .groups = 8, .kept = 3});
  agrees("LFM2", {.rule = r::lfm2_moe, .experts = 32, .k = 4}, {.score = Score::sigmoid, .epsilon = 1e-6}, true);
  agrees("DeepSeek-V4", {.rule = r::deepseek_v4, .experts = 64, .k = 6, .scale = 1.5f},
         {.score = Score::sqrt_softplus, .epsilon = 1e-20, .scale = 1.5}, true);
  agrees("GPT-OSS", {.rule = r::gpt_oss, .experts = 32, .k = 4}, by_sum);
  agrees("Llama-4", {.rule = r::llama4, .experts = 16, .k = 1}, {.score = Score::sigmoid});
  agrees("DBRX", {.rule = r::dbrx, .experts = 16, .k = 4}, by_sum);
  moe::models::Rule power_2 = r::dbrx;
  power_2.normalise.power = 2;
  agrees("DBRX, power 2", {.rule = power_2, .experts = 16, .k = 4}, {.epsilon = renormalised, .power = 2});
  agrees("ERNIE-4.5", {.rule = r::ernie4_5, .experts = 64, .k = 6}, {.epsilon = renormalised, .floor = 1e-12}, true);
  moe::models::Rule high_floor = r::ernie4_5;
  high_floor.normalise.floor = 0.9f;
  agrees("ERNIE-4.5, a floor that counts", {.rule = high_floor, .experts = 64, .k = 6},
         {.epsilon = renormalised, .floor = static_cast<double>(0.9f)});
  agrees("LongCat-Flash", {.rule = r::longcat, .experts = 32, .k = 12, .scale = 6, .identities = 16}, {.scale = 6},
         true);
  agrees("MiniMax-M2", {.rule = r::minimax_m2, .experts = 32, .k = 4}, {.score = Score::sigmoid, .epsilon = 0}, true);
  agrees("MiniMax-M3", {.rule = r::minimax_m3, .experts = 32, .k = 4}, {.score = Score::sigmoid, .epsilon = 0}, true);
  agrees("Zaya", {.rule = r::zaya, .experts = 16, .k = 1, .nulls = 1}, as_they_are, true);
  agrees("Switch", {.rule = r::switch_transformer, .experts = 8, .k = 1}, as_they_are);
  agrees("NLLB", {.rule = r::nllb, .experts = 128, .k = 2}, {.epsilon = renormalised, .floor = 0x1p-23});
  agrees("PR-MoE", {.rule = r::pr_moe, .experts = 8, .k = 2}, as_they_are);
}
TEST_CASE("what multiplies outputs and inputs is the families' own") {
  namespace m = moe::models;
  CHECK(m::form<moe::SwiGlu>(m::llama4_scout).weight_on == moe::WeightOn::input);
  CHECK(m::form<moe::SwiGlu>(m::mixtral_8x7b).weight_on == moe::WeightOn::output);
  CHECK(m::form<moe::SwiGlu>(m::mixtral_8x7b).output_scale == 1);
  CHECK(m::form<moe::Relu>({.rule = m::rules::nllb, .output_scale = 0.8f}).output_scale == 0.8f);
}

TEST_CASE("the shipped specs have the published numbers") {
  namespace m = moe::models;
  struct Published {
    const char* name;
    Spec spec;
    int hidden, ffn, experts, k, shared_ffn;
    float scale = 1;
    int groups = 1, kept = 1, identities = 0, nulls = 0;
  };
  // Configurations of the hub; shared experts as their width together.
  const Published all[] = {
      {"Mixtral-8x7B", m::mixtral_8x7b, 4096, 14336, 8, 2, 0},
      {"Qwen1.5-MoE-A2.7B", m::qwen1_5_moe_a2_7b, 2048, 1408, 60, 4, 5632},
      {"Qwen3-30B-A3B", m::qwen3_30b_a3b, 2048, 768, 128, 8, 0},
      {"Qwen3-Next-80B", m::qwen3_next_80b, 2048, 512, 512, 10, 512},
      {"Qwen3.5-35B-A3B", m::qwen3_5_35b_a3b, 2048, 512, 256, 8, 512},
      {"OLMoE-1B-7B", m::olmoe_1b_7b, 2048, 1024, 64, 8, 0},
      {"DeepSeek-V2-Lite", m::deepseek_v2_lite, 2048, 1408, 64, 6, 2 * 1408},
      {"DeepSeek-V3", m::deepseek_v3_671b, 7168, 2048, 256, 8, 2048, 2.5f, 8, 4},
      {"Kimi-K2", m::kimi_k2, 7168, 2048, 384, 8, 2048, 2.827f},
      {"GLM-4.5-Air", m::glm_4_5_air, 4096, 1408, 128, 8, 1408},
      {"DeepSeek-V4-Flash", m::deepseek_v4_flash, 4096, 2048, 256, 6, 2048, 1.5f},
      {"GPT-OSS-20B", m::gpt_oss_20b, 2880, 2880, 32, 4, 0},
      {"GPT-OSS-120B", m::gpt_oss_120b, 2880, 2880, 128, 4, 0},
      {"Llama-4 Scout", m::llama4_scout, 5120, 8192, 16, 1, 8192},
      {"DBRX", m::dbrx_132b, 6144, 10752, 16, 4, 0},
      {"Phi-3.5-MoE", m::phi_3_5_moe, 4096, 6400, 16, 2, 0},
      {"MiniMax-M2", m::minimax_m2, 3072, 1536, 256, 8, 0},
      {"LongCat-Flash", m::longcat_flash, 6144, 2048, 512, 12, 0, 6, 1, 1, 256},
      {"ERNIE-4.5-21B", m::ernie_4_5_21b, 2560, 1536, 64, 6, 2 * 1536},
      {"LFM2-8B-A1B", m::lfm2_8b_a1b, 2048, 1792, 32, 4, 0},
      {"Zaya-8B", m::zaya_8b, 2048, 2048, 16, 1, 0, 1, 1, 1, 0, 1},
  };
  for (const Published& p : all) {
    CAPTURE(p.name);
    CHECK(p.spec.hidden == p.hidden);
    CHECK(p.spec.ffn == p.ffn);
    CHECK(p.spec.experts == p.experts);
    CHECK(p.spec.k == p.k);
    CHECK(p.spec.shared_ffn == p.shared_ffn);
    CHECK(p.spec.scale == p.scale);
    CHECK(p.spec.groups == p.groups);
    CHECK(p.spec.kept == p.kept);
    CHECK(p.spec.identities == p.identities);
    CHECK(p.spec.nulls == p.nulls);
    CHECK_NOTHROW(moe::models::router(p.spec).check());
  }
}
TEST_CASE("an alias and a spec make a layer with the family's outputs") {
  oracle::Random random(72);
  const Problem<float> p({.tokens = 5, .hidden = 16, .ffn = 8, .experts = 8}, random);
  using Storage = moe::Resident<moe::PanelLayout, moe::formats<float>>;
  const moe::models::Mixtral<Storage> layer(
      moe::Linear(p.gate_view()), moe::models::router({.rule = moe::models::rules::mixtral, .experts = 8, .k = 2}),
      p.storage(), moe::Cpu{.threads = 1});
  const oracle::Routing rule{oracle::Score::softmax, oracle::Divide::by_sum};
  CHECK(wrong_rows(p, gate_logits(p), forward(layer, p), rule) == 0);
}

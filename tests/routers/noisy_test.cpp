// Laws of Noisy: nothing without training; ids from noisy logits and weights from clean ones with it.
#include <moe/routers/noisy.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::Noise;
using moe::Noisy;
using moe::Score;
using moe::TopK;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

Noisy<TopK> gumbel(int experts, int k) {
  return {.inner = {.experts = experts, .k = k, .score = Score::softmax}, .training = true};
}
std::vector<moe::Slot> at_position(const Noisy<TopK>& router, const std::vector<float>& logits, int position) {
  moe::RouteContext<> context;
  context.positions = &position;
  context.seed = 11;
  std::vector<moe::Slot> out(static_cast<std::size_t>(moe::max_slots(router)));
  const int n = router.select(context.at(0, {logits.data(), static_cast<int>(logits.size())}),
                              {out.data(), static_cast<int>(out.size())});
  out.resize(static_cast<std::size_t>(n));
  return out;
}
/// How often each expert is the choice number `slot`, over many positions.
std::vector<int> histogram(const Noisy<TopK>& router, const std::vector<float>& logits, int draws, std::size_t slot) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(at_position(router, logits, i)[slot].expert)];
  return counts;
}
double chi_square(const std::vector<int>& counts, const std::vector<double>& p, int draws) {
  double statistic = 0;
  for (std::size_t e = 0; e < p.size(); ++e)
    if (p[e] > 0) statistic += (counts[e] - draws * p[e]) * (counts[e] - draws * p[e]) / (draws * p[e]);
  return statistic;
}
std::vector<double> softmax(const std::vector<float>& logits, int without = -1) {
  std::vector<double> p;
  double sum = 0;
  for (std::size_t e = 0; e < logits.size(); ++e)
    p.push_back(static_cast<int>(e) == without ? 0 : std::exp(static_cast<double>(logits[e])));
  for (const double x : p) sum += x;
  for (double& x : p) x /= sum;
  return p;
}

const std::vector<float> skewed = {1.5f, 0.5f, 0, -0.5f, -1};

}  // namespace

TEST_CASE("Noisy is the router inside unless it trains") {
  oracle::Random random(720);
  Noisy<TopK> noisy = gumbel(8, 3);
  noisy.training = false;
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(8, 4);
    const auto found = choose(noisy, logits), plain = choose(noisy.inner, logits);
    CHECK(ids(found) == ids(plain));
    CHECK(bits(weights(found)) == bits(weights(plain)));
  }
}
TEST_CASE("Noisy picks distinct experts in range") { router_laws::ids_are_distinct_and_in_range(gumbel(33, 5)); }
TEST_CASE("Noisy fills every slot") { router_laws::fills_every_slot(gumbel(8, 8)); }
TEST_CASE("Noisy answers the same twice") { router_laws::answers_the_same_twice(gumbel(8, 3)); }
TEST_CASE("Noisy gives finite weights and distinct ids for every pattern of NaN and infinities") {
  Noisy<TopK> router = gumbel(8, 3);
  router_laws::survives_every_pattern(router);
  router.noise = Noise::jitter;
  router_laws::survives_every_pattern(router);
}
TEST_CASE("Noisy ranks NaN below every number") { router_laws::ranks_not_a_number_below_every_number(gumbel(8, 3)); }
TEST_CASE("Noisy picks only allowed experts") { router_laws::picks_only_what_is_allowed(gumbel(33, 5)); }
TEST_CASE("Noisy picks nothing when nothing is allowed") { router_laws::nothing_allowed_gives_no_slot(gumbel(8, 2)); }

TEST_CASE("Noisy weighs its picks by the clean softmax") {
  const std::vector<double> p = softmax(skewed);
  for (int position = 0; position < 50; ++position)
    for (const moe::Slot& s : at_position(gumbel(5, 2), skewed, position)) {
      const double expected = p[static_cast<std::size_t>(s.expert)];
      CHECK(std::fabs(static_cast<double>(s.weight) - expected) <= oracle::gamma(20) * expected);
    }
}
TEST_CASE("Noisy with Gumbel noise samples its first choice from the softmax") {
  constexpr int draws = 20000;
  CHECK(chi_square(histogram(gumbel(5, 1), skewed, draws, 0), softmax(skewed), draws) < 18.5);  // 99.9 %, 4 d.o.f.
}
TEST_CASE("Noisy with one clean choice samples the second among the others") {
  constexpr int draws = 20000;
  Noisy<TopK> router = gumbel(5, 2);
  router.clean_choices = 1;
  CHECK(histogram(router, skewed, draws, 0)[0] == draws);
  CHECK(chi_square(histogram(router, skewed, draws, 1), softmax(skewed, 0), draws) < 16.3);  // 99.9 %, 3 d.o.f.
}
TEST_CASE("Noisy with jitter moves a logit by at most its share") {
  Noisy<TopK> router = gumbel(4, 1);
  router.noise = Noise::jitter;
  const std::vector<float> logits = {4, 3.95f, 3, 2};
  moe::RouteContext<> context;
  double least = 1, most = -1;
  for (int t = 0; t < 2000; ++t) {
    const double moved = static_cast<double>(router.noisy(context.at(t, {logits.data(), 4}), 0)) / 4 - 1;
    least = std::min(least, moved);
    most = std::max(most, moved);
  }
  CHECK(least >= -0.01 - 1e-6);
  CHECK(most <= 0.01 + 1e-6);
  CHECK(least < -0.0098);
  CHECK(most > 0.0098);
  const std::vector<int> counts = histogram(router, logits, 2000, 0);
  CHECK(counts[1] > 0);                  // 1 % of 4 is more than half the distance
  CHECK(counts[0] + counts[1] == 2000);  // the others are too far
}
TEST_CASE("Noisy refuses a router inside that chooses by more than logits") {
  const std::vector<float> bias(4);
  Noisy<TopK> router = gumbel(4, 1);
  router.inner.bias.values = {bias.data(), 4};
  CHECK(message_of([&] { router.check(); }) ==
        "moe::Noisy: selection bias: expected none in the router inside, found some");
}

TEST_CASE("jitter of the gate's input multiplies every number by its own factor") {
  const std::vector<float> ones(3 * 5000, 1.0f);
  std::vector<float> out(ones.size()), again(ones.size());
  moe::jitter(view(ones, 5000), 0.01f, 3, view(out, 5000));
  moe::jitter(view(ones, 5000), 0.01f, 3, view(again, 5000));
  CHECK(bits(out) == bits(again));
  double sum = 0;
  for (const float x : out) {
    CHECK(std::fabs(x - 1) <= 0.01f + 1e-6f);
    sum += static_cast<double>(x) - 1;
  }
  CHECK(std::fabs(sum / 15000) < 4 * 0.01 / std::sqrt(3.0 * 15000));  // four deviations of the mean
  CHECK(std::set<float>(out.begin(), out.end()).size() > 14000);      // 2^24 values: few repeat
}

// TopP against the smallest set by brute force over all subsets.
#include <moe/routers/top_k.hpp>
#include <moe/routers/top_p.hpp>

#include "../laws/router_laws.hpp"

using moe::Normalisation;
using moe::Score;
using moe::TopK;
using moe::TopP;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

namespace {

constexpr int experts = 8;
TopP<TopK> router_of(float p, int k = experts) { return {{.experts = experts, .k = k, .score = Score::softmax}, p}; }

/// Size of the smallest subset of all experts with probability p or more, by trying all of them.
int smallest_set(const std::vector<float>& logits, double p) {
  const std::vector<oracle::Pick> all = oracle::route({oracle::Score::softmax}, logits, experts);
  int least = experts;
  for (int set = 1; set < 1 << experts; ++set) {
    double sum = 0;
    int size = 0;
    for (int i = 0; i < experts; ++i)
      if ((set >> i & 1) != 0) {
        sum += all[static_cast<std::size_t>(i)].weight.v;
        ++size;
      }
    if (sum >= p) least = std::min(least, size);
  }
  return least;
}

}  // namespace

TEST_CASE("TopP takes the smallest set that reaches p") {
  oracle::Random random(51);
  CAPTURE(random.seed);
  int near = 0;
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> logits = random.reals(experts, 4);
    const float p = static_cast<float>(random.between(1, 63)) / 64;
    const int expected = smallest_set(logits, static_cast<double>(p));
    if (smallest_set(logits, static_cast<double>(p) - 1e-5) != smallest_set(logits, static_cast<double>(p) + 1e-5)) {
      ++near;  // within rounding of the sum
      continue;
    }
    CHECK(static_cast<int>(choose(router_of(p), logits).size()) == expected);
  }
  CHECK(near < 10);
}
TEST_CASE("TopP's weights are the probabilities as they are") {
  oracle::Random random(52);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(experts, 4);
    const auto found = choose(router_of(0.75f), logits);
    const auto all = choose(router_of(0.75f).inner, logits);
    for (std::size_t s = 0; s < found.size(); ++s) CHECK(found[s].weight == all[s].weight);
  }
}
TEST_CASE("TopP normalises what it keeps if it is told to") {
  TopP<TopK> r = router_of(0.7f);
  r.normalise = Normalisation::by_sum();
  oracle::Random random(53);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(experts, 4);
    const auto found = choose(r, logits);
    const auto expected = oracle::route({}, logits, static_cast<int>(found.size()));
    // Numerator and sum of a softmax over eight, then a sum and a division more than the oracle's path.
    for (std::size_t s = 0; s < found.size(); ++s)
      CHECK(static_cast<double>(found[s].weight) == doctest::Approx(expected[s].weight.v).epsilon(64 * oracle::unit));
  }
}
TEST_CASE("TopP stops at the choices of the router inside") {
  CHECK(choose(router_of(1, 3), std::vector<float>(experts, 0.0f)).size() == 3);
}
TEST_CASE("TopP gives one expert when p is zero, or not a number") {
  CHECK(choose(router_of(0), std::vector<float>(experts, 0.0f)).size() == 1);
  CHECK(choose(router_of(not_a_number), std::vector<float>(experts, 0.0f)).size() == 1);
}
TEST_CASE("TopP never keeps fewer for a larger p") {
  oracle::Random random(54);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(experts, 4);
    std::size_t before = 0;
    for (float p = 0; p <= 1; p += 0.0625f) {
      const std::size_t kept = choose(router_of(p), logits).size();
      CHECK(kept >= before);
      before = kept;
    }
  }
}

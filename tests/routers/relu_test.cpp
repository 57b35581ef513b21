// ReluRouter against its formulas, and the accuracy of its logarithm.
#include <moe/routers/relu.hpp>

#include "../laws/router_laws.hpp"

using moe::ReluRouter;
using router_laws::choose;
using router_laws::ids;
using router_laws::weights;

TEST_CASE("ReluRouter takes every expert with a positive logit, weighed by it") {
  oracle::Random random(91);
  CAPTURE(random.seed);
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> logits = random.reals(12, 4);
    std::vector<float> expected(12);
    for (const moe::Slot& s : choose(ReluRouter{12}, logits)) expected[static_cast<std::size_t>(s.expert)] = s.weight;
    for (std::size_t e = 0; e < 12; ++e) CHECK(expected[e] == std::max(logits[e], 0.0f));
  }
}
TEST_CASE("ReluRouter with a logarithm weighs by log(1 + relu(z))") {
  oracle::Random random(92);
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> logits = random.reals(12, 16);
    for (const moe::Slot& s : choose(ReluRouter{12, 0, true}, logits)) {
      const double exact = std::log1p(static_cast<double>(logits[static_cast<std::size_t>(s.expert)]));
      CHECK(std::fabs(static_cast<double>(s.weight) - exact) <= 6 * oracle::unit * exact);
    }
  }
}
TEST_CASE("log1p_positive is within 3 ulp from the smallest number to the largest") {
  for (int exponent = -149; exponent < 128; ++exponent)
    for (int i = 0; i < 64; ++i) {
      const auto y = static_cast<float>(std::ldexp(1 + i / 64.0 + i * 0x1p-23, exponent));
      const double exact = std::log1p(static_cast<double>(y));
      CAPTURE(y);
      CHECK(std::fabs(static_cast<double>(moe::log1p_positive(y)) - exact) <=
            6 * oracle::unit * exact + oracle::spacing);
    }
  CHECK(moe::log1p_positive(0) == 0);
  CHECK(std::isfinite(moe::log1p_positive(moe::largest_float)));
}
TEST_CASE("ReluRouter gives a token without a positive logit nothing") {
  CHECK(choose(ReluRouter{4}, {0, -0.0f, -1, not_a_number}).empty());
}
TEST_CASE("ReluRouter keeps the largest where there is little room") {
  CHECK(ids(choose(ReluRouter{5, 2}, {1, 3, 2, 3, -1})) == std::vector<int>{1, 3});
}

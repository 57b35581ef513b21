// Bias updates by hand, and as a loop around a router: loads even out, and the mean number of real experts is met.
#include <moe/routers/top_k.hpp>
#include <moe/train/bias_update.hpp>
#include <moe/train/losses.hpp>

#include "../problem.hpp"

using moe::TopK;

namespace {

/// Loads of one batch of rows whose logits are skewed towards low ids.
std::vector<int> loads_of(const TopK& router, oracle::Random& random, int tokens) {
  const int n = moe::num_logits(router);
  Table table(tokens, moe::max_slots(router));
  for (int t = 0; t < tokens; ++t) {
    std::vector<float> logits = random.reals(n, 2);
    for (int e = 0; e < n; ++e)
      logits[static_cast<std::size_t>(e)] += 2.0f - 4.0f * static_cast<float>(e) / static_cast<float>(n);
    table.count[static_cast<std::size_t>(t)] =
        router.select(moe::RouteContext<>{}.at(t, {logits.data(), n}), table.get().slots.row(t));
  }
  std::vector<int> loads(static_cast<std::size_t>(n));
  moe::count_choices(table.get(), 0, {loads.data(), n});
  return loads;
}
double variance(const std::vector<int>& loads) {
  double sum = 0, squares = 0;
  for (const int l : loads) {
    sum += l;
    squares += static_cast<double>(l) * l;
  }
  const double n = static_cast<double>(loads.size());
  return squares / n - sum / n * sum / n;
}

}  // namespace

TEST_CASE("the sign update moves busy experts down, idle ones up, and leaves the mean") {
  const std::vector<int> loads = {5, 1, 3, 3};
  std::vector<float> bias = {0, 0.5f, 0, -1};
  moe::SignBiasUpdate{.rate = 0.25f}({loads.data(), 4}, {bias.data(), 4});
  CHECK(bias == std::vector<float>{-0.25f, 0.75f, 0, -1});
}
TEST_CASE("the sign update sees a mean that is no integer exactly") {
  const std::vector<int> loads = {1, 1, 0};  // mean 2/3
  std::vector<float> bias(3);
  moe::SignBiasUpdate{.rate = 1}({loads.data(), 3}, {bias.data(), 3});
  CHECK(bias == std::vector<float>{-1, -1, 1});
}
TEST_CASE("the sign update evens out a skewed router in a bounded number of steps") {
  oracle::Random random(780);
  std::vector<float> bias(8);
  const TopK router{.experts = 8, .k = 2, .score = moe::Score::sigmoid, .bias = {.values = {bias.data(), 8}}};
  const double before = variance(loads_of(router, random, 512));
  for (int step = 0; step < 400; ++step) {
    const std::vector<int> loads = loads_of(router, random, 256);
    moe::SignBiasUpdate{.rate = 5e-3f}({loads.data(), 8}, {bias.data(), 8});
  }
  CHECK(variance(loads_of(router, random, 512)) < before / 20);
}
TEST_CASE("the share update has the value of its formula, and leaves the zero experts' biases") {
  const std::vector<int> loads = {6, 2};  // of 8 rows with 3 choices; wanted 1.5 / (3 * 2) = 1/4
  std::vector<float> bias = {0, 1, 0.5f};
  moe::ShareBiasUpdate{.rate = 1, .choices = 3, .real_choices = 1.5}({loads.data(), 2}, 8, {bias.data(), 3});
  CHECK(bias[0] == 0);                                                            // 6 / 24 is what is wanted
  CHECK(std::fabs(static_cast<double>(bias[1]) - (1 + 0.25 - 2.0 / 24)) < 1e-6);  // rounded once
  CHECK(bias[2] == 0.5f);
}
TEST_CASE("the share update brings rows to the mean number of real experts") {
  oracle::Random random(781);
  constexpr int real = 8, zero = 4, k = 4, tokens = 256;
  std::vector<float> bias(real + zero);
  const TopK router{.experts = real,
                    .k = k,
                    .score = moe::Score::softmax,
                    .bias = {.values = {bias.data(), real + zero}},
                    .identities = zero};
  double mean = 0;
  for (int step = 0; step < 600; ++step) {
    const std::vector<int> loads = loads_of(router, random, tokens);
    int chosen = 0;
    for (int e = 0; e < real; ++e) chosen += loads[static_cast<std::size_t>(e)];
    if (step == 0) CHECK(chosen / static_cast<double>(tokens) > 3.2);  // what it starts from
    if (step >= 550) mean += chosen / static_cast<double>(tokens) / 50;
    moe::ShareBiasUpdate{.rate = 0.05f, .choices = k, .real_choices = 2.5}({loads.data(), real}, tokens,
                                                                           {bias.data(), real + zero});
  }
  MESSAGE("mean number of real experts: " << mean);
  CHECK(std::fabs(mean - 2.5) < 0.05);
}

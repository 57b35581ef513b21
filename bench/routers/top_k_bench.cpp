// Routing of one row: nanoseconds by number of experts, picks and score.

#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include <moe/routers/top_k.hpp>

namespace {

void select_row(benchmark::State& state, moe::Score score) {
  const int experts = static_cast<int>(state.range(0)), k = static_cast<int>(state.range(1));
  constexpr int rows = 256;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(static_cast<std::size_t>(rows) * static_cast<std::size_t>(experts));
  for (float& l : logits) l = normal(engine);
  std::vector<moe::Slot> slots(static_cast<std::size_t>(k));
  moe::TopK router{.experts = experts, .k = k, .score = score, .normalise = moe::Normalisation::by_sum()};
  benchmark::DoNotOptimize(router);  // a layer's options are known when the program runs
  const moe::RouteContext<> context;
  const moe::View<const float> view(logits.data(), rows, experts);
  int t = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(router.select(context.at(t, view.row(t)), {slots.data(), k}));
    benchmark::DoNotOptimize(slots.data());
    t = (t + 1) % rows;
  }
}

BENCHMARK_CAPTURE(select_row, softmax_of_picked, moe::Score::softmax_of_picked)
    ->Args({8, 2})
    ->Args({128, 8})
    ->Args({512, 10});
BENCHMARK_CAPTURE(select_row, softmax, moe::Score::softmax)->Args({8, 2})->Args({128, 8})->Args({512, 10});
BENCHMARK_CAPTURE(select_row, sigmoid, moe::Score::sigmoid)->Args({8, 2})->Args({128, 8})->Args({256, 8});

}  // namespace

BENCHMARK_MAIN();

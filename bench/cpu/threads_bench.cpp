// Fork-join: the time to hand out empty tasks, when workers still watch and when they sleep.

#include <chrono>
#include <thread>

#include <benchmark/benchmark.h>

#include <moe/cpu/threads.hpp>

namespace {

void fork_join(benchmark::State& state) {
  moe::ThreadPool pool(static_cast<int>(state.range(0)));
  const auto pause = std::chrono::microseconds(state.range(1));
  for (auto _ : state) {
    state.PauseTiming();
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    state.ResumeTiming();
    pool.run(pool.size(), [](int i) { benchmark::DoNotOptimize(i); });
  }
}
BENCHMARK(fork_join)->ArgNames({"threads", "pause_us"})->Args({1, 0})->Args({2, 0})->Args({2, 1000})->UseRealTime();

}  // namespace

BENCHMARK_MAIN();

// The fork-join pool: every task once, whoever calls, however late workers wake.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <moe/cpu/threads.hpp>
#include <thread>
#include <vector>

using moe::ThreadPool;
using std::chrono::microseconds;

namespace {

/// How many of `tasks` tasks did not run exactly once.
int wrong_tasks(ThreadPool& pool, int tasks) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  pool.run(tasks, [&](int i) { runs[static_cast<std::size_t>(i)].fetch_add(1, std::memory_order_relaxed); });
  int wrong = 0;
  for (const auto& n : runs) wrong += n.load() != 1 ? 1 : 0;
  return wrong;
}

/// Sum of i over many runs; each run has its own captured state, so a late worker would read freed memory.
long sum_of_runs(ThreadPool& pool, int runs, int tasks) {
  long total = 0;
  for (int r = 0; r < runs; ++r) {
    std::atomic<long> sum{0};
    pool.run(tasks, [&](int i) { sum.fetch_add(i, std::memory_order_relaxed); });
    total += sum.load();
  }
  return total;
}

}  // namespace

TEST_CASE("every task runs exactly once, for 0 to 1000 tasks") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    int wrong = 0;
    for (int tasks = 0; tasks <= 1000; ++tasks) wrong += wrong_tasks(pool, tasks);
    CHECK(wrong == 0);
  }
}
TEST_CASE("20000 short runs are all complete when they return") {
  ThreadPool pool(4);
  CHECK(sum_of_runs(pool, 20000, 5) == 20000L * 10);
}
TEST_CASE("runs are complete when the workers sleep in between") {
  ThreadPool pool({.threads = 3, .spin = microseconds{0}});
  CHECK(sum_of_runs(pool, 20000, 4) == 20000L * 6);
}
TEST_CASE("runs are complete when workers are about to sleep") {
  ThreadPool pool({.threads = 3, .spin = microseconds{20}});
  long total = 0;
  for (int i = 0; i < 2000; ++i) {
    total += sum_of_runs(pool, 1, 4);
    std::this_thread::sleep_for(microseconds{i % 40});
  }
  CHECK(total == 2000L * 6);
}
TEST_CASE("a task may run tasks") {
  ThreadPool pool(3);
  std::atomic<int> count{0};
  pool.run(8, [&](int) { pool.run(8, [&](int) { ++count; }); });
  CHECK(count == 64);
}
TEST_CASE("many threads may call at once") {
  ThreadPool pool(3);
  std::vector<long> sums(6);
  std::vector<std::thread> callers;
  for (long& sum : sums) callers.emplace_back([&pool, &sum] { sum = sum_of_runs(pool, 3000, 6); });
  for (std::thread& caller : callers) caller.join();
  for (const long sum : sums) CHECK(sum == 3000L * 15);
}
TEST_CASE("a pool of one runs every task on the caller") {
  ThreadPool pool(1);
  bool elsewhere = false;
  const std::thread::id caller = std::this_thread::get_id();
  pool.run(100, [&](int) { elsewhere = elsewhere || std::this_thread::get_id() != caller; });
  CHECK_FALSE(elsewhere);
}
TEST_CASE("a single task runs on the caller") {
  ThreadPool pool(4);
  std::thread::id where;
  pool.run(1, [&](int) { where = std::this_thread::get_id(); });
  CHECK(where == std::this_thread::get_id());
}
TEST_CASE("other threads take tasks too") {
  ThreadPool pool(2);
  std::atomic<int> inside{0};
  pool.run(2, [&](int) {  // each task waits for the other: only two threads can finish this
    ++inside;
    while (inside < 2) std::this_thread::yield();
  });
  CHECK(inside == 2);
}
TEST_CASE("a pool has the size that was asked for, the caller included") {
  CHECK(ThreadPool(3).size() == 3);
  CHECK(ThreadPool(1).size() == 1);
}
TEST_CASE("a pool without a size takes the machine's threads") {
  const auto hardware = static_cast<int>(std::thread::hardware_concurrency());
  CHECK(ThreadPool().size() == (hardware > 0 ? hardware : 1));
}
TEST_CASE("an idle pool can be destroyed, asleep or not") {
  std::atomic<int> ran{0};
  for (const int wait : {0, 200}) {
    for (int i = 0; i < 50; ++i) {
      ThreadPool pool({.threads = 4, .spin = microseconds{50}});
      if (i % 2 == 0) pool.run(8, [&](int) { ++ran; });
      std::this_thread::sleep_for(microseconds{wait});
    }
  }
  CHECK(ran == 2 * 25 * 8);  // reached: no destructor waits for ever
}
TEST_CASE("what tasks write is seen by the caller") {
  ThreadPool pool(4);
  std::vector<int> values(1000);
  pool.run(1000, [&](int i) { values[static_cast<std::size_t>(i)] = i; });
  int wrong = 0;
  for (int i = 0; i < 1000; ++i) wrong += values[static_cast<std::size_t>(i)] != i ? 1 : 0;
  CHECK(wrong == 0);
}

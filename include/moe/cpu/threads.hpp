// A small fork-join pool: microseconds to start, no allocation, any number of callers.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <moe/config.hpp>

namespace moe {

/// Fork-join threads. `run` returns when all tasks are done; the caller works too; tasks are handed out one by one.
/// A call that finds the pool busy (another host thread, or a task of the same pool) runs its tasks itself, so nothing
/// can wait in a circle. Tasks must not throw.
class ThreadPool {
 public:
  struct Options {
    int threads = 0;                     // the caller included; 0: one per hardware thread
    std::chrono::microseconds spin{50};  // how long an idle worker watches before it sleeps
  };

  explicit ThreadPool(Options options) : spin_(options.spin) {
    const int hardware = static_cast<int>(std::thread::hardware_concurrency());
    const int threads = options.threads > 0 ? options.threads : (hardware > 0 ? hardware : 1);
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  explicit ThreadPool(int threads = 0) : ThreadPool(Options{.threads = threads}) {}
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int size() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  /// Calls task(i) for every i in [0, tasks), in any order, on any of the threads.
  template <class Task>
  void run(int tasks, const Task& task) {
    if (tasks <= 1 || workers_.empty() || busy_.exchange(true, std::memory_order_acquire)) {
      for (int i = 0; i < tasks; ++i) task(i);
      return;
    }
    call_ = [](const void* object, int i) { (*static_cast<const Task*>(object))(i); };
    object_ = &task;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    open();
    take_tasks();
    close();
    busy_.store(false, std::memory_order_release);
  }

 private:
  // state_ = generation << 32 | open << 31 | workers inside. A worker enters only while the job is open, and the caller
  // leaves only when nobody is inside: a worker that wakes late finds nothing and touches nothing.
  static constexpr std::uint64_t is_open = 1ull << 31;
  static constexpr std::uint64_t one_generation = 1ull << 32;

  void open() {
    {
      const std::lock_guard lock(mutex_);
      state_.fetch_add(one_generation | is_open, std::memory_order_release);
    }
    if (sleeping_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
  }
  void close() {
    state_.fetch_and(~is_open, std::memory_order_relaxed);
    for (int spins = 0; (state_.load(std::memory_order_acquire) & (is_open - 1)) != 0; ++spins)
      spins < 4096 ? pause() : std::this_thread::yield();
  }
  void take_tasks() {
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) call_(object_, i);
  }

  void work() {
    std::uint64_t seen = 0;
    while (wait_for_job(seen)) {
      std::uint64_t state = state_.load(std::memory_order_relaxed);
      while ((state & is_open) != 0) {
        if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire, std::memory_order_relaxed))
          continue;
        take_tasks();
        state_.fetch_sub(1, std::memory_order_release);
        break;
      }
      seen = state >> 32;
    }
  }
  /// True when there is a job of a later generation than `seen`; false when the pool stops.
  bool wait_for_job(std::uint64_t seen) {
    const auto fresh = [&] {
      const std::uint64_t state = state_.load(std::memory_order_acquire);
      return (state & is_open) != 0 && state >> 32 != seen;
    };
    const auto until = std::chrono::steady_clock::now() + spin_;
    while (std::chrono::steady_clock::now() < until) {
      for (int i = 0; i < 64; ++i) {
        if (fresh()) return true;
        pause();
      }
      if (stop_.load(std::memory_order_relaxed)) return false;
    }
    std::unique_lock lock(mutex_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return stop_ || fresh(); });
    sleeping_.fetch_sub(1, std::memory_order_relaxed);
    return !stop_;
  }
  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  std::chrono::microseconds spin_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> stop_{false};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> busy_{false};
  alignas(64) std::atomic<std::uint64_t> state_{0};
  alignas(64) std::atomic<int> next_{0};
  void (*call_)(const void*, int) = nullptr;
  const void* object_ = nullptr;
  int tasks_ = 0;
};

}  // namespace moe

// ReadQueue: worker threads that read records while the caller computes.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace moe {

/// Jobs are taken in the order they were pushed. The ring grows only when more jobs wait than ever before, so a steady
/// state allocates nothing. Destruction finishes what was pushed, then joins: no job is lost and none runs afterwards.
template <class Job>
class ReadQueue {
 public:
  explicit ReadQueue(int threads, std::size_t capacity = 1024) : ring_(capacity) {
    for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ReadQueue(const ReadQueue&) = delete;
  ReadQueue& operator=(const ReadQueue&) = delete;
  ~ReadQueue() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    pushed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void push(const Job& job) {
    {
      const std::lock_guard lock(mutex_);
      if (size_ == ring_.size()) grow();
      ring_[(first_ + size_++) % ring_.size()] = job;
    }
    pushed_.notify_one();
  }

 private:
  void grow() {
    std::vector<Job> larger(2 * ring_.size());
    for (std::size_t i = 0; i < size_; ++i) larger[i] = ring_[(first_ + i) % ring_.size()];
    ring_.swap(larger);
    first_ = 0;
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      pushed_.wait(lock, [&] { return stop_ || size_ > 0; });
      if (size_ == 0) return;
      const Job job = ring_[first_];
      first_ = (first_ + 1) % ring_.size();
      --size_;
      lock.unlock();
      job();
      lock.lock();
    }
  }

  std::vector<Job> ring_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable pushed_;
  std::size_t first_ = 0, size_ = 0;
  bool stop_ = false;
};

}  // namespace moe

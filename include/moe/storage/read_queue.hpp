// ReadQueue: worker threads that read records while the caller computes.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include <moe/concepts.hpp>

namespace moe {

namespace detail {

/// First in, first out; grows only when more wait than ever before, so a steady state allocates nothing.
template <class Job>
class JobRing {
 public:
  explicit JobRing(std::size_t capacity) : ring_(capacity) {}
  bool empty() const noexcept { return size_ == 0; }
  void push(const Job& job) {
    if (size_ == ring_.size()) grow();
    at(size_++) = job;
  }
  Job pop() noexcept {
    const Job job = at(0);
    first_ = (first_ + 1) % ring_.size();
    --size_;
    return job;
  }
  /// Takes out the first job that `wanted` accepts, and keeps the order of the others.
  template <class Wanted>
  bool take(const Wanted& wanted, Job& taken) noexcept {
    std::size_t i = 0;
    while (i < size_ && !wanted(at(i))) ++i;
    if (i == size_) return false;
    taken = at(i);
    for (; i + 1 < size_; ++i) at(i) = at(i + 1);
    --size_;
    return true;
  }

 private:
  Job& at(std::size_t i) noexcept { return ring_[(first_ + i) % ring_.size()]; }
  void grow() {
    std::vector<Job> larger(2 * ring_.size());
    for (std::size_t i = 0; i < size_; ++i) larger[i] = at(i);
    ring_.swap(larger);
    first_ = 0;
  }
  std::vector<Job> ring_;
  std::size_t first_ = 0, size_ = 0;
};

/// Jobs that somebody waits for, then the others; within each, in the order they were pushed.
template <class Job>
class UrgencyQueue {
 public:
  explicit UrgencyQueue(std::size_t capacity) : rings_{JobRing<Job>(capacity), JobRing<Job>(capacity)} {}
  bool empty() const noexcept { return rings_[0].empty() && rings_[1].empty(); }
  void push(const Job& job, Urgency urgency) { ring(urgency).push(job); }
  Job pop() noexcept { return rings_[rings_[0].empty() ? 1 : 0].pop(); }
  /// The first job of Urgency::later that `wanted` accepts is waited for from now on.
  template <class Wanted>
  void hurry(const Wanted& wanted) {
    Job job;
    if (ring(Urgency::later).take(wanted, job)) ring(Urgency::now).push(job);
  }

 private:
  JobRing<Job>& ring(Urgency urgency) noexcept { return rings_[static_cast<std::size_t>(urgency)]; }
  std::array<JobRing<Job>, 2> rings_;  // by urgency
};

}  // namespace detail

/// Jobs that somebody waits for go before guesses; within each, in the order they were pushed. Destruction finishes
/// what was pushed, then joins: no job is lost and none runs afterwards.
template <class Job>
class ReadQueue {
 public:
  explicit ReadQueue(int threads, std::size_t capacity = 1024) : waiting_(capacity) {
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

  void push(const Job& job, Urgency urgency = Urgency::now) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.push(job, urgency);
    }
    pushed_.notify_one();
  }

  /// The first job of Urgency::later that `wanted` accepts is waited for from now on.
  template <class Wanted>
  void hurry(const Wanted& wanted) {
    const std::lock_guard lock(mutex_);
    waiting_.hurry(wanted);
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      pushed_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const Job job = waiting_.pop();
      lock.unlock();
      job();
      lock.lock();
    }
  }

  detail::UrgencyQueue<Job> waiting_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable pushed_;
  bool stop_ = false;
};

}  // namespace moe

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include <doctest/doctest.h>

#include <moe/storage/read_queue.hpp>

namespace {
struct Append {
  std::vector<int>* to = nullptr;
  int value = 0;
  void operator()() const { to->push_back(value); }
};
struct Count {
  std::atomic<int>* counter = nullptr;
  void operator()() const { ++*counter; }
};
/// Takes down its value; the first one waits until the gate opens.
struct Held {
  std::atomic<bool>* open = nullptr;
  std::vector<int>* to = nullptr;
  int value = 0;
  void operator()() const {
    open->wait(false);
    to->push_back(value);
  }
};

using moe::Urgency;
using Ints = moe::detail::JobRing<int>;
using Urgent = moe::detail::UrgencyQueue<int>;

auto is(int value) {
  return [value](int job) { return job == value; };
}
template <class Queue>
std::vector<int> drain(Queue& queue) {
  std::vector<int> out;
  while (!queue.empty()) out.push_back(queue.pop());
  return out;
}
/// Holds 0, 1, .. n - 1, in that order, from the `first`-th place of its memory on.
Ints ring_from(int first, int n, std::size_t capacity) {
  Ints ring(capacity);
  for (int i = 0; i < first; ++i) {
    ring.push(-1);
    ring.pop();
  }
  for (int i = 0; i < n; ++i) ring.push(i);
  return ring;
}
}  // namespace

// ---- JobRing

TEST_CASE("jobs come out in the order they went in, wherever in the ring they lie and however often it grows") {
  for (const std::size_t capacity : {1u, 2u, 3u, 4u})
    for (int first = 0; first < 4; ++first)
      for (int n = 0; n < 9; ++n) {
        Ints ring = ring_from(first, n, capacity);
        const std::vector<int> out = drain(ring);
        REQUIRE(out.size() == static_cast<std::size_t>(n));
        for (int i = 0; i < n; ++i) CHECK(out[static_cast<std::size_t>(i)] == i);
      }
}
TEST_CASE("a ring grows only when more jobs wait than it has room for") {
  static int made = 0;
  struct Job {
    Job() { ++made; }
  };
  moe::detail::JobRing<Job> ring(4);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) ring.push({});
    for (int i = 0; i < 4; ++i) ring.pop();
  }
  CHECK(made == 4 + 12);  // those of the ring, and those that were pushed
  for (int i = 0; i < 5; ++i) ring.push({});
  CHECK(made == 4 + 12 + 5 + 8);
}
TEST_CASE("whichever job is taken out of a ring, the others keep their order") {
  for (const std::size_t capacity : {1u, 3u, 5u})
    for (int first = 0; first < 5; ++first)
      for (int n = 1; n < 6; ++n)
        for (int wanted = 0; wanted < n; ++wanted) {
          Ints ring = ring_from(first, n, capacity);
          int taken = -1;
          CHECK(ring.take(is(wanted), taken));
          CHECK(taken == wanted);
          ring.push(n);  // goes behind what is left
          std::vector<int> expected;
          for (int i = 0; i <= n; ++i)
            if (i != wanted) expected.push_back(i);
          CHECK(drain(ring) == expected);
        }
}
TEST_CASE("of several jobs that are accepted the first is taken, and of none, none") {
  Ints ring(2);
  for (const int job : {4, 7, 8, 7}) ring.push(job);
  int taken = -1;
  CHECK(ring.take([](int job) { return job > 5; }, taken));
  CHECK(taken == 7);
  taken = -1;
  CHECK_FALSE(ring.take(is(5), taken));
  CHECK(taken == -1);
  CHECK(drain(ring) == std::vector<int>{4, 8, 7});
  CHECK_FALSE(ring.take(is(4), taken));  // empty
}
TEST_CASE("a ring behaves as a list does, for random pushes, pops and takes") {
  std::uint64_t state = 11;
  const auto below = [&state](int n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<int>((state >> 33) % static_cast<std::uint64_t>(n));
  };
  Ints ring(3);
  std::deque<int> list;
  for (int i = 0; i < 5000; ++i) {
    const int what = below(5);
    if (what < 2) {
      ring.push(i % 16);
      list.push_back(i % 16);
    } else if (what < 4 && !list.empty()) {
      REQUIRE(ring.pop() == list.front());
      list.pop_front();
    } else {
      const int wanted = below(16);
      const auto at = std::find(list.begin(), list.end(), wanted);
      int taken = -1;
      REQUIRE(ring.take(is(wanted), taken) == (at != list.end()));
      if (at == list.end()) continue;
      CHECK(taken == wanted);
      list.erase(at);
    }
    REQUIRE(ring.empty() == list.empty());
  }
}

// ---- UrgencyQueue

TEST_CASE("what is waited for comes before what may be wanted later; within each, the order of pushes holds") {
  Urgent queue(2);
  CHECK(queue.empty());
  for (const int job : {1, 2, 3, 4, 5}) queue.push(job, job % 2 == 0 ? Urgency::now : Urgency::later);
  CHECK_FALSE(queue.empty());
  CHECK(drain(queue) == std::vector<int>{2, 4, 1, 3, 5});
}
TEST_CASE("a hurried job goes behind what is waited for already, and leaves the order of the others") {
  for (const int hurried : {0, 1, 2, 3}) {
    Urgent queue(1);
    for (const int job : {0, 1, 2, 3}) queue.push(job, Urgency::later);
    queue.push(8, Urgency::now);
    queue.hurry(is(hurried));
    queue.push(9, Urgency::now);
    std::vector<int> expected{8, hurried, 9};
    for (const int job : {0, 1, 2, 3})
      if (job != hurried) expected.push_back(job);
    CHECK(drain(queue) == expected);
  }
}
TEST_CASE("jobs that are hurried one after the other come in the order in which they were hurried") {
  Urgent queue(8);
  for (const int job : {0, 1, 2, 3, 4}) queue.push(job, Urgency::later);
  for (const int job : {3, 1, 4}) queue.hurry(is(job));
  CHECK(drain(queue) == std::vector<int>{3, 1, 4, 0, 2});
}
TEST_CASE("hurrying moves one job, and nothing that is not queued or is waited for already") {
  Urgent queue(4);
  queue.hurry(is(5));  // empty
  CHECK(queue.empty());
  queue.push(5, Urgency::later);
  queue.push(6, Urgency::now);
  queue.push(7, Urgency::now);
  queue.push(5, Urgency::later);
  queue.hurry(is(7));
  queue.hurry(is(1));
  queue.hurry(is(5));
  queue.push(8, Urgency::now);
  CHECK(drain(queue) == std::vector<int>{6, 7, 5, 8, 5});
}

// ---- ReadQueue

TEST_CASE("a worker takes what is waited for first, and a hurried job before other guesses") {
  std::atomic<bool> open{false};
  std::vector<int> done;
  {
    moe::ReadQueue<Held> queue(1, 2);
    for (const int i : {1, 2, 3, 4}) queue.push({&open, &done, i}, Urgency::later);
    queue.push({&open, &done, 5});
    queue.hurry([](const Held& job) { return job.value == 3; });
    open = true;
    open.notify_all();
  }
  REQUIRE(done.size() == 5);
  if (done.front() != 5) std::erase(done, 1);  // the worker may have begun it before the others came
  CHECK(std::vector<int>(done.begin(), done.begin() + 2) == std::vector<int>{5, 3});
}

TEST_CASE("one worker takes jobs in the order they were pushed, beyond the first capacity") {
  std::vector<int> done;
  {
    moe::ReadQueue<Append> queue(1, 2);
    for (int i = 0; i < 500; ++i) queue.push({&done, i});
  }
  REQUIRE(done.size() == 500);
  for (int i = 0; i < 500; ++i) CHECK(done[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("destruction finishes what was pushed") {
  for (const int threads : {1, 2, 5}) {
    std::atomic<int> counter{0};
    {
      moe::ReadQueue<Count> queue(threads, 1);
      for (int i = 0; i < 1000; ++i) queue.push({&counter});
    }
    CHECK(counter == 1000);
  }
}

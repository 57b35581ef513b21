#include <atomic>
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
}  // namespace

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

// Workspaces, waves and their pins.
#include <algorithm>
#include <memory>
#include <moe/frame.hpp>
#include <vector>

#include "problem.hpp"

namespace {

/// Counts, per expert, how often a pin was destroyed while it held something.
class CountingPin {
 public:
  explicit CountingPin(int* count) : count_(count) {}
  CountingPin(CountingPin&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
  CountingPin& operator=(CountingPin&&) = delete;
  ~CountingPin() {
    if (count_ != nullptr) ++*count_;
  }

 private:
  int* count_;
};

/// A pin that is told about the queue before it goes.
struct QueuedPin {
  int* told;
  void release(moe::host_queue&) noexcept { ++*told; }
};

template <class P>
struct WaveMemory {
  moe::ExpertRef refs[8];
  alignas(P) std::byte pins[8 * sizeof(P)];
  moe::Wave<P> wave{refs, reinterpret_cast<P*>(pins)};
};

}  // namespace

TEST_CASE("a released wave releases every pin once") {
  int counts[3] = {};
  {
    WaveMemory<CountingPin> m;
    for (int e = 0; e < 3; ++e) m.wave.push({e, 0, nullptr}, CountingPin(counts + e));
    moe::host_queue queue;
    m.wave.release(queue);
    for (const int count : counts) CHECK(count == 1);
  }
  for (const int count : counts) CHECK(count == 1);
}
TEST_CASE("a destroyed wave releases every pin once") {
  int count = 0;
  {
    WaveMemory<CountingPin> m;
    m.wave.push({0, 0, nullptr}, CountingPin(&count));
    CHECK(count == 0);
  }
  CHECK(count == 1);
}
TEST_CASE("refs of a released wave stay, the next ones come behind them") {
  int counts[2] = {};
  WaveMemory<CountingPin> m;
  m.wave.push({5, 0, nullptr}, CountingPin(counts));
  const moe::ExpertRef* const first = m.wave.refs().data();
  moe::host_queue queue;
  m.wave.release(queue);
  m.wave.push({6, 0, nullptr}, CountingPin(counts + 1));
  CHECK(first->expert == 5);
  CHECK(m.wave.refs().data() == first + 1);
  CHECK(m.wave.refs()[0].expert == 6);
}
TEST_CASE("a wave is empty before the first push and after a release") {
  int count = 0;
  WaveMemory<CountingPin> m;
  CHECK(m.wave.empty());
  m.wave.push({0, 0, nullptr}, CountingPin(&count));
  CHECK_FALSE(m.wave.empty());
  moe::host_queue queue;
  m.wave.release(queue);
  CHECK(m.wave.empty());
}
TEST_CASE("pins that care are told the queue") {
  int told = 0;
  WaveMemory<QueuedPin> m;
  m.wave.push({0, 0, nullptr}, QueuedPin{&told});
  moe::host_queue queue;
  m.wave.release(queue);
  CHECK(told == 1);
}
TEST_CASE("a wave takes pins that can only be moved") {
  WaveMemory<std::unique_ptr<int>> m;
  m.wave.push({0, 0, nullptr}, std::make_unique<int>(3));
  CHECK(m.wave.refs().size() == 1);
}

TEST_CASE("a workspace has the size that was asked for") {
  const moe::Workspace ws({.bytes = 1000, .staging_bytes = 64});
  CHECK(ws.size().bytes == 1000);
  CHECK(ws.size().staging_bytes == 64);
}
TEST_CASE("a poisoned workspace reads as NaN") {
  moe::Workspace ws({.bytes = 64, .staging_bytes = 0});
  ws.poison();
  for (int i = 0; i < 16; ++i) CHECK(std::isnan(reinterpret_cast<const float*>(ws.main().take<float>(16))[i]));
}
TEST_CASE("poison fills all of a workspace, staging too") {
  moe::Workspace<> ws({64, 64});
  ws.poison();
  for (moe::Arena arena : {ws.main(), ws.staging()}) {
    const std::uint8_t* bytes = arena.take<std::uint8_t>(64);
    CHECK(std::all_of(bytes, bytes + 64, [](std::uint8_t b) { return b == 0xff; }));
  }
}
TEST_CASE("an empty workspace can be poisoned") {
  moe::Workspace ws({});
  ws.poison();
  CHECK(ws.size().bytes == 0);
}
TEST_CASE("the larger of two workspaces is the larger in each part") {
  const moe::WorkspaceSize both = moe::max({.bytes = 10, .staging_bytes = 1}, {.bytes = 2, .staging_bytes = 5});
  CHECK(both.bytes == 10);
  CHECK(both.staging_bytes == 5);
}

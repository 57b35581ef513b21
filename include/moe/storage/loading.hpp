// What caches and rings have in common: the states of a place for records, lists of loads, the time of waiting.
#pragma once

#include <chrono>
#include <cstdint>

namespace moe::detail {

/// A place for a record (slot of a cache) or for a layer's records (section of a ring):
///
///                 begins to load               the last answer, well
///       empty ---------------------> loading ------------------------> ready <--+
///        ^  ^                        ^     |                            |  |    | lent, given back
///        |  |                        |     | an answer, badly           |  +----+
///        |  |                        |     v                            |
///        |  +------------------------|-- failed                         |
///        |     those who began it    |                                  |
///        |     were told, or left    |     gives way to another record  |
///        |                           +----------------------------------+
///        |               is not kept: staged, its layer goes            |
///        +--------------------------------------------------------------+
///
/// All of this under the mutex. Any call may decide that a place begins to load; while it is `loading` its bytes belong
/// to the source, which alone moves it on. `failed` lasts until the calls that began the load have seen it. A `ready`
/// place gives way only while nobody holds it or has claimed it.
enum class Phase : unsigned char { empty, loading, ready, failed };

/// Places whose loads were decided and are to be started, in the order of the decisions. Linked through their `next`,
/// so that nothing is allocated; they are loading, so nobody else changes them.
struct LoadList {
  int first = -1, last = -1;

  bool empty() const noexcept { return first < 0; }
  template <class Places>
  void append(Places& places, int place) noexcept {
    places[place].next = -1;
    (first < 0 ? first : places[last].next) = place;
    last = place;
  }
};

/// Runs from its construction, when a call begins to wait.
class StallClock {
 public:
  /// The call waits no longer.
  template <class Statistics>
  void stop(Statistics& statistics) const {
    using namespace std::chrono;
    ++statistics.stalls;
    statistics.stall_ns += static_cast<std::uint64_t>(duration_cast<nanoseconds>(steady_clock::now() - begin_).count());
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace moe::detail

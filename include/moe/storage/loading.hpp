// What caches and rings have in common: the states of a place for records, lists of loads, the time of waiting.
#pragma once

#include <chrono>
#include <cstdint>

namespace moe::detail {

/// A place for a record (slot of a cache) or for a layer's records (section of a ring):
///
///               begin_load             last answer, well
///      empty  ------------->  loading  ----------------->  ready  --------+
///        ^                       |                           ^ | lend     | begin_load of another record:
///        |                       | last answer, badly        +-+ unpin    | given up if idle and its turn (rules)
///        |                       v                                        |
///        +<------------------  failed                                     |
///        |   its caller was told                                          |
///        +<---------------------------------------------------------------+
///            streamed and unpinned; its layer goes
///
/// Who may move it: `begin_load` is any call's decision, under the mutex; `loading` belongs to the source until it has
/// answered, and nobody else touches the bytes; `failed` stays until the call that began the load was told, and is
/// skipped if that call has gone; whoever pins it keeps it `ready`.
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

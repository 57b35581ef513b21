// FarthestNextUse: Belady's MIN, an eviction that knows the future because it has read the trace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <moe/offline/replay.hpp>

namespace moe {

/// Gives up the expert whose next use is farthest away (Belady 1966). In one pool of equal slots, where every miss must
/// be kept, no policy loads less, if every record fits into its pool; where some do not, what they leave in the slots
/// is partly forced and another choice may save a load now and then. Only for replays of the trace that it was made
/// from, in which every pick is served: an expert is recognised by the time of its newest use. Copies share the table
/// of 8 bytes per pick.
class FarthestNextUse {
 public:
  explicit FarthestNextUse(const RoutingTrace& trace) {
    const auto experts = static_cast<std::size_t>(trace.experts());
    std::vector<std::uint64_t> next(static_cast<std::size_t>(trace.layers()) * experts, never);
    std::vector<std::uint64_t> after;
    for (const TraceRecord& r : trace.records()) after.resize(after.size() + static_cast<std::size_t>(r.count));
    std::uint64_t use = after.size();
    for (std::size_t r = trace.records().size(); r-- > 0;) {
      const TraceRecord& record = trace.records()[r];
      for (int i = record.count; i-- > 0; --use) {
        const auto expert = static_cast<std::size_t>(trace.picks(record)[i].expert);
        std::uint64_t& following = next[static_cast<std::size_t>(record.layer) * experts + expert];
        after[use - 1] = following;
        following = use;
      }
    }
    after_ = std::make_shared<const std::vector<std::uint64_t>>(std::move(after));
  }

  double keep_score(const CacheEntry& entry, const CacheClock&) const noexcept {
    return -static_cast<double>((*after_)[entry.last_use - 1]);
  }
  /// The use, from 1, that follows use number `use` of the same expert; `never` if none does.
  std::uint64_t after(std::uint64_t use) const noexcept { return (*after_)[use - 1]; }

  static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

 private:
  std::shared_ptr<const std::vector<std::uint64_t>> after_;  // by use
};

/// Belady's bound of a trace: `replay` with `FarthestNextUse`.
inline ReplayCounts replay_min(const RoutingTrace& trace, const ReplaySlots& slots) {
  return replay(trace, slots, FarthestNextUse(trace));
}

}  // namespace moe

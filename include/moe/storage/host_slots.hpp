// HostSlots: the records of a cache in host memory; what a cache asks of any memory for its slots.
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <moe/expert.hpp>
#include <moe/lending.hpp>
#include <moe/storage/layer_source.hpp>
#include <moe/tensor.hpp>

namespace moe {

// clang-format off

/// Where the records of a cache lie and how they get there; the rules and the bookkeeping of a cache know nothing of it.
/// `allocate(bytes)`: room for slots of these sizes in place of what there was, all of it taken now; throws if there is
/// none, and then there are no slots. `record(slot)`: its bytes in `memory`, for the executor. `read(source, request,
/// slot)`: brings a record there and answers `request.done`, whose `to` it sets; called without the cache's lock, which
/// the others are called under.
///
/// Where copies and computing are queued, a slot is answered for when its copy was queued, and these hooks put the two
/// in order: `here(slot)`, its copy has come to its end, so that lending it delays nobody; `lend(slot, queue)`, what is
/// queued from now on waits for the copy; `release(slot, queue)`, the next copy into the slot waits for what is queued.
template <class S>
concept CacheMemory = std::default_initializable<S> && requires(S s, const S c, std::span<const std::size_t> bytes,
                                                             const detail::LayerSource& source, ReadRequest request) {
  typename S::memory::queue;
  s.allocate(bytes);
  { c.bytes() } noexcept -> std::same_as<std::size_t>;
  { c.record(0) } noexcept -> std::same_as<const std::byte*>;
  s.read(source, request, 0);
};
// clang-format on

class HostSlots {
 public:
  using memory = host_memory;

  void allocate(std::span<const std::size_t> bytes) {
    std::size_t total = 0;
    for (const std::size_t b : bytes) total += b;
    records_.clear();
    memory_ = Buffer();  // before the new one, so that they never stand beside each other
    memory_ = Buffer(total);
    memory_.touch();
    std::byte* next = memory_.data();
    for (const std::size_t b : bytes) records_.push_back(std::exchange(next, next + b));
  }
  std::size_t bytes() const noexcept { return memory_.bytes(); }
  const std::byte* record(int slot) const noexcept { return records_[static_cast<std::size_t>(slot)]; }
  void read(const detail::LayerSource& source, ReadRequest request, int slot) const {
    request.to = records_[static_cast<std::size_t>(slot)];
    source.read(request);
  }

 private:
  Buffer memory_;
  std::vector<std::byte*> records_;  // [slot]
};

}  // namespace moe

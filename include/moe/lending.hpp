// How experts change hands: records that a source reads, and experts that a storage lends to a call.
#pragma once

// clang-format 14 does not know requirements.
// clang-format off

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// Called once for every `RecordSource::read` when the record is complete, or with what went wrong.
using ReadDone = void (*)(void* who, const Error* error) noexcept;

/// Whether a call waits for a record, or may want it soon: sources with a queue serve what is waited for first.
enum class Urgency : int { now, later };

/// One record to be read into memory that somebody else owns.
struct ReadRequest {
  ExpertId expert = -1;
  int format = 0;              // index in the source's formats
  std::byte* to = nullptr;     // bytes(format) bytes, page_alignment-aligned
  ReadDone done = nullptr;
  void* who = nullptr;         // what `done` is given
  Urgency urgency = Urgency::now;
};

/// Reads packed records. `read` may answer at once on this thread or later on another; it answers exactly once and
/// does not throw. Hooks: `void hurry(const void* who) const noexcept`, a record that was asked for with
/// Urgency::later is waited for now; `int choose(const ExpertNeed&) const noexcept`, the least precise format that
/// serves a need (formats stand from the most precise on), or -1 if the need may go unserved.
template <class S>
concept RecordSource = std::movable<S> && requires(const S s, int format, const ReadRequest& request) {
  typename S::layout;
  typename S::formats;
  { s.shape() } noexcept -> std::same_as<ExpertShape>;
  { s.num_experts() } noexcept -> std::same_as<int>;
  { s.bytes(format) } noexcept -> std::same_as<std::size_t>;
  s.read(request);
};
template <RecordSource S>
void hurry([[maybe_unused]] const S& source, [[maybe_unused]] const void* who) noexcept {
  if constexpr (requires { source.hurry(who); }) source.hurry(who);
}
/// The least precise format that serves a need; negative: the need may go unserved.
template <RecordSource S>
int choose([[maybe_unused]] const S& source, [[maybe_unused]] const ExpertNeed& need) noexcept {
  if constexpr (requires { { source.choose(need) } -> std::same_as<int>; }) return source.choose(need);
  else return 0;
}

/// A pin keeps an expert's bytes where they are until it is destroyed.
template <class P>
concept Pin = std::move_constructible<P> && std::is_nothrow_destructible_v<P>;

/// What a storage lends for one round of computing. Appends during one forward: pins go early, refs stay,
/// because a device may still read them.
template <Pin P>
class Wave {
 public:
  Wave(ExpertRef* refs, P* pins) noexcept : refs_(refs), pins_(pins) {}
  Wave(const Wave&) = delete;
  Wave& operator=(const Wave&) = delete;
  ~Wave() { drop(); }

  void push(ExpertRef ref, P&& pin) noexcept {
    refs_[first_ + size_] = ref;
    ::new (static_cast<void*>(pins_ + size_)) P(std::move(pin));
    ++size_;
  }
  template <class Queue>
  void release(Queue& queue) noexcept {
    if constexpr (requires(P p) { p.release(queue); })
      for (int i = 0; i < size_; ++i) pins_[i].release(queue);
    drop();
  }
  Row<const ExpertRef> refs() const noexcept { return {refs_ + first_, size_}; }
  bool empty() const noexcept { return size_ == 0; }

  std::uint64_t ticket = 0;  // by which a storage knows the call again; 0 in its first `acquire`

 private:
  void drop() noexcept {
    first_ += size_;
    while (size_ > 0) pins_[--size_].~P();
  }
  ExpertRef* refs_;
  P* pins_;
  int size_ = 0, first_ = 0;
};

namespace detail {
/// Tells the storage when a call leaves before its needs were served: what it claimed may go.
template <class Storage, class W>
class AbandonGuard {
 public:
  using Queue = typename Storage::memory::queue;
  AbandonGuard(const Storage& storage, const std::span<ExpertNeed>& rest, W& wave, Queue& queue)
      : storage_(storage), rest_(rest), wave_(wave), queue_(queue) {}
  AbandonGuard(const AbandonGuard&) = delete;
  AbandonGuard& operator=(const AbandonGuard&) = delete;
  ~AbandonGuard() {
    if (served_) return;
    wave_.release(queue_);  // what was queued before the failure may still read what was lent
    if constexpr (requires { storage_.abandon(rest_, wave_); }) storage_.abandon(rest_, wave_);
  }
  void served() noexcept { served_ = true; }

 private:
  const Storage& storage_;
  const std::span<ExpertNeed>& rest_;
  W& wave_;
  Queue& queue_;
  bool served_ = false;
};
}  // namespace detail

}  // namespace moe
// clang-format on

// UringReader: reads of one file through io_uring where the kernel lets us, else on threads. Component moelayer::uring.
#pragma once

#include <liburing.h>
#include <sys/eventfd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <moe/storage/thread_reader.hpp>

namespace moe::io {

namespace detail {

/// An io_uring and the event that wakes who waits for it; both, or neither.
class Ring {
 public:
  /// Whether there is one is found by asking: kernels that know io_uring refuse it in many containers.
  explicit Ring(unsigned entries) noexcept {
    event_ = moe::detail::Descriptor<>(::eventfd(0, EFD_CLOEXEC));
    if (!event_.valid() || ::io_uring_queue_init(entries, &ring_, 0) != 0) return;
    valid_ = true;
    if (probe()) return;
    ::io_uring_queue_exit(&ring_);
    valid_ = false;
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    if (valid_) ::io_uring_queue_exit(&ring_);
  }
  bool valid() const noexcept { return valid_; }
  io_uring* get() noexcept { return &ring_; }
  int event() const noexcept { return event_.get(); }

 private:
  bool probe() noexcept {
    io_uring_probe* const known = ::io_uring_get_probe_ring(&ring_);
    if (known == nullptr) return false;
    const bool reads = ::io_uring_opcode_supported(known, IORING_OP_READ) != 0;
    ::io_uring_free_probe(known);
    return reads;
  }
  moe::detail::Descriptor<> event_;
  io_uring ring_{};
  bool valid_ = false;
};

/// Reads of one file by one thread that keeps at most `depth` of them with the kernel; the others wait here, so that
/// what somebody waits for is served before guesses.
class RingReads {
 public:
  RingReads(const InputFile& file, Ring& ring, int depth, ReadEnd end)
      : file_(file), ring_(ring), end_(end), slots_(static_cast<std::size_t>(depth)) {
    for (Slot& slot : slots_) free_.push_back(&slot);
    worker_ = std::thread([this] { work(); });
  }
  RingReads(const RingReads&) = delete;
  RingReads& operator=(const RingReads&) = delete;
  ~RingReads() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake();
    worker_.join();
  }

  void push(const RecordRead& read, Urgency urgency) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.push(read, urgency);
    }
    wake();
  }
  void hurry(const void* who) noexcept {
    const std::lock_guard lock(mutex_);
    waiting_.hurry([who](const RecordRead& read) { return read.who == who; });
  }

 private:
  struct Slot {
    RecordRead read;
    std::size_t have = 0;
  };

  void wake() const noexcept {
    const std::uint64_t one = 1;
    while (::write(ring_.event(), &one, sizeof one) < 0 && errno == EINTR) continue;
  }
  /// All use of the ring is on this thread: the kernel cancels what a thread has submitted when that thread ends.
  void work() {
    listen();
    while (submit()) {
      io_uring_cqe* completion = nullptr;
      const int error = ::io_uring_wait_cqe(ring_.get(), &completion);
      if (error != 0) continue;  // EINTR; nothing else is promised to be lasting
      auto* const slot = static_cast<Slot*>(::io_uring_cqe_get_data(completion));
      const int result = completion->res;
      ::io_uring_cqe_seen(ring_.get(), completion);
      slot == nullptr ? listen() : ended(*slot, result);
    }
  }
  void listen() {
    io_uring_sqe* const entry = ::io_uring_get_sqe(ring_.get());
    ::io_uring_prep_read(entry, ring_.event(), &woken_, sizeof woken_, 0);
    ::io_uring_sqe_set_data(entry, nullptr);
  }
  /// Hands waiting reads over. False when there is nothing left and nothing will come.
  bool submit() {
    bool idle = false;
    {
      const std::lock_guard lock(mutex_);
      while (!free_.empty() && !waiting_.empty()) {
        Slot& slot = *free_.back();
        free_.pop_back();
        slot = {waiting_.pop(), 0};
        ask(slot);
      }
      idle = stop_ && waiting_.empty() && free_.size() == slots_.size();
    }
    ::io_uring_submit(ring_.get());
    return !idle;
  }
  void ask(Slot& slot) {
    io_uring_sqe* const entry = ::io_uring_get_sqe(ring_.get());
    ::io_uring_prep_read(entry, file_.descriptor(), slot.read.to, static_cast<unsigned>(slot.read.bytes),
                         slot.read.offset);
    ::io_uring_sqe_set_data(entry, &slot);
  }
  /// What io_uring did not read, after a fault or a short read, is tried once more in the plain way, with its errors.
  void ended(Slot& slot, int result) {
    const RecordRead read = slot.read;
    free_.push_back(&slot);
    if (result == static_cast<int>(read.bytes)) return end_.finish(end_.owner, read, nullptr);
    const std::size_t have = result > 0 ? static_cast<std::size_t>(result) : 0;
    finish_plainly(file_, end_, read, have);
  }

  const InputFile& file_;
  Ring& ring_;
  ReadEnd end_;
  std::uint64_t woken_ = 0;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  moe::detail::UrgencyQueue<RecordRead> waiting_;
  bool stop_ = false;
  std::mutex mutex_;
  std::thread worker_;
};

}  // namespace detail
}  // namespace moe::io

// UringReader: reads of one file through io_uring where the kernel lets us, else on threads. Component moelayer::uring.
#pragma once

#include <liburing.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
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
class SubmissionRing {
 public:
  /// Whether there is one is found by asking: kernels that know io_uring refuse it in many containers.
  explicit SubmissionRing(unsigned entries) noexcept {
    event_ = moe::detail::Descriptor<>(::eventfd(0, EFD_CLOEXEC));
    if (!event_.valid() || ::io_uring_queue_init(entries, &ring_, 0) != 0) return;
    valid_ = true;
    if (probe()) return;
    ::io_uring_queue_exit(&ring_);
    valid_ = false;
  }
  SubmissionRing(const SubmissionRing&) = delete;
  SubmissionRing& operator=(const SubmissionRing&) = delete;
  ~SubmissionRing() {
    if (valid_) ::io_uring_queue_exit(&ring_);
  }
  bool valid() const noexcept { return valid_; }
  io_uring* get() noexcept { return &ring_; }
  int event() const noexcept { return event_.get(); }
  /// Where the kernel puts the event's count: here, because it may do so until the ring is gone.
  std::uint64_t* woken() noexcept { return &woken_; }

 private:
  /// Reading is known, and an entry that does nothing completes.
  bool probe() noexcept {
    io_uring_probe* const known = ::io_uring_get_probe_ring(&ring_);
    if (known == nullptr) return false;
    const bool reads = ::io_uring_opcode_supported(known, IORING_OP_READ) != 0;
    ::io_uring_free_probe(known);
    ::io_uring_prep_nop(::io_uring_get_sqe(&ring_));
    io_uring_cqe* completion = nullptr;
    if (!reads || ::io_uring_submit(&ring_) != 1 || ::io_uring_wait_cqe(&ring_, &completion) != 0) return false;
    ::io_uring_cqe_seen(&ring_, completion);
    return true;
  }
  moe::detail::Descriptor<> event_;
  io_uring ring_{};
  std::uint64_t woken_ = 0;
  bool valid_ = false;
};

/// Reads of one file by one thread that keeps at most `depth` of them with the kernel; the others wait here, so that
/// what somebody waits for is served before guesses.
class RingReads {
 public:
  RingReads(const InputFile& file, SubmissionRing& ring, int depth, ReadEnd end)
      : file_(file), ring_(ring), end_(end), slots_(static_cast<std::size_t>(depth)) {
    free_.reserve(slots_.size());
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
  };

  void wake() const noexcept {
    const std::uint64_t one = 1;
    while (::write(ring_.event(), &one, sizeof one) < 0 && errno == EINTR) continue;
  }
  /// All use of the ring is on this thread: the kernel cancels what a thread has submitted when that thread ends.
  void work() {
    listen();
    while (start_waiting()) {
      io_uring_cqe* completion = nullptr;
      // A ring that stopped working is only looked at: what the kernel still has of it will complete.
      if (refused_) std::this_thread::sleep_for(std::chrono::microseconds(100));
      const int error =
          refused_ ? ::io_uring_peek_cqe(ring_.get(), &completion) : ::io_uring_wait_cqe(ring_.get(), &completion);
      if (error != 0) {
        refused_ = refused_ || error != -EINTR;
        continue;
      }
      auto* const slot = static_cast<Slot*>(::io_uring_cqe_get_data(completion));
      const int result = completion->res;
      ::io_uring_cqe_seen(ring_.get(), completion);
      slot == nullptr ? listen() : ended(*slot, result);
    }
  }
  void listen() {
    if (refused_) return;
    io_uring_sqe* const entry = ::io_uring_get_sqe(ring_.get());
    ::io_uring_prep_read(entry, ring_.event(), ring_.woken(), sizeof *ring_.woken(), 0);
    ::io_uring_sqe_set_data(entry, nullptr);
    submit();
  }
  /// Takes waiting reads as long as there is a slot. False when there is nothing left and nothing will come.
  bool start_waiting() {
    std::unique_lock lock(mutex_);
    while (!free_.empty() && !waiting_.empty()) {
      Slot& slot = *free_.back();
      free_.pop_back();
      slot.read = waiting_.pop();
      lock.unlock();
      if (!ask(slot)) ended(slot, 0);
      lock.lock();
    }
    return !stop_ || !waiting_.empty() || free_.size() < slots_.size();
  }
  /// False if the kernel does not take the read.
  bool ask(Slot& slot) {
    if (refused_) return false;
    constexpr std::size_t most = std::size_t{1} << 30;
    const RecordRead& read = slot.read;
    io_uring_sqe* const entry = ::io_uring_get_sqe(ring_.get());
    ::io_uring_prep_read(entry, file_.descriptor(), read.to, static_cast<unsigned>(std::min(read.bytes, most)),
                         read.offset);
    ::io_uring_sqe_set_data(entry, &slot);
    return submit();
  }
  /// One entry at a time, so that it is known which one was refused; nothing is submitted after that.
  bool submit() {
    for (int i = 0; i < moe::detail::most_idle_steps; ++i) {
      const int submitted = ::io_uring_submit(ring_.get());
      if (submitted > 0) return true;
      if (submitted != -EAGAIN && submitted != -EBUSY && submitted != -EINTR) break;
      std::this_thread::yield();
    }
    refused_ = true;
    return false;
  }
  /// What io_uring did not read, after a fault or a short read, is tried once more in the plain way, with its errors.
  void ended(Slot& slot, int result) {
    const RecordRead read = slot.read;
    free_.push_back(&slot);
    if (result > 0 && static_cast<std::size_t>(result) == read.bytes) return end_.finish(end_.owner, read, nullptr);
    moe::detail::read_and_finish(file_, end_, read, result > 0 ? static_cast<std::size_t>(result) : 0);
  }

  const InputFile& file_;
  SubmissionRing& ring_;
  ReadEnd end_;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;  // of the worker
  bool refused_ = false;     // of the worker: the kernel takes no more entries
  moe::detail::UrgencyQueue<RecordRead> waiting_{1024};
  bool stop_ = false;
  std::mutex mutex_;
  std::thread worker_;
};

}  // namespace detail

/// A reader of `File` that has up to `readers` reads with the kernel and one thread for their ends. Where io_uring is
/// missing or refused (old kernels, containers, seccomp) it is a `ThreadReader` with as many threads; reads that
/// io_uring does not complete are finished in the plain way.
class UringReader {
 public:
  using system = PosixSystem;

  UringReader(const InputFile& file, int readers, ReadEnd end) : ring_(static_cast<unsigned>(readers) + 1) {
    if (ring_.valid())
      reads_.emplace(file, ring_, readers, end);
    else
      threads_.emplace(file, readers, end);
  }

  /// False: reads run on threads.
  bool uring() const noexcept { return reads_.has_value(); }
  void push(const RecordRead& read, Urgency urgency) const {
    reads_ ? reads_->push(read, urgency) : threads_->push(read, urgency);
  }
  void hurry(const void* who) const noexcept { reads_ ? reads_->hurry(who) : threads_->hurry(who); }

 private:
  detail::SubmissionRing ring_;
  mutable std::optional<detail::RingReads> reads_;
  std::optional<ThreadReader<>> threads_;
};

}  // namespace moe::io

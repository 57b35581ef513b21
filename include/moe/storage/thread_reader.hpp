// ThreadReader: reads of one file on worker threads, those that somebody waits for first.
#pragma once

#include <cstddef>
#include <cstdint>

#include <moe/storage/pending_reads.hpp>
#include <moe/storage/posix_file.hpp>
#include <moe/storage/read_queue.hpp>

namespace moe {

/// One record to be read, and who is told.
struct RecordRead {
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
  std::byte* to = nullptr;
  int format = 0, layer = 0;  // as the file counts
  ExpertId expert = 0;
  ReadDone done = nullptr;
  void* who = nullptr;
};

/// What a reader does when a read has ended: `finish(owner, read, error)`, once for each, on any thread. The owner
/// verifies the record and answers, so that a read allocates nothing.
struct ReadEnd {
  void (*finish)(const void* owner, const RecordRead& read, const Error* error) noexcept = nullptr;
  const void* owner = nullptr;
};

namespace detail {
/// Reads what is missing of a record, of which the first `have` bytes are there, and tells the owner.
template <class System>
void read_and_finish(const BasicInputFile<System>& file, const ReadEnd& end, const RecordRead& read,
                     std::size_t have = 0) noexcept {
  struct Ended {
    const ReadEnd& end;
    const RecordRead& read;
    static void done(void* who, const Error* error) noexcept {
      const auto& self = *static_cast<const Ended*>(who);
      self.end.finish(self.end.owner, self.read, error);
    }
  } ended{end, read};
  answer_with([&] { file.read(read.offset, {read.to, read.bytes}, have); }, &Ended::done, &ended);
}
}  // namespace detail

/// Decides how the reads of an open file run. Another reader has the same members (io/uring.hpp). Destruction finishes
/// what was pushed; the file must outlive it.
template <class System = PosixSystem>
class ThreadReader {
 public:
  using system = System;

  /// `readers` threads, each with one read at a time.
  ThreadReader(const BasicInputFile<System>& file, int readers, ReadEnd end)
      : file_(file), end_(end), queue_(readers) {}

  void push(const RecordRead& read, Urgency urgency) const { queue_.push({this, read}, urgency); }
  /// The first read of `who` that is not waited for is waited for from now on.
  void hurry(const void* who) const noexcept {
    queue_.hurry([who](const Job& job) { return job.read.who == who; });
  }

 private:
  struct Job {
    const ThreadReader* reader = nullptr;
    RecordRead read;
    void operator()() const { detail::read_and_finish(reader->file_, reader->end_, read); }
  };

  const BasicInputFile<System>& file_;
  ReadEnd end_;
  mutable ReadQueue<Job> queue_;  // last: drains before the others go
};

}  // namespace moe

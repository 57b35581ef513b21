// Files as storages and readers need them: read by position in full, written whole or not at all.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <moe/error.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// The calls that files make, with the results and errno values of POSIX. A file takes another copyable object with
/// the same members in its place: tests inject faults there.
struct PosixSystem {
  int open(const char* path, int flags, mode_t mode = 0) const noexcept { return ::open(path, flags, mode); }
  int close(int fd) const noexcept { return ::close(fd); }
  int status(int fd, struct stat& to) const noexcept { return ::fstat(fd, &to); }
  ssize_t pread(int fd, void* to, std::size_t bytes, off_t at) const noexcept { return ::pread(fd, to, bytes, at); }
  ssize_t pwrite(int fd, const void* from, std::size_t bytes, off_t at) const noexcept {
    return ::pwrite(fd, from, bytes, at);
  }
  /// Reserves room on the disk for a file of this size; EOPNOTSUPP where the file system cannot.
  int reserve(int fd, off_t bytes) const noexcept {
#if defined(__linux__)
    return ::fallocate(fd, 0, 0, bytes);
#else
    errno = (static_cast<void>(fd), static_cast<void>(bytes), EOPNOTSUPP);
    return -1;
#endif
  }
  int sync(int fd) const noexcept { return ::fsync(fd); }
  int rename(const char* from, const char* to) const noexcept { return ::rename(from, to); }
  int unlink(const char* path) const noexcept { return ::unlink(path); }
};

namespace detail {

/// An open file descriptor, closed on destruction.
template <class System = PosixSystem>
class Descriptor {
 public:
  explicit Descriptor(int fd = -1, System system = {}) : fd_(fd), system_(std::move(system)) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)), system_(other.system_) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(system_, other.system_);
    return *this;
  }
  ~Descriptor() { close(); }
  int get() const noexcept { return fd_; }
  bool valid() const noexcept { return fd_ >= 0; }
  /// The result of `close`, after which there is no descriptor whatever it says.
  int close() noexcept { return fd_ < 0 ? 0 : system_.close(std::exchange(fd_, -1)); }

 private:
  int fd_;
  [[no_unique_address]] System system_;
};

/// `call()` until it is not interrupted.
template <class Call>
auto uninterrupted(const Call& call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

struct Transfer {
  std::size_t bytes = 0;
  int error = 0;  // an errno value; 0 with too few bytes means that the file ended
};

/// How often in a row a transfer may fail to advance (EAGAIN, less than a page of a direct read) before it fails.
inline constexpr int most_idle_steps = 16;

/// Calls `step(done) -> ssize_t` until `size` bytes have moved, nothing moves any more, or it fails.
/// EINTR is tried again, EAGAIN `most_idle_steps` times. After a short step, `done` is a multiple of `granule`: direct
/// transfers go on where a page begins. A template, so that tests can bring their own short and broken steps.
template <class Step>
Transfer transfer_fully(std::size_t size, Step&& step, std::size_t granule = 1) {
  Transfer result;
  for (int idle = 0; result.bytes < size && idle < most_idle_steps;) {
    const ssize_t moved = step(result.bytes);
    if (moved < 0 && errno == EINTR) continue;
    result.error = moved < 0 ? errno : 0;
    if (moved == 0 || (moved < 0 && result.error != EAGAIN)) break;
    const std::size_t before = result.bytes;
    if (moved > 0) result.bytes += static_cast<std::size_t>(moved);
    if (result.bytes < size) result.bytes -= result.bytes % granule;
    if (result.bytes != before) {
      idle = 0;
    } else {
      ++idle;
      ::sched_yield();
    }
  }
  return result;
}

}  // namespace detail

enum class Access { buffered, direct };

/// A regular file opened for reading. Reads carry their position, so several threads may share one.
///
/// `Access::direct` bypasses the page cache where the file system can (positions, sizes and memory are then multiples
/// of 4096) and is buffered elsewhere; `direct()` tells which. Interrupted and short reads are continued.
template <class System = PosixSystem>
class BasicInputFile {
 public:
  /// Throws IoError unless `path` can be opened and is a regular file.
  explicit BasicInputFile(std::string path, Access access = Access::buffered, System system = {})
      : path_(std::move(path)), system_(std::move(system)) {
    if (access == Access::direct) open_direct();
    if (!fd_.valid()) fd_ = open(0);
    if (!fd_.valid()) raise(IoError(path_, "cannot be opened", "a readable file", std::strerror(errno)));
    struct stat status {};
    if (detail::uninterrupted([&] { return system_.status(fd_.get(), status); }) != 0)
      raise(IoError(path_, "no status", "a file", std::strerror(errno)));
    if (!S_ISREG(status.st_mode)) raise(IoError(path_, "kind of file", "a regular file", "something else"));
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  const std::string& path() const noexcept { return path_; }
  bool direct() const noexcept { return direct_; }
  /// Bytes the file held when it was opened.
  std::uint64_t size() const noexcept { return size_; }
  int descriptor() const noexcept { return fd_.get(); }

  /// Fills `to` with the bytes from `offset` on, of which the caller has the first `have` already. Throws IoError on a
  /// fault of the disk, beyond the end, and when the file has become shorter since it was opened.
  void read(std::uint64_t offset, std::span<std::byte> to, std::size_t have = 0) const {
    if (offset > size_ || to.size() > size_ - offset) fail(offset, to.size(), concat("only ", size_));
    const std::size_t granule = direct_ ? page_alignment : 1, begin = have - have % granule;
    const std::span<std::byte> rest = to.subspan(begin);
    const detail::Transfer got = detail::transfer_fully(
        rest.size(),
        [&](std::size_t done) {
          return system_.pread(fd_.get(), rest.data() + done, rest.size() - done,
                               static_cast<off_t>(offset + begin + done));
        },
        granule);
    if (got.bytes == rest.size()) return;
    if (got.error != 0) fail(offset, to.size(), concat(std::strerror(got.error), " after ", begin + got.bytes));
    fail(offset, to.size(), concat("the end of the file after ", begin + got.bytes, " (truncated since opened?)"));
  }

 private:
  // O_NONBLOCK: opening a FIFO must fail later, not wait for somebody to write into it.
  detail::Descriptor<System> open(int flags) const {
    return detail::Descriptor<System>(
        detail::uninterrupted([&] { return system_.open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags); }),
        system_);
  }
  /// Some file systems accept O_DIRECT and then refuse to read: one page is tried.
  void open_direct() {
#if defined(O_DIRECT)
    detail::Descriptor<System> fd = open(O_DIRECT);
    if (!fd.valid()) return;
    alignas(page_alignment) std::byte page[page_alignment];
    if (detail::uninterrupted([&] { return system_.pread(fd.get(), page, sizeof page, 0); }) < 0) return;
    fd_ = std::move(fd);
    direct_ = true;
#endif
  }
  [[noreturn]] void fail(std::uint64_t offset, std::size_t bytes, const std::string& found) const {
    raise(IoError(path_, concat("read at byte ", offset), concat(bytes, " bytes"), found));
  }

  std::string path_;
  [[no_unique_address]] System system_;
  detail::Descriptor<System> fd_{-1, system_};
  std::uint64_t size_ = 0;
  bool direct_ = false;
};
using InputFile = BasicInputFile<>;

/// A file that appears under its name complete or not at all: written beside it, synced, renamed by `commit`.
/// Readers see the old file or the new one, also after a crash. Without `commit` nothing is left behind, but by a
/// process that is killed: its file is called `NAME.tmp-PID-N`.
template <class System = PosixSystem>
class BasicOutputFile {
 public:
  explicit BasicOutputFile(std::string path, System system = {}) : path_(std::move(path)), system_(std::move(system)) {
    static std::atomic<unsigned> counter{0};
    do {
      temporary_ = concat(path_, ".tmp-", ::getpid(), "-", counter++);
      // O_EXCL and O_NOFOLLOW: never write through something that a stranger left under this name.
      fd_ = open(temporary_, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
    } while (!fd_.valid() && errno == EEXIST);
    if (!fd_.valid()) fail("cannot be created", errno);
    created_ = true;
  }
  BasicOutputFile(const BasicOutputFile&) = delete;
  BasicOutputFile& operator=(const BasicOutputFile&) = delete;
  ~BasicOutputFile() {
    if (created_) detail::uninterrupted([&] { return system_.unlink(temporary_.c_str()); });
  }

  /// Reserves room for a file of this size: a disk that is too small is found at once and not hours later.
  void reserve(std::uint64_t bytes) {
    const int error =
        detail::uninterrupted([&] { return system_.reserve(fd_.get(), static_cast<off_t>(bytes)); }) == 0 ? 0 : errno;
    if (error != 0 && error != EOPNOTSUPP && error != ENOSYS && error != EINVAL) fail("has no room", error);
  }

  /// Behind what was written last.
  void write(std::span<const std::byte> from) { write_at(end_, from); }
  void write_at(std::uint64_t offset, std::span<const std::byte> from) {
    const detail::Transfer sent = detail::transfer_fully(from.size(), [&](std::size_t done) {
      return system_.pwrite(fd_.get(), from.data() + done, from.size() - done, static_cast<off_t>(offset + done));
    });
    if (sent.bytes != from.size()) fail("cannot be written", sent.error);
    end_ = offset + from.size();
  }

  /// Throws IoError if the file cannot be put in place. If only its folder cannot be synced, that too is thrown: the
  /// new file is there, and may be gone after a crash of the machine.
  void commit() {
    if (detail::uninterrupted([&] { return system_.sync(fd_.get()); }) != 0) fail("cannot be synced", errno);
    if (fd_.close() != 0 && errno != EINTR) fail("cannot be closed", errno);
    if (detail::uninterrupted([&] { return system_.rename(temporary_.c_str(), path_.c_str()); }) != 0)
      fail("cannot be renamed", errno);
    created_ = false;
    sync_folder();
  }

 private:
  detail::Descriptor<System> open(const std::string& path, int flags, mode_t mode) const {
    return detail::Descriptor<System>(
        detail::uninterrupted([&] { return system_.open(path.c_str(), flags | O_CLOEXEC, mode); }), system_);
  }
  void sync_folder() const {
    const std::size_t slash = path_.rfind('/');
    const detail::Descriptor<System> folder =
        open(slash == std::string::npos ? "." : path_.substr(0, slash + 1), O_RDONLY | O_DIRECTORY, 0);
    if (!folder.valid() && errno == EACCES) return;  // one may be allowed to write a folder and not to read it
    if (!folder.valid()) fail("folder cannot be opened", errno);
    if (detail::uninterrupted([&] { return system_.sync(folder.get()); }) == 0) return;
    if (errno != EINVAL && errno != EOPNOTSUPP)
      fail("folder cannot be synced", errno);  // some systems know no such call
  }
  [[noreturn]] void fail(const char* what, int error) const {
    raise(IoError(path_, what, "a writable folder with room", error == 0 ? "nothing written" : std::strerror(error)));
  }

  std::string path_;
  std::string temporary_;
  [[no_unique_address]] System system_;
  detail::Descriptor<System> fd_{-1, system_};
  std::uint64_t end_ = 0;
  bool created_ = false;
};
using OutputFile = BasicOutputFile<>;

}  // namespace moe

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
#include <sys/stat.h>
#include <unistd.h>

#include <moe/error.hpp>

namespace moe {

namespace detail {

/// An open file descriptor, closed on destruction.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const noexcept { return fd_; }
  bool valid() const noexcept { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct Transfer {
  std::size_t bytes = 0;
  int error = 0;  // an errno value; 0 with too few bytes means that the file ended
};

/// Calls `step(done) -> ssize_t` until `size` bytes have moved, nothing moves any more, or it fails.
/// EINTR is tried again. A template, so that tests can bring their own short and broken steps.
template <class Step>
Transfer transfer_fully(std::size_t size, Step&& step) {
  Transfer result;
  while (result.bytes < size) {
    const ssize_t moved = step(result.bytes);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) result.error = errno;
    if (moved <= 0) break;
    result.bytes += static_cast<std::size_t>(moved);
  }
  return result;
}

}  // namespace detail

enum class Access { buffered, direct };

/// A regular file opened for reading. Reads carry their position, so several threads may share one.
///
/// `Access::direct` bypasses the page cache where the file system can (positions, sizes and memory are then multiples
/// of 4096) and is buffered elsewhere; `direct()` tells which.
class InputFile {
 public:
  /// Throws IoError unless `path` can be opened and is a regular file.
  explicit InputFile(std::string path, Access access = Access::buffered) : path_(std::move(path)) {
    if (access == Access::direct) open_direct();
    // O_NONBLOCK: opening a FIFO must fail below, not wait for somebody to write into it.
    if (!fd_.valid()) fd_ = detail::Descriptor{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (!fd_.valid()) raise(IoError(path_, "cannot be opened", "a readable file", std::strerror(errno)));
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) raise(IoError(path_, "no status", "a file", std::strerror(errno)));
    if (!S_ISREG(status.st_mode)) raise(IoError(path_, "kind of file", "a regular file", "something else"));
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  const std::string& path() const noexcept { return path_; }
  bool direct() const noexcept { return direct_; }
  /// Bytes the file held when it was opened.
  std::uint64_t size() const noexcept { return size_; }

  /// Fills `to` with the bytes from `offset` on. Throws IoError on a fault of the disk, beyond the end, and when the
  /// file has become shorter since it was opened.
  void read(std::uint64_t offset, std::span<std::byte> to) const {
    if (offset > size_ || to.size() > size_ - offset) fail(offset, to.size(), concat("only ", size_));
    const detail::Transfer got = detail::transfer_fully(to.size(), [&](std::size_t done) {
      return ::pread(fd_.get(), to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
    });
    if (got.error != 0) fail(offset, to.size(), concat(std::strerror(got.error), " after ", got.bytes));
    if (got.bytes != to.size())
      fail(offset, to.size(), concat("the end of the file after ", got.bytes, " (truncated since opened?)"));
  }

 private:
  /// Some file systems accept O_DIRECT and then refuse to read: one page is tried.
  void open_direct() {
#if defined(O_DIRECT)
    detail::Descriptor fd{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT)};
    if (!fd.valid()) return;
    alignas(4096) std::byte page[4096];
    if (::pread(fd.get(), page, sizeof page, 0) < 0) return;
    fd_ = std::move(fd);
    direct_ = true;
#endif
  }
  [[noreturn]] void fail(std::uint64_t offset, std::size_t bytes, const std::string& found) const {
    raise(IoError(path_, concat("read at byte ", offset), concat(bytes, " bytes"), found));
  }

  std::string path_;
  detail::Descriptor fd_;
  std::uint64_t size_ = 0;
  bool direct_ = false;
};

/// A file that appears under its name complete or not at all: written beside it, synced, renamed by `commit`.
/// Readers see the old file or the new one, also after a crash. Without `commit` nothing is left behind.
class OutputFile {
 public:
  explicit OutputFile(std::string path) : path_(std::move(path)) {
    static std::atomic<unsigned> counter{0};
    do {
      temporary_ = concat(path_, ".tmp-", ::getpid(), "-", counter++);
      // O_EXCL and O_NOFOLLOW: never write through something that a stranger left under this name.
      fd_ = detail::Descriptor{::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666)};
    } while (!fd_.valid() && errno == EEXIST);
    if (!fd_.valid()) fail("cannot be created", errno);
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (!committed_ && fd_.valid()) ::unlink(temporary_.c_str());
  }

  void write(std::span<const std::byte> from) {
    const detail::Transfer sent = detail::transfer_fully(
        from.size(), [&](std::size_t done) { return ::write(fd_.get(), from.data() + done, from.size() - done); });
    if (sent.bytes != from.size()) fail("cannot be written", sent.error);
  }

  void commit() {
    if (::fsync(fd_.get()) != 0) fail("cannot be synced", errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be renamed", errno);
    committed_ = true;
    const std::size_t slash = path_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    const detail::Descriptor entry{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (entry.valid()) ::fsync(entry.get());  // some file systems refuse this for folders; the file itself is safe
  }

 private:
  [[noreturn]] void fail(const char* what, int error) const {
    raise(IoError(path_, what, "a writable folder with room", std::strerror(error)));
  }

  std::string path_;
  std::string temporary_;
  detail::Descriptor fd_;
  bool committed_ = false;
};

}  // namespace moe

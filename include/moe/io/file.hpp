// Files as the readers need them: opened once, read by position in full, written whole or not at all.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <moe/error.hpp>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

namespace moe::io {

/// The parts, strings and integers, one after the other. (`"literal" + std::to_string(n)` would be shorter, but g++ 12
/// warns of overlapping copies inside it at -O2, in users' builds too.)
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string text;
  const auto append = [&](const auto& part) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(part)>>) {
      text += std::to_string(part);
    } else {
      text += std::string_view(part);
    }
  };
  (append(parts), ...);
  return text;
}

/// `text` in quotes for a message: bytes outside printable ASCII as \xNN, cut to 120 bytes.
/// Names in model files are a stranger's text and must not steer a terminal.
inline std::string in_quotes(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  constexpr std::size_t longest = 120;
  std::string out = "\"";
  for (const char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return out + (text.size() > longest ? "...\"" : "\"");
}

/// The system's text for an `errno` value.
inline std::string system_message(int error) { return std::generic_category().message(error); }

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
  int release() noexcept { return std::exchange(fd_, -1); }

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

/// A regular file opened for reading. Reads carry their position, so several threads may share one.
class InputFile {
 public:
  /// Throws `IoError` unless `path` can be opened and is a regular file.
  explicit InputFile(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: opening a FIFO must fail below, not wait for somebody to write into it.
    fd_ = detail::Descriptor{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (!fd_.valid()) raise(IoError(name(), "cannot be opened", "a readable file", system_message(errno)));
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) raise(IoError(name(), "no status", "a file", system_message(errno)));
    if (!S_ISREG(status.st_mode)) raise(IoError(name(), "kind of file", "a regular file", "something else"));
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  const std::filesystem::path& path() const noexcept { return path_; }
  std::string name() const { return path_.string(); }
  /// Bytes the file held when it was opened.
  std::uint64_t size() const noexcept { return size_; }

  /// Fills `to` with the bytes from `offset` on. Throws `IoError` on a fault of the disk, beyond the end, and when
  /// the file has become shorter since it was opened.
  void read(std::uint64_t offset, std::span<std::byte> to) const {
    if (offset > size_ || to.size() > size_ - offset) fail(offset, to.size(), concat("only ", size_));
    const detail::Transfer got = detail::transfer_fully(to.size(), [&](std::size_t done) {
      return ::pread(fd_.get(), to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
    });
    if (got.error != 0) fail(offset, to.size(), concat(system_message(got.error), " after ", got.bytes));
    if (got.bytes != to.size()) {
      fail(offset, to.size(), concat("the end of the file after ", got.bytes, " (truncated since opened?)"));
    }
  }

 private:
  [[noreturn]] void fail(std::uint64_t offset, std::size_t bytes, const std::string& found) const {
    raise(IoError(name(), concat("read at byte ", offset), concat(bytes, " bytes"), found));
  }

  std::filesystem::path path_;
  detail::Descriptor fd_;
  std::uint64_t size_ = 0;
};

/// The whole of a small untrusted text file; throws `IoError` if it holds more than `most` bytes.
inline std::string read_text(const std::filesystem::path& path, std::uint64_t most) {
  const InputFile file(path);
  if (file.size() > most) {
    raise(IoError(file.name(), "size", concat("at most ", most, " bytes"), std::to_string(file.size())));
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span<char>(text)));
  return text;
}

/// A file that appears under its name complete or not at all: written beside it, synced, renamed by `commit`.
/// Readers see the old file or the new one, also after a crash. Without `commit` nothing is left behind.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path) : path_(std::move(path)) {
    static std::atomic<unsigned> counter{0};
    do {
      temporary_ = path_;
      temporary_ += concat(".tmp-", ::getpid(), "-", counter++);
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
    const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
    const detail::Descriptor entry{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (entry.valid()) ::fsync(entry.get());  // some file systems refuse this for folders; the file itself is safe
  }

 private:
  [[noreturn]] void fail(const char* what, int error) const {
    raise(IoError(path_.string(), what, "a writable folder with room", system_message(error)));
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  detail::Descriptor fd_;
  bool committed_ = false;
};

}  // namespace moe::io

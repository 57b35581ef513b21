// Fuzzes the reader of routing traces. What it accepts must be sound, and must be what is read back when it is written.
//
// First byte modulo 3: 0 a file as it stands; 1 the same behind a first line, so that mutations reach the records; 2
// also behind blanks, so that a line lies across the pieces in which files are read.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <moe/io/trace_file.hpp>
#include <string>
#include <string_view>

namespace {

void must(bool holds) {
  if (!holds) __builtin_trap();
}

/// A file that is only in memory, with a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view text) : fd_(::memfd_create("trace", 0)) {
    must(fd_ >= 0 && ::write(fd_, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(fd_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

/// A folder for the program's life, in memory where the system has one for that.
class Folder {
 public:
  Folder() : path_(std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path()) {
    path_ += "/moe-trace-fuzz-XXXXXX";
    must(::mkdtemp(path_.data()) != nullptr);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file() const { return path_ + "/trace"; }

 private:
  std::string path_;
};

std::size_t lines_with_text(std::string_view text) {
  std::size_t lines = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (text.substr(begin, end - begin).find_first_not_of(" \t\r") != std::string_view::npos) ++lines;
    begin = end + 1;
  }
  return lines;
}

void check_sound(const moe::RoutingTrace& trace, std::string_view text) {
  must(trace.layers() > 0 && trace.experts() > 0 && trace.k() > 0);
  must(trace.records().size() + 1 == lines_with_text(text));
  std::size_t first = 0;
  for (const moe::TraceRecord& r : trace.records()) {
    must(r.layer >= 0 && r.layer < trace.layers() && r.sequence >= 0 && r.token >= 0);
    must(r.first == first && r.count >= 0 && r.count <= trace.k());
    first += static_cast<std::size_t>(r.count);
    for (int i = 0; i < r.count; ++i) {
      const moe::Slot& pick = trace.picks(r)[i];
      must(pick.expert >= 0 && pick.expert < trace.experts());
      must(std::isfinite(pick.weight) && pick.weight >= 0);
      must(std::isfinite(trace.weight(r, i)) && trace.weight(r, i) >= 0);
    }
  }
}

void check_same(const moe::RoutingTrace& a, const moe::RoutingTrace& b) {
  must(a.layers() == b.layers() && a.experts() == b.experts() && a.k() == b.k());
  must(a.records().size() == b.records().size());
  bool picks = false;
  for (std::size_t i = 0; i < a.records().size(); ++i) {
    const moe::TraceRecord &r = a.records()[i], &s = b.records()[i];
    must(r.sequence == s.sequence && r.token == s.token && r.layer == s.layer && r.count == s.count);
    for (int p = 0; p < r.count; ++p) {
      must(a.picks(r)[p].expert == b.picks(s)[p].expert);
      if (a.has_weights())
        must(std::bit_cast<std::uint64_t>(a.weight(r, p)) == std::bit_cast<std::uint64_t>(b.weight(s, p)));
    }
    picks = picks || r.count > 0;
  }
  if (picks) must(a.has_weights() == b.has_weights());
}

void check(std::string_view text) {
  const MemoryFile file(text);
  const moe::RoutingTrace trace = moe::io::read_trace(file.path());
  check_sound(trace, text);
  static const Folder folder;
  try {
    moe::io::write_trace(folder.file(), trace);
    check_same(trace, moe::io::read_trace(folder.file()));
  } catch (const moe::IoError&) {
    must(false);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  constexpr std::size_t piece = std::size_t{1} << 18;
  std::string text = data[0] % 3 == 0 ? "" : "{\"layers\":3,\"experts\":8,\"k\":2}\n";
  if (data[0] % 3 == 2) text.resize(piece - std::min(size / 2, piece / 2), ' ');
  text.append(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    check(text);
  } catch (const moe::IoError&) {
    // refused with a message: what a reader is for
  }
  return 0;
}

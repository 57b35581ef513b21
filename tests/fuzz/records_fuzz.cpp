// Fuzzes the reader of record files' heads and tables. What it accepts must describe exactly the file that it is, and
// what is described so must be accepted.
//
// First byte modulo 3: 0 eight bytes of file size, then a head as it stands; 1 a head whose magic, version, offsets and
// file size are made right, so that mutations reach the numbers; 2 the same with checksums. Files are zero behind the
// input, and as long as it says: no disk is involved.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <moe/storage/record_index.hpp>
#include <span>
#include <string>
#include <string_view>

namespace {

__extension__ using Wide = unsigned __int128;
constexpr std::uint64_t page = 4096, longest = std::numeric_limits<std::int64_t>::max();

void must(bool holds) {
  if (!holds) __builtin_trap();
}

std::uint64_t number(std::string_view bytes, std::size_t at, std::size_t width) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < width && at + i < bytes.size(); ++i)
    value |= std::uint64_t{static_cast<unsigned char>(bytes[at + i])} << (8 * i);
  return value;
}
void put(std::string& bytes, std::size_t at, std::size_t width, std::uint64_t value) {
  if (bytes.size() < at + width) bytes.resize(at + width);
  for (std::size_t i = 0; i < width; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i) & 255);
}
/// The characters before the first zero.
std::string text(std::string_view bytes, std::size_t at, std::size_t width) {
  const std::string field(bytes.substr(std::min(at, bytes.size()), width));
  return field.substr(0, field.find('\0'));
}

/// FNV-1a.
struct Sum {
  static constexpr std::string_view name = "fnv";
  static std::uint64_t of(std::span<const std::byte> bytes) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325ull;
    for (const std::byte b : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3ull;
    return hash;
  }
};

struct Content {
  std::string bytes;  // zeros behind them
  std::uint64_t size = 0;
};

/// One file, in memory.
struct MemorySystem {
  const Content* file = nullptr;

  int open(const char*, int, mode_t = 0) const noexcept { return 1000; }
  int close(int) const noexcept { return 0; }
  int status(int, struct stat& to) const noexcept {
    to.st_mode = S_IFREG;
    to.st_size = static_cast<off_t>(file->size);
    return 0;
  }
  ssize_t pread(int, void* to, std::size_t bytes, off_t at) const noexcept {
    const auto from = static_cast<std::uint64_t>(at);
    const std::uint64_t count = std::min<std::uint64_t>(bytes, file->size - std::min(file->size, from));
    std::memset(to, 0, static_cast<std::size_t>(count));
    if (from < file->bytes.size())
      std::memcpy(to, file->bytes.data() + from, std::min(file->bytes.size() - from, static_cast<std::size_t>(count)));
    return static_cast<ssize_t>(count);
  }
};
using MemoryFile = moe::BasicInputFile<MemorySystem>;

/// What a head says, by the table of docs/formats.md.
struct Head {
  explicit Head(std::string_view b)
      : bytes(b),
        layers(number(b, 12, 4)),
        experts(number(b, 16, 4)),
        formats(number(b, 36, 4)),
        front(page + (8 + Wide{8} * formats * layers * experts + page - 1) / page * page) {}
  std::uint64_t record_bytes(std::uint64_t f) const { return number(bytes, 104 + 40 * f, 8); }
  std::uint64_t offset(std::uint64_t f) const { return number(bytes, 112 + 40 * f, 8); }
  Wide stride(std::uint64_t f) const { return (Wide{record_bytes(f)} + page - 1) / page * page; }
  std::string name(std::uint64_t f) const { return text(bytes, 80 + 40 * f, 24); }

  std::string_view bytes;
  std::uint64_t layers, experts, formats;
  Wide front;
};

/// Recomputes what an accepted head promises, in 128 bits and from its bytes.
void check_head(const Content& file, const moe::RecordFileHead& found) {
  const Head head(file.bytes);
  must(text(file.bytes, 0, 8) == "moerecs" && number(file.bytes, 8, 4) == 2);
  must(head.layers > 0 && head.experts > 0 && head.formats > 0 && head.formats <= 16);
  must(number(file.bytes, 20, 4) > 0 && number(file.bytes, 24, 4) > 0);
  must(number(file.bytes, 28, 4) < 2 && number(file.bytes, 32, 4) < 2);
  must(found.layers == head.layers && found.experts == head.experts && found.formats == head.formats);
  must(Wide{found.front_bytes()} == head.front &&
       Wide{found.records()} == Wide{head.formats} * head.layers * head.experts);
  Wide end = head.front;
  std::uint64_t before = 0;
  for (std::uint64_t f = 0; f < head.formats; ++f) {
    must(!head.name(f).empty() && head.record_bytes(f) > 0);
    for (std::uint64_t g = 0; g < f; ++g) must(head.name(g) != head.name(f));
    const int format = static_cast<int>(f), layer = static_cast<int>(head.layers) - 1;
    const auto expert = static_cast<moe::ExpertId>(head.experts) - 1;
    must(Wide{found.offset(format, 0, 0)} == end && end % page == 0 && found.index(format, 0, 0) == before);
    if (expert > 0) must(Wide{found.offset(format, 0, 1)} == end + head.stride(f));
    if (layer > 0) must(Wide{found.offset(format, 1, 0)} == end + head.stride(f) * head.experts);
    end += head.stride(f) * head.experts * head.layers;
    before += head.layers * head.experts;
    must(Wide{found.offset(format, layer, expert)} + head.stride(f) == end);
    must(found.index(format, layer, expert) == before - 1);
    must(moe::detail::find_series("fuzz", found, head.name(f), head.record_bytes(f)) == format);
  }
  must(end == file.size);
}

/// Whether the numbers of a head are in range and its file can exist.
bool describes_a_file(const Head& head) {
  constexpr std::uint64_t most = 1 << 24;
  for (const std::size_t at : {12u, 16u, 20u, 24u})
    if (number(head.bytes, at, 4) == 0 || number(head.bytes, at, 4) > most) return false;
  if (number(head.bytes, 28, 4) > 1 || number(head.bytes, 32, 4) > 1) return false;
  if (head.formats == 0 || head.formats > 16) return false;
  Wide end = head.front;
  for (std::uint64_t f = 0; f < head.formats; ++f) {
    const std::string field(head.bytes.substr(80 + 40 * f, 24)), name = head.name(f);
    if (name.empty() || head.record_bytes(f) == 0 || name.size() > 23) return false;
    if (field.find_first_not_of('\0', name.size()) != std::string::npos) return false;
    for (std::uint64_t g = 0; g < f; ++g)
      if (head.name(g) == name) return false;
    end += head.stride(f) * head.layers * head.experts;
    if (end > Wide{1} << 62) return false;
  }
  return true;
}

/// Gives a head the magic, the version and the offsets that its other fields ask for, and the file its length.
/// True if all of it is right then.
bool repair(Content& file) {
  std::string& bytes = file.bytes;
  bytes.resize(80 + 16 * 40);
  std::copy_n("moerecs", 8, bytes.begin());
  put(bytes, 8, 4, 2);
  Wide offset = Head(bytes).front;
  for (std::uint64_t f = 0; f < std::min<std::uint64_t>(Head(bytes).formats, 16); ++f) {
    put(bytes, 112 + 40 * f, 8, static_cast<std::uint64_t>(offset));
    offset += Head(bytes).stride(f) * Head(bytes).layers * Head(bytes).experts;
  }
  file.size = static_cast<std::uint64_t>(offset) & longest;  // as a reader that wraps would have it
  return describes_a_file(Head(bytes));
}

void check_as_it_stands(const Content& file) {
  const moe::RecordIndex<moe::Unchecked> index(MemoryFile("fuzz", moe::Access::direct, MemorySystem{&file}), "");
  check_head(file, index.head());
}

void check_repaired(Content& file) {
  const bool right = repair(file);
  try {
    check_as_it_stands(file);
    must(right);
  } catch (const moe::IoError&) {
    must(!right);
  }
}

/// With checksums: of the head, then of the first and the last record.
void check_checksums(Content& file) {
  if (!repair(file)) return;
  const Head head(file.bytes);
  constexpr std::uint64_t small = 1 << 16;
  if (head.front > small || head.stride(0) > small) return;
  const std::vector<std::byte> record(static_cast<std::size_t>(head.stride(0)));
  std::string& bytes = file.bytes;
  std::memcpy(bytes.data() + 56, "fnv\0\0\0\0\0\0\0\0\0\0\0\0", 16);
  bytes.resize(static_cast<std::size_t>(head.front));
  put(bytes, page + 8, 8, Sum::of(record));
  const std::uint64_t sum = Sum::of(std::as_bytes(std::span(bytes)));
  put(bytes, page, 8, sum);
  const auto open = [&] {
    return moe::RecordIndex<Sum>(MemoryFile("fuzz", moe::Access::direct, MemorySystem{&file}), "");
  };
  const moe::RecordIndex<Sum> index = open();
  check_head(file, index.head());
  index.check(0, 0, 0, record);
  const auto refused = [](const auto& call) {
    try {
      call();
    } catch (const moe::IoError&) {
      return true;
    }
    return false;
  };
  const std::uint64_t last = head.layers * head.experts - 1;
  if (last > 0)
    must(refused([&] {
      index.check(0, static_cast<int>(head.layers) - 1, static_cast<moe::ExpertId>(head.experts) - 1, record);
    }));
  bytes[static_cast<std::size_t>(head.front) - 1] ^= 1;
  must(refused(open));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string input(reinterpret_cast<const char*>(data + 1), size - 1);
  Content file;
  switch (data[0] % 3) {
    case 0:
      file.size = number(input, 0, 8) & longest;
      file.bytes = input.substr(std::min<std::size_t>(input.size(), 8));
      break;
    default:
      file.bytes = std::move(input);
  }
  try {
    if (data[0] % 3 == 0) check_as_it_stands(file);
    if (data[0] % 3 == 1) check_repaired(file);
    if (data[0] % 3 == 2) check_checksums(file);
  } catch (const moe::IoError&) {
    must(data[0] % 3 == 0);  // refused with a message: what a reader is for
  }
  return 0;
}

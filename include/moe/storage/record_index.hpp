// RecordIndex: the head and the checksums of an open record file, checked; and the check of each record.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include <moe/storage/posix_file.hpp>
#include <moe/storage/record_file_head.hpp>

namespace moe {

/// Verifies nothing. Another `Checksum` has the same members: `name` is what files are marked with, and `of` a function
/// of the bytes of a whole record. io/xxh3.hpp has one that detects faults of disks.
struct Unchecked {
  static constexpr std::string_view name = "none";
  static std::uint64_t of(std::span<const std::byte>) noexcept { return 0; }
};
template <class C>
inline constexpr bool verifies = C::name != Unchecked::name;

/// What a record file says about its records. The file is untrusted: magic, version, layout, sizes and exact length
/// are checked at construction (IoError), and with a checksum head and table too. `Unchecked` reads files with and
/// without checksums, and only the first page of what is before the records; others refuse a file without theirs.
template <class Checksum>
class RecordIndex {
 public:
  /// Any layout will do where `layout` is empty.
  template <class System>
  RecordIndex(const BasicInputFile<System>& file, std::string_view layout) : path_(file.path()) {
    if (file.size() < page_alignment)
      raise(IoError(path_, "bytes in a record file", "at least 4096", std::to_string(file.size())));
    read(file, page_alignment);
    std::memcpy(&head_, front_.data(), sizeof head_);
    detail::check_record_file_head(path_, head_, layout, file.size());
    if constexpr (verifies<Checksum>) {
      if (head_.checksum != detail::file_name<16>(Checksum::name))
        raise(IoError(path_, "checksums", std::string(Checksum::name), detail::text_of(head_.checksum)));
      read(file, static_cast<std::size_t>(head_.front_bytes()));
      check_front();
    } else {
      front_ = Buffer();
    }
  }

  const std::string& path() const noexcept { return path_; }
  const RecordFileHead& head() const noexcept { return head_; }

  /// Throws IoError unless a record (padding included) has the checksum of the table.
  void check(int format, int layer, ExpertId expert, std::span<const std::byte> record) const {
    if constexpr (verifies<Checksum>) {
      const std::uint64_t expected = table_entry(1 + head_.index(format, layer, expert));
      const std::uint64_t found = Checksum::of(record);
      if (expected == found) return;
      const std::string name = detail::text_of(head_.series[static_cast<std::size_t>(format)].name);
      raise(IoError(path_, concat("checksum of expert ", expert, " of layer ", layer, " in ", name), hex(expected),
                    hex(found)));
    }
  }

 private:
  template <class System>
  void read(const BasicInputFile<System>& file, std::size_t bytes) {
    front_ = Buffer(bytes);
    file.read(0, {front_.data(), bytes});
  }
  std::uint64_t table_entry(std::uint64_t i) const noexcept {
    std::uint64_t value = 0;
    std::memcpy(&value, front_.data() + page_alignment + 8 * i, 8);
    return value;
  }
  void check_front() {
    const std::uint64_t expected = table_entry(0);
    std::memset(front_.data() + page_alignment, 0, 8);
    const std::uint64_t found = Checksum::of({front_.data(), front_.bytes()});
    if (expected != found) raise(IoError(path_, "checksum of the head", hex(expected), hex(found)));
  }
  static std::string hex(std::uint64_t value) {
    std::string text = "0x0000000000000000";
    for (std::size_t i = text.size() - 1; value != 0; --i, value >>= 4) text[i] = "0123456789abcdef"[value & 15];
    return text;
  }

  std::string path_;
  RecordFileHead head_;
  Buffer front_;
};

/// Reads a whole record file and checks every checksum; throws IoError at the first that is wrong. Nothing but the
/// padding, head and table of the file need be known: any layout and any formats. `progress(done, total)` in bytes.
template <class Checksum, class Progress, class System = PosixSystem>
void verify_records(const std::string& path, const Progress& progress, System system = {}) {
  const BasicInputFile<System> file(path, Access::direct, system);
  const RecordIndex<Checksum> index(file, "");
  const RecordFileHead& head = index.head();
  std::uint64_t largest = 0, done = head.front_bytes();
  for (std::size_t f = 0; f < head.formats; ++f) largest = std::max(largest, head.series[f].stride());
  const Buffer record(static_cast<std::size_t>(largest));
  for (int f = 0; f < static_cast<int>(head.formats); ++f) {
    const auto bytes = static_cast<std::size_t>(head.series[static_cast<std::size_t>(f)].stride());
    for (int l = 0; l < static_cast<int>(head.layers); ++l)
      for (ExpertId e = 0; e < static_cast<ExpertId>(head.experts); ++e) {
        file.read(head.offset(f, l, e), {record.data(), bytes});
        index.check(f, l, e, {record.data(), bytes});
        progress(done += bytes, file.size());
      }
  }
}

}  // namespace moe

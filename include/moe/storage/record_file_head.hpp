// RecordFileHead: what the first page of a record file says, and every check of it.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>
#include <moe/tensor.hpp>

namespace moe {

/// A name in a file: zeros behind it.
template <std::size_t N>
using FileName = std::array<char, N>;

/// One format of a record file. Record (layer, expert) begins at offset + (layer * experts + expert) * stride().
struct RecordSeries {
  FileName<24> name{};
  std::uint64_t record_bytes = 0;  // without the padding
  std::uint64_t offset = 0;        // of the first record

  std::uint64_t stride() const noexcept { return round_up(record_bytes, std::uint64_t{page_alignment}); }
};

/// The first page of a record file (little endian, the rest zero). docs/formats.md. After it come 8 bytes for the
/// checksum of head and table, and 8 for each record, format by format, layer by layer; then the records in the same
/// order, each on pages of its own.
struct RecordFileHead {
  static constexpr std::uint32_t most_formats = 16;

  std::array<char, 8> magic{'m', 'o', 'e', 'r', 'e', 'c', 's', '\0'};
  std::uint32_t version = 2;
  std::uint32_t layers = 0, experts = 0;
  std::uint32_t hidden = 0, ffn = 0;
  std::uint32_t gated = 0, biased = 0;
  std::uint32_t formats = 0;
  FileName<16> layout{}, checksum{};
  std::uint64_t reserved = 0;
  std::array<RecordSeries, most_formats> series{};

  ExpertShape shape() const noexcept {
    return {static_cast<int>(hidden), static_cast<int>(ffn), gated != 0, biased != 0};
  }
  std::uint64_t records_by_format() const noexcept { return std::uint64_t{layers} * experts; }
  std::uint64_t records() const noexcept { return formats * records_by_format(); }
  /// Bytes before the first record: the head and the checksums, in whole pages.
  std::uint64_t front_bytes() const noexcept {
    return page_alignment + round_up(8 * (1 + records()), std::uint64_t{page_alignment});
  }
  /// Position of a record in the table, from 0 on.
  std::uint64_t index(int format, int layer, ExpertId expert) const noexcept {
    return static_cast<std::uint64_t>(format) * records_by_format() + static_cast<std::uint64_t>(layer) * experts +
           static_cast<std::uint64_t>(expert);
  }
  std::uint64_t offset(int format, int layer, ExpertId expert) const noexcept {
    const RecordSeries& s = series[static_cast<std::size_t>(format)];
    return s.offset + index(0, layer, expert) * s.stride();
  }
};
static_assert(sizeof(RecordFileHead) == 80 + 16 * 40 && std::is_trivially_copyable_v<RecordFileHead> &&
              std::endian::native == std::endian::little);

namespace detail {

template <std::size_t N>
FileName<N> file_name(std::string_view name) {
  FileName<N> out{};
  for (std::size_t i = 0; i < name.size() && i + 1 < N; ++i) out[i] = name[i];
  return out;
}
/// Whether it ends, and nothing but zeros is behind its end: else two names could differ where nobody reads them.
template <std::size_t N>
bool is_name(const FileName<N>& name) noexcept {
  std::size_t length = 0;
  while (length < N && name[length] != '\0') ++length;
  for (std::size_t i = length; i < N; ++i)
    if (name[i] != '\0') return false;
  return length > 0 && length < N;
}
/// For messages: what no name has is a question mark.
template <std::size_t N>
std::string text_of(const FileName<N>& name) {
  std::string text;
  for (std::size_t i = 0; i < N && name[i] != '\0'; ++i) text += name[i] > ' ' && name[i] < 0x7f ? name[i] : '?';
  return text;
}
/// "bf16, q4_0"
inline std::string format_names(const RecordFileHead& head) {
  std::string text;
  for (std::size_t i = 0; i < head.formats; ++i) text = concat(text, i == 0 ? "" : ", ", text_of(head.series[i].name));
  return text;
}

/// Calls `visit(index, type_identity<F>)` for each format of a list.
template <class... F, class Visit>
constexpr void for_each_format(formats<F...>, const Visit& visit) {
  int i = 0;
  (visit(i++, std::type_identity<F>{}), ...);
}

inline RecordFileHead record_file_head(const ExpertShape& s, int layers, int experts, std::string_view layout,
                                       std::string_view checksum) {
  const auto u = [](int i) { return static_cast<std::uint32_t>(i); };
  RecordFileHead head;
  head.layers = u(layers);
  head.experts = u(experts);
  head.hidden = u(s.hidden);
  head.ffn = u(s.ffn);
  head.gated = s.gated ? 1 : 0;
  head.biased = s.biased ? 1 : 0;
  head.layout = file_name<16>(layout);
  head.checksum = file_name<16>(checksum);
  return head;
}
inline void add_series(RecordFileHead& head, std::string_view name, std::uint64_t record_bytes) {
  head.series[head.formats++] = {file_name<24>(name), record_bytes, 0};
}

/// Puts the formats of a head one behind the other. False if a file could not be that long.
inline bool place_series(RecordFileHead& head, std::uint64_t& file_bytes) noexcept {
  std::uint64_t end = head.front_bytes();
  for (std::size_t i = 0; i < head.formats; ++i) {
    RecordSeries& s = head.series[i];
    s.offset = end;
    std::uint64_t bytes = 0;
    if (s.record_bytes > std::uint64_t{1} << 62 ||
        __builtin_mul_overflow(head.records_by_format(), s.stride(), &bytes) ||
        __builtin_add_overflow(end, bytes, &end) || end > std::uint64_t{1} << 62)
      return false;
  }
  file_bytes = end;
  return true;
}

inline void check_numbers(const std::string& path, const RecordFileHead& head) {
  struct Field {
    const char* name;
    std::uint32_t value, least, most;
  };
  constexpr std::uint32_t most = 1u << 24;  // keeps products of two of them, times formats and bytes, within 64 bits
  for (const Field& f :
       {Field{"layers", head.layers, 1, most}, Field{"experts", head.experts, 1, most},
        Field{"hidden", head.hidden, 1, most}, Field{"ffn", head.ffn, 1, most}, Field{"gated", head.gated, 0, 1},
        Field{"biased", head.biased, 0, 1}, Field{"formats", head.formats, 1, RecordFileHead::most_formats}})
    if (f.value < f.least || f.value > f.most)
      raise(IoError(path, f.name, concat(f.least, " to ", f.most), concat(f.value)));
}

/// Throws IoError unless the head describes a file of this size with records of this layout. All that is computed from
/// a head that passed fits 64 bits, and the file holds it.
inline void check_record_file_head(const std::string& path, const RecordFileHead& head, std::string_view layout,
                                   std::uint64_t size) {
  if (head.magic != RecordFileHead{}.magic) raise(IoError(path, "first bytes", "moerecs", "something else"));
  if (head.version == 1) raise(IoError(path, "version of the record file", "2", "1, which must be written anew"));
  if (head.version != 2) raise(IoError(path, "version of the record file", "2", concat(head.version)));
  check_numbers(path, head);
  if (!layout.empty() && head.layout != file_name<16>(layout))
    raise(IoError(path, "layout of the records", std::string(layout), text_of(head.layout)));
  RecordFileHead expected = head;
  std::uint64_t file_bytes = 0;
  if (!place_series(expected, file_bytes)) raise(IoError(path, "bytes of a record", "fewer", "more than a file has"));
  for (std::size_t i = 0; i < head.formats; ++i) {
    const RecordSeries& s = head.series[i];
    const std::string name = text_of(s.name);
    if (name.empty() || s.record_bytes == 0) raise(IoError(path, concat("format ", i), "a name and a size", "none"));
    if (!is_name(s.name)) raise(IoError(path, concat("name of format ", i), "zeros behind it", name));
    if (s.offset != expected.series[i].offset)
      raise(IoError(path, concat("offset of the first record in ", name), concat(expected.series[i].offset),
                    concat(s.offset)));
    for (std::size_t j = 0; j < i; ++j)
      if (head.series[j].name == s.name) raise(IoError(path, "formats", "each once", concat(name, " twice")));
  }
  if (file_bytes != size) raise(IoError(path, "bytes of the file", concat(file_bytes), concat(size)));
}

/// Where the head has a format. Throws IoError if it does not, or if its records have another size.
inline int find_series(const std::string& path, const RecordFileHead& head, std::string_view name,
                       std::uint64_t record_bytes) {
  for (std::size_t i = 0; i < head.formats; ++i) {
    if (head.series[i].name != file_name<24>(name)) continue;
    if (head.series[i].record_bytes != record_bytes)
      raise(IoError(path, concat("bytes of a record in ", name), concat(record_bytes),
                    concat(head.series[i].record_bytes)));
    return static_cast<int>(i);
  }
  raise(IoError(path, "format of the records", std::string(name), format_names(head)));
}

}  // namespace detail
}  // namespace moe

// RecordWriter: a record file as it is written, record by record; write_records: all records of some sources.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <moe/concepts.hpp>
#include <moe/storage/pending_reads.hpp>
#include <moe/storage/posix_file.hpp>
#include <moe/storage/record_file_head.hpp>
#include <moe/storage/record_index.hpp>

namespace moe {

/// Writes a record file through a temporary in the same folder that is synced and renamed: a reader sees the old file
/// or the new one. Holds one record and the checksums in memory. Room on the disk is reserved at construction.
/// Throws IoError if something cannot be written; then, and without `commit`, no file is left.
template <class Checksum = Unchecked, class System = PosixSystem>
class RecordWriter {
 public:
  /// A format to be written: its name, and bytes of a record.
  struct Format {
    std::string_view name;
    std::uint64_t record_bytes = 0;
  };

  /// Throws Error for sizes that no record file has.
  RecordWriter(const std::string& path, const ExpertShape& shape, int layers, int experts, std::string_view layout,
               std::span<const Format> formats, System system = {})
      : head_(detail::record_file_head(shape, layers, experts, layout, Checksum::name)), file_(path, system) {
    if (formats.empty() || formats.size() > RecordFileHead::most_formats)
      raise(Error(path, "formats", concat("1 to ", RecordFileHead::most_formats), concat(formats.size())));
    std::uint64_t largest = 0;
    for (const Format& f : formats) {
      detail::add_series(head_, f.name, f.record_bytes);
      largest = std::max(largest, round_up(f.record_bytes, std::uint64_t{page_alignment}));
    }
    if (!detail::place_series(head_, bytes_)) raise(Error(path, "bytes of a record", "fewer", "more than a file has"));
    detail::check_record_file_head(path, head_, layout, bytes_);
    record_ = Buffer(static_cast<std::size_t>(largest));
    table_.resize(static_cast<std::size_t>((head_.front_bytes() - page_alignment) / 8));
    file_.reserve(bytes_);
  }

  const RecordFileHead& head() const noexcept { return head_; }
  /// Of the file.
  std::uint64_t bytes() const noexcept { return bytes_; }

  /// `fill(std::byte* to)` writes the bytes of one record; records may come in any order, each once.
  template <class Fill>
  void write(int format, int layer, ExpertId expert, const Fill& fill) {
    const RecordSeries& series = head_.series[static_cast<std::size_t>(format)];
    const std::span<std::byte> record{record_.data(), static_cast<std::size_t>(series.stride())};
    fill(record.data());
    std::memset(record.data() + series.record_bytes, 0, record.size() - static_cast<std::size_t>(series.record_bytes));
    file_.write_at(head_.offset(format, layer, expert), record);
    table_[static_cast<std::size_t>(1 + head_.index(format, layer, expert))] = Checksum::of(record);
    ++written_;
  }

  /// Throws Error unless there were as many records as the file has.
  void commit() {
    if (written_ != head_.records())
      raise(Error("moe::RecordWriter", "records written", concat(head_.records()), concat(written_)));
    std::vector<std::byte> front(static_cast<std::size_t>(head_.front_bytes()));
    std::memcpy(front.data(), &head_, sizeof head_);
    std::memcpy(front.data() + page_alignment, table_.data(), 8 * table_.size());
    const std::uint64_t checksum = Checksum::of(front);
    std::memcpy(front.data() + page_alignment, &checksum, sizeof checksum);
    file_.write_at(0, front);
    file_.commit();
  }

 private:
  RecordFileHead head_;
  std::uint64_t bytes_ = 0, written_ = 0;
  Buffer record_;
  std::vector<std::uint64_t> table_;  // place 0 is that of the head
  BasicOutputFile<System> file_;
};

struct NoProgress {
  void operator()(std::uint64_t, std::uint64_t) const noexcept {}
};

/// Writes the experts of all layers, in every format that the sources have, into one record file (RecordWriter says
/// how). Layers must agree in shape and number of experts. `progress(done, total)` is told the bytes after each record.
/// Throws IoError if a record cannot be read or written, and Error if the layers differ; then no file is left.
template <RecordSource Source, class Checksum = Unchecked, class Progress = NoProgress, class System = PosixSystem>
void write_records(const std::string& path, std::span<const Source> layers, Checksum = {},
                   const Progress& progress = {}, System system = {}) {
  using Formats = typename Source::formats;
  using Layout = typename Source::layout;
  using Writer = RecordWriter<Checksum, System>;
  if (layers.empty()) raise(Error(path, "layers to write", "at least 1", "0"));
  const ExpertShape shape = layers[0].shape();
  const int experts = layers[0].num_experts();
  for (const Source& layer : layers)
    if (layer.shape() != shape || layer.num_experts() != experts)
      raise(Error(path, "layers to write", "one shape and number of experts", "a layer that differs"));
  std::vector<typename Writer::Format> formats;
  detail::for_each_format(Formats{}, [&]<class F>(int, std::type_identity<F>) {
    formats.push_back({format_traits<F>::name, Layout::template record_bytes<F>(shape)});
  });
  Writer writer(path, shape, static_cast<int>(layers.size()), experts, Layout::name, formats, system);
  std::uint64_t done = writer.head().front_bytes();
  for (int f = 0; f < count_of(Formats{}); ++f)
    for (std::size_t l = 0; l < layers.size(); ++l)
      for (ExpertId e = 0; e < experts; ++e) {
        writer.write(f, static_cast<int>(l), e, [&](std::byte* to) {
          PendingReads read(1);
          layers[l].read({e, f, to, &PendingReads::done, &read});
          read.wait();
        });
        progress(done += writer.head().series[static_cast<std::size_t>(f)].stride(), writer.bytes());
      }
  writer.commit();
}
template <RecordSource Source, class Checksum = Unchecked, class Progress = NoProgress, class System = PosixSystem>
void write_records(const std::string& path, const Source& layer, Checksum checksum = {}, const Progress& progress = {},
                   System system = {}) {
  write_records(path, std::span<const Source>(&layer, 1), checksum, progress, system);
}

}  // namespace moe

// File: a source of packed records on disk, read by worker threads; write_records: how such a file is made.
#pragma once

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <moe/concepts.hpp>
#include <moe/layout.hpp>
#include <moe/storage/pending_reads.hpp>
#include <moe/storage/posix_file.hpp>
#include <moe/storage/read_queue.hpp>

namespace moe {

/// First 4096 bytes of a record file (little endian, the rest zero). Records follow, each padded to whole pages: record
/// (layer, expert) begins at 4096 + (layer * experts + expert) * stride, stride = record_bytes up to a multiple of
/// 4096. docs/formats.md.
struct RecordFileHead {
  std::array<char, 8> magic{'m', 'o', 'e', 'r', 'e', 'c', 's', '\0'};
  std::uint32_t version = 1;
  std::uint32_t layers = 0, experts = 0;
  std::uint32_t hidden = 0, ffn = 0;
  std::uint32_t gated = 0, biased = 0;
  std::uint32_t reserved = 0;
  std::uint64_t record_bytes = 0;  // without the padding
  std::array<char, 16> layout{}, format{};

  std::uint64_t stride() const noexcept { return round_up(record_bytes, std::uint64_t{page_alignment}); }
};
static_assert(sizeof(RecordFileHead) == 80 && std::endian::native == std::endian::little);

namespace detail {

inline std::array<char, 16> short_name(std::string_view name) {
  std::array<char, 16> out{};
  for (std::size_t i = 0; i < name.size() && i + 1 < out.size(); ++i) out[i] = name[i];
  return out;
}

template <class Format, class Layout>
RecordFileHead record_file_head(const ExpertShape& s, int experts, int layers) {
  const auto u = [](int i) { return static_cast<std::uint32_t>(i); };
  RecordFileHead head;
  head.layers = u(layers);
  head.experts = u(experts);
  head.hidden = u(s.hidden);
  head.ffn = u(s.ffn);
  head.gated = s.gated ? 1 : 0;
  head.biased = s.biased ? 1 : 0;
  head.record_bytes = Layout::template record_bytes<Format>(s);
  head.layout = short_name(Layout::name);
  head.format = short_name(format_traits<Format>::name);
  return head;
}

/// Throws unless a head describes exactly this layout, this format and a file of this size.
template <class Format, class Layout>
void check_record_file_head(const std::string& path, const RecordFileHead& found, std::uint64_t size) {
  const auto text = [](const std::array<char, 16>& name) {
    return std::string(name.data(), strnlen(name.data(), name.size()));
  };
  if (found.magic != RecordFileHead{}.magic) raise(IoError(path, "first bytes", "moerecs", "something else"));
  if (found.version != 1) raise(IoError(path, "version", "1", std::to_string(found.version)));
  if (found.layout != short_name(Layout::name))
    raise(IoError(path, "layout of the records", std::string(Layout::name), text(found.layout)));
  if (found.format != short_name(format_traits<Format>::name))
    raise(IoError(path, "format of the weights", std::string(format_traits<Format>::name), text(found.format)));
  constexpr std::uint32_t most = 1u << 24;  // keeps every product below within 64 bits
  for (const auto& [name, value] :
       {std::pair{"layers", found.layers}, {"experts", found.experts}, {"hidden", found.hidden}, {"ffn", found.ffn}})
    if (value < 1 || value > most) raise(IoError(path, name, "1 to 16777216", std::to_string(value)));
  const ExpertShape shape{static_cast<int>(found.hidden), static_cast<int>(found.ffn), found.gated != 0,
                          found.biased != 0};
  const RecordFileHead expected =
      record_file_head<Format, Layout>(shape, static_cast<int>(found.experts), static_cast<int>(found.layers));
  if (found.record_bytes != expected.record_bytes)
    raise(
        IoError(path, "bytes of a record", std::to_string(expected.record_bytes), std::to_string(found.record_bytes)));
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(std::uint64_t{found.layers} * found.experts, found.stride(), &bytes) ||
      __builtin_add_overflow(bytes, page_alignment, &bytes) || bytes != size)
    raise(IoError(path, "bytes of the file", "4096 + layers * experts * stride", std::to_string(size)));
}

}  // namespace detail

/// Writes the experts of all layers into one record file, through a temporary in the same folder that is synced and
/// renamed: a reader sees the old file or the new one. Layers must agree in shape and number of experts.
/// Throws IoError if a record cannot be read or written, and Error if the layers differ; then no file is left.
template <RecordSource Source>
void write_records(const std::string& path, std::span<const Source> layers) {
  using Format = first_format<typename Source::formats>;
  if (layers.empty()) raise(Error(path, "layers to write", "at least 1", "0"));
  const RecordFileHead head = detail::record_file_head<Format, typename Source::layout>(
      layers[0].shape(), layers[0].num_experts(), static_cast<int>(layers.size()));
  OutputFile file(path);
  Buffer record(head.stride());
  std::memset(record.data(), 0, record.bytes());
  std::memcpy(record.data(), &head, sizeof head);
  file.write({record.data(), page_alignment});
  for (const Source& layer : layers) {
    if (layer.shape() != layers[0].shape() || layer.num_experts() != layers[0].num_experts())
      raise(Error(path, "layers to write", "one shape and number of experts", "a layer that differs"));
    for (ExpertId e = 0; e < layer.num_experts(); ++e) {
      std::memset(record.data(), 0, record.bytes());
      PendingReads read(1);
      layer.read({e, 0, record.data(), &PendingReads::done, &read});
      read.wait();
      file.write({record.data(), record.bytes()});
    }
  }
  file.commit();
}
template <RecordSource Source>
void write_records(const std::string& path, const Source& layer) {
  write_records(path, std::span<const Source>(&layer, 1));
}

struct FileOptions {
  int layer = 0;
  int readers = 2;                 // threads; one read of a whole expert at a time nearly saturates a disk
  Access access = Access::direct;  // cold buffered reads are several times slower
};

/// The experts of one layer of a record file. A source: put Resident or Cached around it. Reads run on `readers`
/// threads, one read per record. `layer(n)` gives another layer over the same descriptor and threads.
///
/// The file is untrusted: magic, version, layout, format, shape and exact size are checked at open (Error, IoError); a
/// file that is truncated later makes reads fail with IoError.
template <class Format, class Layout = PanelLayout>
class File {
 public:
  using layout = Layout;
  using formats = moe::formats<Format>;

  explicit File(const std::string& path, FileOptions options = {})
      : shared_(std::make_shared<const Shared>(path, options)), layer_(options.layer) {
    check_layer();
  }
  File layer(int n) const {
    File other = *this;
    other.layer_ = n;
    other.check_layer();
    return other;
  }

  ExpertShape shape() const noexcept { return shared_->shape; }
  int num_experts() const noexcept { return static_cast<int>(shared_->head.experts); }
  int num_layers() const noexcept { return static_cast<int>(shared_->head.layers); }
  std::size_t bytes(int) const noexcept { return shared_->head.stride(); }
  bool direct() const noexcept { return shared_->file.direct(); }

  void read(const ReadRequest& request) const {
    const std::uint64_t index =
        static_cast<std::uint64_t>(layer_) * shared_->head.experts + static_cast<std::uint64_t>(request.expert);
    shared_->queue.push(
        {shared_.get(), page_alignment + index * shared_->head.stride(), request.to, request.done, request.who},
        request.urgency);
  }
  void hurry(const void* who) const noexcept {
    shared_->queue.hurry([who](const Job& job) { return job.who == who; });
  }

 private:
  struct Shared;
  struct Job {
    const Shared* file = nullptr;
    std::uint64_t offset = 0;
    std::byte* to = nullptr;
    ReadDone done = nullptr;
    void* who = nullptr;
    void operator()() const {
      answer_with([&] { file->file.read(offset, {to, file->head.stride()}); }, done, who);
    }
  };
  struct Shared {
    Shared(const std::string& path, const FileOptions& options)
        : file(path, options.access), head(read_head()), shape(shape_of(head)), queue(options.readers) {}
    RecordFileHead read_head() const;
    InputFile file;
    RecordFileHead head;
    ExpertShape shape;
    mutable ReadQueue<Job> queue;  // last: drains before the descriptor closes
  };
  static ExpertShape shape_of(const RecordFileHead& h) {
    return {static_cast<int>(h.hidden), static_cast<int>(h.ffn), h.gated != 0, h.biased != 0};
  }
  void check_layer() const {
    if (layer_ < 0 || layer_ >= num_layers())
      raise(Error(shared_->file.path(), "layer", concat("0 to ", num_layers() - 1), std::to_string(layer_)));
  }

  std::shared_ptr<const Shared> shared_;
  int layer_ = 0;
};

template <class Format, class Layout>
RecordFileHead File<Format, Layout>::Shared::read_head() const {
  if (file.size() < page_alignment)
    raise(IoError(file.path(), "bytes in a record file", "at least 4096", std::to_string(file.size())));
  const Buffer page(page_alignment);
  file.read(0, {page.data(), page.bytes()});
  RecordFileHead found;
  std::memcpy(&found, page.data(), sizeof found);
  detail::check_record_file_head<Format, Layout>(file.path(), found, file.size());
  return found;
}

}  // namespace moe

// File: a source of packed records on disk, read without the page cache while the caller computes.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>

#include <moe/concepts.hpp>
#include <moe/layout.hpp>
#include <moe/storage/record_index.hpp>
#include <moe/storage/record_writer.hpp>
#include <moe/storage/thread_reader.hpp>

namespace moe {

struct FileOptions {
  int layer = 0;
  int readers = 2;                 // reads at a time; one of a whole expert nearly saturates a disk
  Access access = Access::direct;  // cold buffered reads are several times slower
};

namespace detail {
template <class F>
struct format_list {
  using type = formats<F>;
};
template <class... F>
struct format_list<formats<F...>> {
  using type = formats<F...>;
};
}  // namespace detail

/// The experts of one layer of a record file, in one format (`File<bf16>`) or several (`File<formats<bf16, q4_0>>`),
/// which the file must have among its own. A source: put Resident or Cached around it. `layer(n)` gives another layer
/// over the same descriptor and threads.
///
/// `Reader` runs the reads: one per record, of whole pages. `Checksum` verifies each record on the reader's thread
/// (`Unchecked`: not at all). The file is untrusted: it is checked when it is opened (IoError, see RecordIndex), and
/// reads fail with IoError if it is truncated later.
template <class Formats, class Layout = PanelLayout, class Checksum = Unchecked, class Reader = ThreadReader<>>
class File {
 public:
  using layout = Layout;
  using formats = typename detail::format_list<Formats>::type;

  explicit File(const std::string& path, FileOptions options = {}, typename Reader::system system = {})
      : shared_(std::make_shared<const Shared>(path, options, std::move(system))), layer_(options.layer) {
    check_layer();
  }
  File layer(int n) const {
    File other = *this;
    other.layer_ = n;
    other.check_layer();
    return other;
  }

  ExpertShape shape() const noexcept { return head().shape(); }
  int num_experts() const noexcept { return static_cast<int>(head().experts); }
  int num_layers() const noexcept { return static_cast<int>(head().layers); }
  /// Of a record with its padding: whole pages.
  std::size_t bytes(int format) const noexcept {
    return static_cast<std::size_t>(head().series[series(format)].stride());
  }
  bool direct() const noexcept { return shared_->file.direct(); }
  const RecordFileHead& head() const noexcept { return shared_->index.head(); }
  const Reader& reader() const noexcept { return shared_->reader; }

  void read(const ReadRequest& request) const {
    const auto format = static_cast<int>(series(request.format));
    shared_->reader.push({head().offset(format, layer_, request.expert), bytes(request.format), request.to, format,
                          layer_, request.expert, request.done, request.who},
                         request.urgency);
  }
  void hurry(const void* who) const noexcept { shared_->reader.hurry(who); }

 private:
  static constexpr int count = count_of(formats{});

  struct Shared {
    Shared(const std::string& path, const FileOptions& options, typename Reader::system system)
        : file(path, options.access, std::move(system)),
          index(file, Layout::name),
          reader(file, checked_readers(path, options.readers), ReadEnd{&Shared::finish, this}) {
      detail::for_each_format(formats{}, [&]<class F>(int i, std::type_identity<F>) {
        series[static_cast<std::size_t>(i)] = detail::find_series(
            path, index.head(), format_traits<F>::name, Layout::template record_bytes<F>(index.head().shape()));
      });
    }
    static int checked_readers(const std::string& path, int readers) {
      if (readers < 1) raise(Error(path, "readers", "at least 1", std::to_string(readers)));
      return readers;
    }
    static void finish(const void* owner, const RecordRead& read, const Error* error) noexcept {
      if (error != nullptr) return read.done(read.who, error);
      const auto& self = *static_cast<const Shared*>(owner);
      answer_with(
          [&] {
            self.index.check(read.format, read.layer, read.expert, {read.to, read.bytes});
          },
          read.done, read.who);
    }
    BasicInputFile<typename Reader::system> file;
    RecordIndex<Checksum> index;
    std::array<int, count> series{};  // where the file has each of our formats
    Reader reader;                    // last: drains before the others go
  };

  std::size_t series(int format) const noexcept {
    return static_cast<std::size_t>(shared_->series[static_cast<std::size_t>(format)]);
  }
  void check_layer() const {
    if (layer_ < 0 || layer_ >= num_layers())
      raise(Error(shared_->file.path(), "layer", concat("0 to ", num_layers() - 1), std::to_string(layer_)));
  }

  std::shared_ptr<const Shared> shared_;
  int layer_ = 0;
};

}  // namespace moe

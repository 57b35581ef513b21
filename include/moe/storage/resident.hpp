// Resident: all experts of a layer in one host buffer; Packed: experts packed from matrices in memory.
#pragma once

#include <span>
#include <vector>

#include <moe/concepts.hpp>
#include <moe/layout.hpp>
#include <moe/storage/pending_reads.hpp>

namespace moe {

/// A source of records packed, when asked for, from matrices that somebody else owns (`matrices` holds E of them, and
/// must stay alive while records are read).
template <class Format, class Layout = PanelLayout>
class Packed {
 public:
  using layout = Layout;
  using formats = moe::formats<Format>;

  Packed(ExpertShape shape, std::span<const ExpertMatrices> matrices) : shape_(shape), matrices_(matrices) {}

  ExpertShape shape() const noexcept { return shape_; }
  int num_experts() const noexcept { return static_cast<int>(matrices_.size()); }
  std::size_t bytes(int) const noexcept { return layout::template record_bytes<Format>(shape_); }
  void read(const ReadRequest& request) const {
    const ExpertMatrices& matrices = matrices_[static_cast<std::size_t>(request.expert)];
    answer_with([&] { layout::template pack<Format>(shape_, matrices, request.to); }, request.done, request.who);
  }

 private:
  ExpertShape shape_;
  std::span<const ExpertMatrices> matrices_;
};

/// Every expert of one layer in host memory, read once from a source at construction. Costs E records of memory and
/// nothing per call. Throws what the source reports if a record cannot be read; then nothing is kept.
template <class Layout, class Formats>
class Resident {
 public:
  using memory = host_memory;
  using layout = Layout;
  using formats = Formats;

  /// `format`: which of the source's formats to read.
  template <class Source>
  requires(!std::same_as<Source, Resident>) && RecordSource<Source> explicit Resident(const Source& source,
                                                                                      int format = 0)
      : shape_(source.shape()) {
    const auto experts = static_cast<std::size_t>(source.num_experts());
    const std::size_t stride = round_up(source.bytes(format), page_alignment);
    bytes_ = Buffer(experts * stride);
    refs_.reserve(experts);
    PendingReads reads(source.num_experts());
    for (std::size_t e = 0; e < experts; ++e) {
      std::byte* const record = bytes_.data() + e * stride;
      refs_.push_back({static_cast<ExpertId>(e), format, record});
      source.read({static_cast<ExpertId>(e), format, record, &PendingReads::done, &reads});
    }
    reads.wait();
  }

  ExpertShape shape() const noexcept { return shape_; }
  int num_experts() const noexcept { return static_cast<int>(refs_.size()); }
  Row<const ExpertRef> table() const noexcept { return {refs_.data(), num_experts()}; }
  std::size_t bytes_held() const noexcept { return bytes_.bytes(); }

 private:
  ExpertShape shape_;
  Buffer bytes_;
  std::vector<ExpertRef> refs_;
};

template <RecordSource Source>
Resident(const Source&) -> Resident<typename Source::layout, typename Source::formats>;
template <RecordSource Source>
Resident(const Source&, int) -> Resident<typename Source::layout, typename Source::formats>;

}  // namespace moe

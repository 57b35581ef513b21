// Views of some experts of a source (SubsetSource) or of a resident storage (SubsetStorage), under new ids.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include <moe/concepts.hpp>

namespace moe {

namespace detail {
/// Throws Error for a list that is empty or names an expert that there is not.
inline void check_kept(const char* where, std::span<const ExpertId> kept, int experts) {
  if (kept.empty()) raise(Error(where, "experts to keep", "at least 1", "0"));
  for (const ExpertId e : kept)
    if (e < 0 || e >= experts) raise(Error(where, "expert to keep", concat("0 to ", experts - 1), std::to_string(e)));
}
}  // namespace detail

/// A source of the records kept[0], kept[1], ... of another one, as experts 0, 1, ... Records that are not kept are
/// never read: put Resident, Cached or write_records around it, and memory, cache or file shrink with the list.
template <RecordSource Source>
class SubsetSource {
 public:
  using layout = typename Source::layout;
  using formats = typename Source::formats;

  /// Throws Error if `kept` is empty or names an expert that the source does not have.
  SubsetSource(Source source, std::span<const ExpertId> kept)
      : source_(std::move(source)), kept_(kept.begin(), kept.end()) {
    detail::check_kept("moe::SubsetSource", kept, source_.num_experts());
  }

  ExpertShape shape() const noexcept { return source_.shape(); }
  int num_experts() const noexcept { return static_cast<int>(kept_.size()); }
  std::size_t bytes(int format) const noexcept { return source_.bytes(format); }
  void read(ReadRequest request) const {
    request.expert = kept_[static_cast<std::size_t>(request.expert)];
    source_.read(request);
  }
  void hurry(const void* who) const noexcept { moe::hurry(source_, who); }
  int choose(ExpertNeed need) const noexcept {
    need.expert = kept_[static_cast<std::size_t>(need.expert)];
    return moe::choose(source_, need);
  }

 private:
  Source source_;
  std::vector<ExpertId> kept_;
};
template <RecordSource Source>
SubsetSource(Source, std::span<const ExpertId>) -> SubsetSource<Source>;

/// The records kept[0], kept[1], ... of a resident storage, as experts 0, 1, ...: no weight is copied. The storage must
/// outlive the view and stay where it is; both may serve layers at the same time.
template <ResidentStorage Storage>
requires std::same_as<typename Storage::memory, host_memory>
class SubsetStorage {
 public:
  using memory = host_memory;
  using layout = typename Storage::layout;
  using formats = typename Storage::formats;

  /// Throws Error if `kept` is empty or names an expert that the storage does not have.
  SubsetStorage(const Storage& storage, std::span<const ExpertId> kept) : shape_(storage.shape()) {
    detail::check_kept("moe::SubsetStorage", kept, storage.num_experts());
    for (const ExpertId e : kept) {
      const ExpertRef& ref = storage.table()[e];
      refs_.push_back({static_cast<ExpertId>(refs_.size()), ref.format, ref.bytes});
    }
  }
  SubsetStorage(Storage&&, std::span<const ExpertId>) = delete;  // would go before its view

  ExpertShape shape() const noexcept { return shape_; }
  int num_experts() const noexcept { return static_cast<int>(refs_.size()); }
  Row<const ExpertRef> table() const noexcept { return {refs_.data(), num_experts()}; }

 private:
  ExpertShape shape_;
  std::vector<ExpertRef> refs_;
};
template <ResidentStorage Storage>
SubsetStorage(const Storage&, std::span<const ExpertId>) -> SubsetStorage<Storage>;

}  // namespace moe

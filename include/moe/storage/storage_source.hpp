// StorageSource: any storage as a source of records, so that tiers nest.
#pragma once

#include <cstring>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <moe/concepts.hpp>
#include <moe/storage/pending_reads.hpp>

namespace moe {

/// Reads records out of a storage, one at a time (acquire, copy, release): a cache over a cache, a ring over host
/// memory, a cache over a ring. Owns the storage. Costs a copy of the record, made on the thread that asks, which also
/// waits for what the storage must fetch first: put Background around it and fetching overlaps computing.
///
/// A record comes in the format that is asked for, or the read fails with IoError. A resident storage holds one format
/// of each expert, and `choose` names it. A leasing one is asked for its most precise: put the choice between
/// precisions into the topmost cache, which alone sees what is needed (`Mixed` over one StorageSource per precision).
///
/// Every read is a use of the storage: a ring with fewer sections than layers hands its section on after each record.
template <ExpertStorage Storage>
requires std::same_as<typename Storage::memory, host_memory>
class StorageSource {
 public:
  using layout = typename Storage::layout;
  using formats = typename Storage::formats;

  explicit StorageSource(Storage storage) : storage_(std::move(storage)) {}

  ExpertShape shape() const noexcept { return storage_.shape(); }
  int num_experts() const noexcept { return storage_.num_experts(); }
  std::size_t bytes(int format) const noexcept {
    std::size_t record = 0;
    with_format(formats{}, format,
                [&]<class F>(std::type_identity<F>) { record = layout::template record_bytes<F>(storage_.shape()); });
    return record;
  }
  int choose([[maybe_unused]] const ExpertNeed& need) const noexcept {
    if constexpr (ResidentStorage<Storage>)
      return storage_.table()[need.expert].format;
    else
      return 0;
  }
  void read(const ReadRequest& request) const {
    answer_with(
        [&] {
          if constexpr (ResidentStorage<Storage>)
            copy(storage_.table()[request.expert], request);
          else
            lend(request);
        },
        request.done, request.who);
  }

  const Storage& storage() const noexcept { return storage_; }

 private:
  void lend(const ReadRequest& request) const requires LeasingStorage<Storage> {
    using Pin = typename Storage::pin;
    ExpertNeed need{request.expert, 1, 1.0f, 0.0f};
    std::span<ExpertNeed> todo(&need, 1);
    ExpertRef ref;
    alignas(Pin) std::byte pin[sizeof(Pin)];
    Wave<Pin> wave{&ref, reinterpret_cast<Pin*>(pin)};
    typename Storage::memory::queue queue;
    detail::AbandonGuard guard{storage_, todo, wave, queue};
    while (!todo.empty() && wave.empty()) todo = storage_.acquire(todo, wave, queue);
    guard.served();
    copy(wave.empty() ? ExpertRef{} : wave.refs()[0], request);
    wave.release(queue);
  }
  void copy(const ExpertRef& ref, const ReadRequest& request) const {
    if (ref.bytes == nullptr || ref.format != request.format)
      raise(IoError("moe::StorageSource", concat("format of expert ", request.expert), std::to_string(request.format),
                    ref.bytes == nullptr ? "none" : std::to_string(ref.format)));
    std::memcpy(request.to, ref.bytes, bytes(request.format));
  }

  Storage storage_;
};

}  // namespace moe

// SharedStorage: a storage that several layers use in turn, so that a layer can be remade without reading its experts
// again.
#pragma once

#include <cstdint>
#include <memory>
#include <moe/concepts.hpp>
#include <span>
#include <utility>

namespace engine {

/// A view of a storage that it keeps alive. Copies are cheap.
template <moe::ExpertStorage S>
class SharedStorage {
 public:
  using memory = typename S::memory;
  using layout = typename S::layout;
  using formats = typename S::formats;

  explicit SharedStorage(std::shared_ptr<const S> storage) : storage_(std::move(storage)) {}

  moe::ExpertShape shape() const noexcept { return storage_->shape(); }
  int num_experts() const noexcept { return storage_->num_experts(); }
  moe::Row<const moe::ExpertRef> table() const noexcept { return storage_->table(); }

 private:
  std::shared_ptr<const S> storage_;
};

template <moe::LeasingStorage S>
class SharedStorage<S> {
 public:
  using memory = typename S::memory;
  using layout = typename S::layout;
  using formats = typename S::formats;
  using pin = typename S::pin;

  explicit SharedStorage(std::shared_ptr<const S> storage) : storage_(std::move(storage)) {}

  moe::ExpertShape shape() const noexcept { return storage_->shape(); }
  int num_experts() const noexcept { return storage_->num_experts(); }
  std::span<moe::ExpertNeed> acquire(std::span<moe::ExpertNeed> todo, moe::Wave<pin>& wave,
                                     typename memory::queue& queue) const {
    return storage_->acquire(todo, wave, queue);
  }
  void abandon(std::span<const moe::ExpertNeed> rest, const moe::Wave<pin>& wave) const noexcept {
    if constexpr (requires { storage_->abandon(rest, wave); }) storage_->abandon(rest, wave);
  }
  int expect(std::span<const moe::ExpertNeed> guesses) const requires requires(const S& s) { s.expect(guesses); }
  { return storage_->expect(guesses); }
  void residency(std::uint32_t* bits) const noexcept { storage_->residency(bits); }

 private:
  std::shared_ptr<const S> storage_;
};

}  // namespace engine

// Offloading: the memory that the layers of a model share for their experts, its guesses and its accounts.
#pragma once

#include <cstdint>
#include <moe/storage/cached.hpp>
#include <moe/storage/ring.hpp>
#include <optional>

#include "storage_choice.hpp"

namespace engine {

/// What the storage of the experts did: belongs together, because a hit rate without bytes and stalls misleads.
struct StorageFigures {
  moe::CacheStatistics cache;     // of the cache; of a ring its bytes and stalls
  std::uint64_t lower_bytes = 0;  // read by a second cache under it
  std::uint64_t bytes_read = 0;   // records brought into memory, when they were loaded or when they were missed
  std::uint64_t bytes_held = 0;
};

/// Sizes of a model's experts, for cutting a budget into slots.
struct ExpertSizes {
  int layers = 0;                // with experts
  std::size_t record_bytes = 0;  // of the most precise format
  std::size_t low_bytes = 0;     // of the less precise one, if there is one
};

/// A handle: copies share the memory.
class Offloading {
 public:
  /// Throws moe::Error for choices that contradict each other or the model.
  Offloading(const StorageChoice& choice, const ExpertSizes& sizes);

  const StorageChoice& choice() const noexcept { return choice_; }
  const moe::ExpertCache* cache() const noexcept { return cache_ ? &*cache_ : nullptr; }
  const moe::ExpertCache* lower_cache() const noexcept { return lower_ ? &*lower_ : nullptr; }
  const moe::RingSections* ring() const noexcept { return ring_ ? &*ring_ : nullptr; }
  bool guesses() const noexcept {
    return cache_ && choice_.prefetch != moe::Prefetch::off && choice_.predictor != Predictor::none;
  }
  /// Every miss packs an expert of the checkpoint anew.
  bool repacks() const noexcept {
    return choice_.kind != StorageChoice::Kind::resident && choice_.experts_file.empty();
  }

  void begin_sequence() const;
  StorageFigures figures() const;

 private:
  StorageChoice choice_;
  std::optional<moe::ExpertCache> cache_, lower_;
  std::optional<moe::RingSections> ring_;
};

}  // namespace engine

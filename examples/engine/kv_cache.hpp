// KvCache: keys and values of one layer by position; rolls where a window limits what a token sees.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

namespace engine {

/// Grows with the text. With a window it stops growing at the rows that a batch of tokens can see, and new positions
/// take the places of those that nobody sees any more, so that a text may go on for ever.
class KvCache {
 public:
  /// `width`: floats of a row of keys or values; `batch`: the most positions that are reserved at once.
  KvCache(int width, std::optional<int> window, int batch) : width_(static_cast<std::size_t>(width)) {
    if (window) rows_ = static_cast<std::size_t>(*window) - 1 + static_cast<std::size_t>(batch);
  }

  /// Makes room for the positions before `end`.
  void reserve(int end) {
    const std::size_t floats = std::min(rows_, static_cast<std::size_t>(end)) * width_;
    if (floats <= keys_.size()) return;
    keys_.resize(floats);
    values_.resize(floats);
  }

  float* key(int position) noexcept { return keys_.data() + row(position) * width_; }
  float* value(int position) noexcept { return values_.data() + row(position) * width_; }

  /// What a token sees: the positions from `first` on, counted from 0.
  class Seen {
   public:
    const float* key(int i) const noexcept { return cache_->keys_.data() + offset(i); }
    const float* value(int i) const noexcept { return cache_->values_.data() + offset(i); }

   private:
    friend class KvCache;
    Seen(const KvCache& cache, std::size_t first_row) noexcept : cache_(&cache), first_row_(first_row) {}
    std::size_t offset(int i) const noexcept {  // a division for every key would cost more than its product
      const std::size_t at = first_row_ + static_cast<std::size_t>(i);
      return (at < cache_->rows_ ? at : at - cache_->rows_) * cache_->width_;
    }
    const KvCache* cache_;
    std::size_t first_row_;
  };
  Seen seen_from(int first) const noexcept { return {*this, row(first)}; }

 private:
  std::size_t row(int position) const noexcept { return static_cast<std::size_t>(position) % rows_; }

  std::size_t width_;
  std::size_t rows_ = std::numeric_limits<std::size_t>::max();
  std::vector<float> keys_, values_;
};

}  // namespace engine

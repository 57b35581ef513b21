// KvCache: keys and values of one layer by position; rolls where a window limits what a token sees.
#pragma once

#include <algorithm>
#include <cstddef>
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
    const auto wanted = static_cast<std::size_t>(end);
    const std::size_t floats = (rows_ ? std::min(*rows_, wanted) : wanted) * width_;
    if (floats <= keys_.size()) return;
    keys_.resize(floats);
    values_.resize(floats);
  }

  float* key(int position) noexcept { return keys_.data() + offset(position); }
  float* value(int position) noexcept { return values_.data() + offset(position); }
  const float* key(int position) const noexcept { return keys_.data() + offset(position); }
  const float* value(int position) const noexcept { return values_.data() + offset(position); }

 private:
  std::size_t offset(int position) const noexcept {
    const auto p = static_cast<std::size_t>(position);
    return (rows_ ? p % *rows_ : p) * width_;
  }
  std::size_t width_;
  std::optional<std::size_t> rows_;  // of a cache that rolls
  std::vector<float> keys_, values_;
};

}  // namespace engine

// CacheGuesses: which experts are guessed for the next call of each layer, and how right the guesses are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <moe/expert.hpp>
#include <moe/storage/cache_statistics.hpp>

namespace moe::detail {

/// Guesses of a layer last until its call. Knows nothing of what is here.
class CacheGuesses {
 public:
  void add_layer(int experts) { layers_.push_back({false, std::vector<unsigned>(static_cast<std::size_t>(experts))}); }
  /// A layer's newest guesses, which replace those before. With `keep` they are expected until the layer is called, as
  /// is what was to be kept before.
  void predict(int layer, std::span<const ExpertNeed> guesses, bool keep) noexcept {
    for (unsigned& mark : layers_[static_cast<std::size_t>(layer)].marks) mark &= kept;
    layers_[static_cast<std::size_t>(layer)].guessed = true;
    for (const ExpertNeed& guess : guesses) add(layer, guess.expert, keep ? newest | kept : newest);
  }
  /// One more guess, beside the others.
  void add(int layer, ExpertId e) noexcept { add(layer, e, newest); }
  bool expected(int layer, ExpertId e) const noexcept {
    return (layers_[static_cast<std::size_t>(layer)].marks[static_cast<std::size_t>(e)] & kept) != 0;
  }
  /// The layer is called and wants `needs`: counts how right its guesses were, which are over now.
  void compare(int layer, std::span<const ExpertNeed> needs, CacheStatistics& statistics) noexcept {
    Layer& l = layers_[static_cast<std::size_t>(layer)];
    if (!std::exchange(l.guessed, false)) return;
    statistics.needed += needs.size();
    for (const ExpertNeed& need : needs)
      statistics.predicted_right += l.marks[static_cast<std::size_t>(need.expert)] & newest;
    for (const unsigned mark : l.marks) statistics.predicted += mark & newest;
    std::fill(l.marks.begin(), l.marks.end(), 0u);
  }

 private:
  static constexpr unsigned newest = 1, kept = 2;
  struct Layer {
    bool guessed = false;
    std::vector<unsigned> marks;  // [expert]
  };
  void add(int layer, ExpertId e, unsigned mark) noexcept {
    Layer& l = layers_[static_cast<std::size_t>(layer)];
    l.guessed = true;
    l.marks[static_cast<std::size_t>(e)] |= mark;
  }

  std::vector<Layer> layers_;
};

}  // namespace moe::detail

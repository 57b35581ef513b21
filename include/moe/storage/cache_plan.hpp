// CachePlan: what a pass through the layers is expected to use, in order, and what of that is still to come.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <moe/expert.hpp>
#include <moe/storage/cache_history.hpp>

namespace moe::detail {

/// ExpertFlow's plan (He et al. 2024). Knows nothing of slots and of what is here. What is to come it also marks as
/// `planned` in the cache's history, for evictions to see; only the plan sets that mark.
class CachePlan {
 public:
  void add_layer(int experts) { positions_.insert(positions_.end(), static_cast<std::size_t>(experts), over); }
  /// In the order of use; replaces the plan before. An expert that is named again counts once.
  void replace(std::span<const std::pair<int, ExpertId>> uses, CacheHistory& history) {
    std::vector<std::size_t> order;
    order.reserve(uses.size());
    for (const std::size_t number : order_) set_position(number, over, history);
    for (const auto& [layer, expert] : uses) {
      const std::size_t number = history.number(layer, expert);
      if (positions_[number] != over) continue;
      set_position(number, static_cast<int>(order.size()), history);
      order.push_back(number);
    }
    order_ = std::move(order);
    uses_of_a_layer_ = pieces(static_cast<int>(order_.size()), std::max(1, layers_named(history)));
  }
  bool empty() const noexcept { return order_.empty(); }

  /// How far as many slots reach: a beginning of the plan with at most as many uses that are to come. Numbers of
  /// experts in the order of use, also such whose use is over.
  std::span<const std::size_t> reach(int slots) const noexcept {
    std::size_t end = 0;
    for (; end < order_.size(); ++end)
      if (positions_[order_[end]] != over && slots-- == 0) break;
    return std::span(order_).first(end);
  }
  int uses_of_a_layer() const noexcept { return uses_of_a_layer_; }  // on average, rounded up
  /// Its use is to come, and is among the first `end` of the plan.
  bool to_come(std::size_t number, std::size_t end) const noexcept {
    return positions_[number] != over && positions_[number] < static_cast<int>(end);
  }

  /// Its use is over.
  void used(std::size_t number, CacheHistory& history) noexcept { set_position(number, over, history); }
  /// The layer's routing is known: earlier layers are over, and so are its own experts that were planned wrongly, which
  /// makes them the first to go (ExpertFlow's real-time correction).
  void correct(int layer, std::span<const ExpertNeed> needs, CacheHistory& history) noexcept {
    for (const std::size_t number : order_) {
      const CacheEntry& entry = history[number];
      if (entry.layer < layer || (entry.layer == layer && !among(needs, entry.expert)))
        set_position(number, over, history);
    }
  }
  /// The layer goes.
  void remove_layer(int layer, CacheHistory& history) noexcept {
    for (const std::size_t number : order_)
      if (history[number].layer == layer) set_position(number, over, history);
  }

 private:
  static constexpr int over = -1;

  int layers_named(const CacheHistory& history) const {
    std::vector<bool> named(static_cast<std::size_t>(history.layers()));
    for (const std::size_t number : order_) named[static_cast<std::size_t>(history[number].layer)] = true;
    return static_cast<int>(std::count(named.begin(), named.end(), true));
  }
  void set_position(std::size_t number, int position, CacheHistory& history) noexcept {
    positions_[number] = position;
    history[number].planned = position != over;
  }
  static bool among(std::span<const ExpertNeed> needs, ExpertId e) noexcept {
    return std::any_of(needs.begin(), needs.end(), [e](const ExpertNeed& need) { return need.expert == e; });
  }

  std::vector<std::size_t> order_;  // numbers of experts
  std::vector<int> positions_;      // [number] in `order_`, if its use is to come
  int uses_of_a_layer_ = 0;
};

}  // namespace moe::detail

// From scores of experts to the experts that are kept, and the tables by which views apply the choice.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <moe/error.hpp>
#include <moe/expert.hpp>

namespace moe {

/// A number for each expert of each layer: what it is worth to keep it.
class ExpertScores {
 public:
  ExpertScores(int layers, int experts)
      : layers_(layers),
        experts_(experts),
        values_(static_cast<std::size_t>(layers) * static_cast<std::size_t>(experts)) {}

  int layers() const noexcept { return layers_; }
  int experts() const noexcept { return experts_; }
  double& at(int layer, ExpertId e) noexcept { return values_[index(layer, e)]; }
  double at(int layer, ExpertId e) const noexcept { return values_[index(layer, e)]; }
  std::span<const double> layer(int l) const noexcept {
    return {values_.data() + index(l, 0), static_cast<std::size_t>(experts_)};
  }

 private:
  std::size_t index(int layer, ExpertId e) const noexcept {
    return static_cast<std::size_t>(layer) * static_cast<std::size_t>(experts_) + static_cast<std::size_t>(e);
  }
  int layers_, experts_;
  std::vector<double> values_;
};

/// The experts that each layer keeps, ascending. Applied by RemapRouter{router, renumbering(keep[l], E), kept} over
/// SubsetSource or SubsetStorage{all, keep[l]}.
struct PruneSpec {
  std::vector<std::vector<ExpertId>> keep;  // [layers]
};

/// Indices of the `count` largest scores, ascending; ties to the lower index. Throws Error unless 1 <= count <= size.
inline std::vector<ExpertId> best(std::span<const double> scores, int count) {
  const int size = static_cast<int>(scores.size());
  if (count < 1 || count > size)
    raise(Error("moe::best", "number to keep", concat("1 to ", size), std::to_string(count)));
  std::vector<ExpertId> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](ExpertId e) { return scores[static_cast<std::size_t>(e)]; };
  std::stable_sort(order.begin(), order.end(), [&](ExpertId a, ExpertId b) { return score(a) > score(b); });
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

/// The `count` best experts of every layer.
inline PruneSpec keep_best(const ExpertScores& scores, int count) {
  PruneSpec spec;
  for (int l = 0; l < scores.layers(); ++l) spec.keep.push_back(best(scores.layer(l), count));
  return spec;
}

/// RemapRouter's table: the place of each of `experts` experts among the kept ones, -1 for those that go.
inline std::vector<ExpertId> renumbering(std::span<const ExpertId> kept, int experts) {
  std::vector<ExpertId> to(static_cast<std::size_t>(experts), -1);
  for (std::size_t i = 0; i < kept.size(); ++i) to[static_cast<std::size_t>(kept[i])] = static_cast<ExpertId>(i);
  return to;
}

/// RouteContext::allowed for the full layer: a bit for each kept expert, and for the `others` ids behind the experts
/// (identities, nulls), which pruning leaves alone.
inline std::vector<std::uint32_t> mask_of(std::span<const ExpertId> kept, int experts, int others = 0) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(pieces(experts + others, 32)));
  for (const ExpertId e : kept) add_expert(words.data(), e);
  for (ExpertId e = experts; e < experts + others; ++e) add_expert(words.data(), e);
  return words;
}

}  // namespace moe

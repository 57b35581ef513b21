// RoutingPaths: the experts that tokens use, or are predicted to use, in all layers, as bits.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <moe/error.hpp>
#include <moe/routing.hpp>

namespace moe {

/// One path per token: bit (layer, expert) says that the token uses the expert (ExpertFlow's R, He et al. 2024). A
/// layer begins at a word of its own: layers * ceil(experts / 64) words a token.
class RoutingPaths {
 public:
  /// Without a single bit. Throws Error for sizes below 1 (tokens: below 0), and for more than 2^31 words.
  RoutingPaths(int tokens, int layers, int experts) : tokens_(tokens), layers_(layers), experts_(experts) {
    constexpr const char* where = "moe::RoutingPaths";
    if (tokens < 0) raise(Error(where, "tokens", "0 or more", std::to_string(tokens)));
    if (layers < 1) raise(Error(where, "layers", "at least 1", std::to_string(layers)));
    if (experts < 1) raise(Error(where, "experts", "at least 1", std::to_string(experts)));
    words_per_layer_ = experts / 64 + (experts % 64 != 0 ? 1 : 0);
    const std::int64_t words = std::int64_t{layers} * words_per_layer_;
    if (words > std::int64_t{1} << 31 || words * tokens > std::int64_t{1} << 31)
      raise(Error(where, "words of all paths", "at most 2147483648", "more"));
    bits_.assign(static_cast<std::size_t>(words * tokens), 0);
  }

  int tokens() const noexcept { return tokens_; }
  int layers() const noexcept { return layers_; }
  int experts() const noexcept { return experts_; }
  int words_per_layer() const noexcept { return words_per_layer_; }
  int words_per_token() const noexcept { return layers_ * words_per_layer_; }

  /// Throws Error for a token, a layer or an expert that there is not.
  void set(int token, int layer, int expert) {
    constexpr const char* where = "moe::RoutingPaths::set";
    require_index(where, "token", tokens_, token);
    require_index(where, "layer", layers_, layer);
    require_index(where, "expert", experts_, expert);
    words(token)[layer * words_per_layer_ + expert / 64] |= std::uint64_t{1} << (expert % 64);
  }
  bool test(int token, int layer, int expert) const noexcept {
    return (path(token)[layer * words_per_layer_ + expert / 64] >> (expert % 64) & 1u) != 0;
  }
  /// The words of one token, layer by layer.
  Row<const std::uint64_t> path(int token) const noexcept { return {bits_.data() + offset(token), words_per_token()}; }

 private:
  std::size_t offset(int token) const noexcept {
    return static_cast<std::size_t>(token) * static_cast<std::size_t>(words_per_token());
  }
  Row<std::uint64_t> words(int token) noexcept { return {bits_.data() + offset(token), words_per_token()}; }

  int tokens_, layers_, experts_, words_per_layer_ = 0;
  std::vector<std::uint64_t> bits_;
};

/// Calls `visit(expert, logit)` for the k largest logits, the largest first; equal ones by id, NaN never. O(E k).
template <class Visit>
void for_each_largest(Row<const float> logits, int k, Visit&& visit) {
  int last = -1;
  for (int picked = 0; picked < k; ++picked) {
    int best = -1;
    for (int e = 0; e < logits.size(); ++e) {
      const bool after = last < 0 || logits[e] < logits[last] || (logits[e] == logits[last] && e > last);
      if (after && logits[e] == logits[e] && (best < 0 || logits[e] > logits[best])) best = e;
    }
    if (best < 0) return;
    visit(best, logits[best]);
    last = best;
  }
}

/// The k best experts of every layer from the logits [tokens, layers * experts] of a path predictor. Throws Error if
/// the columns are no multiple of the experts, and for k outside 1 .. experts.
inline RoutingPaths top_paths(View<const float> logits, int experts, int k) {
  constexpr const char* where = "moe::top_paths";
  if (experts < 1 || logits.cols < experts || logits.cols % experts != 0)
    raise(
        Error(where, "columns of logits", concat("a multiple of ", experts, " experts"), std::to_string(logits.cols)));
  if (k < 1 || k > experts) raise(Error(where, "k", concat("1 to ", experts), std::to_string(k)));
  RoutingPaths paths(logits.rows, logits.cols / experts, experts);
  for (int t = 0; t < logits.rows; ++t)
    for (int l = 0; l < paths.layers(); ++l)
      for_each_largest({logits.row(t).data() + l * experts, experts}, k, [&](int e, float) { paths.set(t, l, e); });
  return paths;
}

}  // namespace moe

// TokenFrequencies: a predictor that remembers which experts each token id was sent to.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <moe/error.hpp>
#include <moe/frame.hpp>

namespace moe {

/// The sizes of a TokenFrequencies. `rows` bounds its memory: a row of 2 layers experts bytes for each token id that
/// was seen, and 4 bytes for each id of the vocabulary. Ids that come when all rows are taken are predicted by the
/// layer's overall frequencies; frequent ids come early.
struct TokenFrequenciesShape {
  int vocabulary = 0, layers = 0, experts = 0;
  int rows = std::numeric_limits<int>::max();
};

/// Predicts a layer's experts from token ids alone, before the first layer: logits are the logarithms of smoothed
/// frequencies (the token-id table of ExpertFlow's fillers; of EdgeMoE's conditional tables the one of order zero).
/// p(e | t) = (n_te + prior q_e) / (n_t + prior), q_e the experts' shares over all tokens.
///
/// Counts have 16 bits; a row whose count is full is halved, which forgets slowly. Not for two threads at once while
/// one of them observes.
class TokenFrequencies {
 public:
  /// `prior`: how many choices the overall shares count for. Throws Error for sizes below 1, and where no memory could
  /// hold the table.
  explicit TokenFrequencies(TokenFrequenciesShape shape, float prior = 2) : shape_(shape), prior_(prior) {
    constexpr const char* where = "moe::TokenFrequencies";
    const auto at_least_one = [](const char* what, int found) {
      if (found < 1) raise(Error(where, what, "at least 1", std::to_string(found)));
    };
    at_least_one("token ids", shape.vocabulary);
    at_least_one("layers", shape.layers);
    at_least_one("experts", shape.experts);
    at_least_one("rows", shape.rows);
    if (!(prior > 0 && prior < largest_float)) raise(Error(where, "prior", "a number above 0", std::to_string(prior)));
    if (shape.layers > std::numeric_limits<int>::max() / shape.experts)
      raise(Error(where, "experts of all layers", "at most 2147483647", "more"));
    if (shape_.rows > shape.vocabulary) shape_.rows = shape.vocabulary;
    row_of_token_.assign(static_cast<std::size_t>(shape.vocabulary), -1);
    totals_.assign(row_size(), 0);
  }

  const TokenFrequenciesShape& shape() const noexcept { return shape_; }
  float prior() const noexcept { return prior_; }
  /// Token ids that have a row, in the order in which they came.
  const std::vector<std::int32_t>& tokens() const noexcept { return tokens_; }
  /// [rows in use, layers, experts]
  const std::vector<std::uint16_t>& counts() const noexcept { return counts_; }
  /// [layers, experts], over all tokens, also those without a row.
  const std::vector<std::uint64_t>& totals() const noexcept { return totals_; }
  std::size_t bytes_held() const noexcept {
    return row_of_token_.capacity() * sizeof(std::int32_t) + tokens_.capacity() * sizeof(std::int32_t) +
           counts_.capacity() * sizeof(std::uint16_t) + totals_.capacity() * sizeof(std::uint64_t);
  }

  /// Counts the choices of one token in one layer; ids that are no expert (identities, nulls, dropped ones) are left
  /// out. Throws Error for a token or a layer that there is not. O(K).
  void observe(int layer, int token, Row<const Slot> picks) {
    constexpr const char* where = "moe::TokenFrequencies::observe";
    require_index(where, "layer", shape_.layers, layer);
    require_index(where, "token id", shape_.vocabulary, token);
    const int row = row_for(token);
    for (const Slot& pick : picks) {
      if (pick.expert < 0 || pick.expert >= shape_.experts) continue;
      const std::size_t column = column_of(layer, pick.expert);
      ++totals_[column];
      if (row >= 0) count(row, column);
    }
  }

  /// Writes the layer's logits for every token; ids outside the vocabulary are predicted as unknown ones. `out` is
  /// [tokens, experts]: what Call::logits of MoELayer::prefetch takes, for gates with a logit per expert. Throws Error
  /// for other shapes. O(T E).
  void logits(int layer, Row<const int> tokens, View<float> out) const {
    constexpr const char* where = "moe::TokenFrequencies::logits";
    require_index(where, "layer", shape_.layers, layer);
    require_equal(where, "rows of logits", tokens.size(), out.rows);
    require_equal(where, "columns of logits", shape_.experts, out.cols);
    const std::uint64_t* totals = totals_.data() + column_of(layer, 0);
    const double all = sum(totals);
    for (int t = 0; t < out.rows; ++t) {
      const std::uint16_t* counts = counts_of(layer, tokens[t]);
      const double scale = 1 / ((counts != nullptr ? sum(counts) : 0) + static_cast<double>(prior_));
      for (int e = 0; e < shape_.experts; ++e) {
        // An expert nobody has seen counts as half a choice: its logarithm stays finite.
        const double share = (static_cast<double>(totals[e]) + 0.5) / (all + 0.5 * shape_.experts);
        const double seen = counts != nullptr ? static_cast<double>(counts[e]) : 0;
        out.row(t)[e] = static_cast<float>(std::log((seen + static_cast<double>(prior_) * share) * scale));
      }
    }
  }

  /// Puts back what `tokens`, `counts` and `totals` gave. Throws Error, and changes nothing, unless they fit the shape.
  void restore(std::vector<std::int32_t> tokens, std::vector<std::uint16_t> counts, std::vector<std::uint64_t> totals) {
    constexpr const char* where = "moe::TokenFrequencies::restore";
    if (tokens.size() > static_cast<std::size_t>(shape_.rows))
      raise(Error(where, "rows in use", concat("at most ", shape_.rows), std::to_string(tokens.size())));
    require_equal(where, "counts", tokens.size() * row_size(), counts.size());
    require_equal(where, "totals", row_size(), totals.size());
    std::vector<std::int32_t> rows(row_of_token_.size(), -1);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      require_index(where, "token id", shape_.vocabulary, tokens[i]);
      std::int32_t& row = rows[static_cast<std::size_t>(tokens[i])];
      if (row >= 0) raise(Error(where, "token ids", "each once", concat(tokens[i], " twice")));
      row = static_cast<std::int32_t>(i);
    }
    row_of_token_ = std::move(rows);
    tokens_ = std::move(tokens);
    counts_ = std::move(counts);
    totals_ = std::move(totals);
  }

 private:
  std::size_t row_size() const noexcept {
    return static_cast<std::size_t>(shape_.layers) * static_cast<std::size_t>(shape_.experts);
  }
  std::size_t column_of(int layer, int expert) const noexcept {
    return static_cast<std::size_t>(layer) * static_cast<std::size_t>(shape_.experts) +
           static_cast<std::size_t>(expert);
  }
  template <class Count>
  double sum(const Count* counts) const noexcept {
    double total = 0;
    for (int e = 0; e < shape_.experts; ++e) total += static_cast<double>(counts[e]);
    return total;
  }
  /// Negative if all rows are taken.
  int row_for(int token) {
    std::int32_t& row = row_of_token_[static_cast<std::size_t>(token)];
    if (row < 0 && tokens_.size() < static_cast<std::size_t>(shape_.rows)) {
      counts_.resize(counts_.size() + row_size());
      tokens_.push_back(token);
      row = static_cast<std::int32_t>(tokens_.size() - 1);
    }
    return row;
  }
  void count(int row, std::size_t column) noexcept {
    std::uint16_t* counts = counts_.data() + static_cast<std::size_t>(row) * row_size();
    if (counts[column] == std::numeric_limits<std::uint16_t>::max())
      for (std::size_t i = 0; i < row_size(); ++i) counts[i] = static_cast<std::uint16_t>(counts[i] / 2);
    ++counts[column];
  }
  const std::uint16_t* counts_of(int layer, int token) const noexcept {
    if (token < 0 || token >= shape_.vocabulary) return nullptr;
    const std::int32_t row = row_of_token_[static_cast<std::size_t>(token)];
    return row < 0 ? nullptr : counts_.data() + static_cast<std::size_t>(row) * row_size() + column_of(layer, 0);
  }

  TokenFrequenciesShape shape_;
  float prior_;
  std::vector<std::int32_t> row_of_token_, tokens_;
  std::vector<std::uint16_t> counts_;
  std::vector<std::uint64_t> totals_;
};

/// An observer of MoELayer::forward that counts what a layer chose for the tokens of the call.
struct FrequencyObserver {
  TokenFrequencies* frequencies = nullptr;
  int layer = 0;
  const int* tokens = nullptr;  // [T] of the whole call

  void done(const Frame<>& f) const {
    for (int t = 0; t < f.dims.tokens; ++t)
      frequencies->observe(layer, tokens[f.first_token + t], f.table.slots.row(t).first(f.table.size(t)));
  }
};

}  // namespace moe

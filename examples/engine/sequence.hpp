// Sequence: one text in progress. Tokens in, logits out.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "attention.hpp"
#include "kv_cache.hpp"
#include "model.hpp"

namespace engine {

enum class LogitsOf { every_token, last_token };

/// Keeps the keys and values of a text and the memory that a step works in. Results do not depend on how the tokens are
/// cut into calls, but for policies that treat calls of one token as decoding. `model` outlives it. Not for several
/// threads, and one sequence at a time per model.
///
/// A text may have several streams: the same tokens, routed by different rules of the policy (`TwoStreams`), each with
/// keys and values of its own. Their rows share every product, so that a weight that several streams need is read once;
/// each stream computes the same bits as it would alone.
class Sequence {
 public:
  /// Longer calls are worked off in batches of this many rows.
  static constexpr int batch = 256;
  /// Sees the embeddings as 0 and the result of layer i as i + 1, the last one after the final norm.
  using Observer = std::function<void(int index, ConstRows hidden)>;

  /// One stream for each rule. Throws moe::Error for none, or more than `batch`.
  explicit Sequence(const Model& model, std::vector<int> rules = {0});

  /// Appends tokens to every stream and returns logits [streams * (tokens or 1), V], those of one stream after the
  /// other, valid until the next call. Throws moe::Error for ids outside the vocabulary and at the end of the model's
  /// positions (models with a sliding window have no end), and what a storage throws; then the sequence must be
  /// restarted.
  ConstRows append(std::span<const int> tokens, LogitsOf which);
  /// Forgets the text.
  void restart() noexcept { position_ = 0; }
  int position() const noexcept { return position_; }
  int streams() const noexcept { return static_cast<int>(rules_.size()); }
  /// Of routers that choose at random.
  void set_seed(std::uint64_t seed) noexcept { seed_ = seed; }
  void observe(Observer observer) { observer_ = std::move(observer); }
  /// What one stream remembers in one layer.
  KvCache& cache(int layer, int stream) {
    return caches_[static_cast<std::size_t>(layer) * rules_.size() + static_cast<std::size_t>(stream)];
  }

 private:
  void check(std::span<const int> tokens) const;
  void append_batch(std::span<const int> tokens);
  moe::RouteContext<> context(std::span<const int> tokens);
  void guess_next(ConstRows outputs, int count);
  void layer(int index, Rows x, const moe::RouteContext<>& context);
  void write_logits(int first_row, Rows logits);

  const Model& model_;
  std::vector<int> rules_;  // [stream]
  Attention attention_;
  std::vector<KvCache> caches_;  // [layer, stream]
  moe::Workspace<> workspace_;
  Matrix hidden_, normed_, update_, logits_;
  std::vector<int> row_tokens_, row_rules_, row_positions_;  // of a batch
  Observer observer_;
  std::uint64_t seed_ = 0;
  int position_ = 0;
};

}  // namespace engine

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
/// cut into calls. `model` outlives it. Not for several threads, and one sequence at a time per model.
class Sequence {
 public:
  /// Longer calls are worked off in batches of this many tokens.
  static constexpr int batch = 256;
  /// Sees the embeddings as 0 and the result of layer i as i + 1, the last one after the final norm.
  using Observer = std::function<void(int index, ConstRows hidden)>;

  explicit Sequence(const Model& model);

  /// Appends tokens and returns logits [tokens or 1, V], valid until the next call. Throws moe::Error for ids outside
  /// the vocabulary and at the end of the model's positions (models with a sliding window have no end), and what a
  /// storage throws; then the sequence must be restarted.
  ConstRows append(std::span<const int> tokens, LogitsOf which);
  /// Forgets the text.
  void restart() noexcept { position_ = 0; }
  int position() const noexcept { return position_; }
  void observe(Observer observer) { observer_ = std::move(observer); }

 private:
  void check(std::span<const int> tokens) const;
  void append_batch(std::span<const int> tokens);
  void layer(std::size_t index, Rows x);
  void write_logits(int first_row, Rows logits);

  const Model& model_;
  Attention attention_;
  std::vector<KvCache> caches_;
  moe::Workspace<> workspace_;
  Matrix hidden_, normed_, update_, logits_;
  Observer observer_;
  int position_ = 0;
};

}  // namespace engine

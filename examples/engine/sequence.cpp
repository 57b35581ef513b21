#include "sequence.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace engine {

Sequence::Sequence(const Model& model)
    : model_(model),
      attention_(model.config(), model.cpu(), batch),
      workspace_(model.experts().workspace(batch)),
      hidden_(batch, model.config().hidden),
      normed_(batch, model.config().hidden),
      update_(batch, model.config().hidden) {
  const moe::io::ModelConfig& c = model.config();
  caches_.assign(static_cast<std::size_t>(c.layers), KvCache(c.kv_heads * c.head_dim, c.sliding_window, batch));
}

ConstRows Sequence::append(std::span<const int> tokens, LogitsOf which) {
  check(tokens);
  const auto count = static_cast<int>(tokens.size());
  const int rows = which == LogitsOf::every_token ? count : std::min(count, 1);
  if (logits_.rows() < rows) logits_ = Matrix(rows, model_.config().vocab);
  const Rows logits = logits_.first(rows);
  for (int done = 0; done < count;) {
    const int n = std::min(batch, count - done);
    append_batch(tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)));
    if (which == LogitsOf::every_token) {
      write_logits(0, logits.slice(done, n));
    } else if (done + n == count) {
      write_logits(n - 1, logits);
    }
    done += n;
  }
  return logits;
}

void Sequence::check(std::span<const int> tokens) const {
  const moe::io::ModelConfig& c = model_.config();
  for (const int token : tokens) {
    if (token >= 0 && token < c.vocab) continue;
    moe::raise(moe::Error("engine", "token id", "0 to " + std::to_string(c.vocab - 1), std::to_string(token)));
  }
  const int limit = c.sliding_window ? std::numeric_limits<int>::max() : c.max_positions;
  if (tokens.size() > static_cast<std::size_t>(limit - position_)) {
    moe::raise(moe::Error("engine", "length of the text in tokens",
                          "at most " + std::to_string(limit) + ", which is all that this model has positions for",
                          std::to_string(static_cast<std::size_t>(position_) + tokens.size())));
  }
}

void Sequence::append_batch(std::span<const int> tokens) {
  const auto rows = static_cast<int>(tokens.size());
  const Rows x = hidden_.first(rows);
  for (int t = 0; t < rows; ++t) {
    std::ranges::copy(model_.backbone().embeddings.view().row(tokens[static_cast<std::size_t>(t)]), x.row(t).begin());
  }
  if (observer_) observer_(0, x);
  attention_.begin(position_, rows);
  for (std::size_t i = 0; i < caches_.size(); ++i) {
    layer(i, x);
    if (observer_ && i + 1 < caches_.size()) observer_(static_cast<int>(i) + 1, x);
  }
  rms_norm(x, model_.backbone().final_gain, model_.config().rms_norm_eps, x);
  if (observer_) observer_(model_.config().layers, x);
  position_ += rows;
}

/// x += attention(norm(x)); x += experts(norm(x))
void Sequence::layer(std::size_t index, Rows x) {
  const DecoderLayer& weights = model_.backbone().layers[index];
  const float epsilon = model_.config().rms_norm_eps;
  const Rows normed = normed_.first(x.rows), update = update_.first(x.rows);
  rms_norm(x, weights.attention_gain, epsilon, normed);
  attention_.forward(weights.attention, normed, caches_[index], update);
  add(x, update);
  rms_norm(x, weights.feed_forward_gain, epsilon, normed);
  model_.experts().forward(static_cast<int>(index), normed, update, workspace_);
  add(x, update);
}

void Sequence::write_logits(int first_row, Rows logits) {
  moe::Frame<> unused;
  model_.cpu().linear(unused, hidden_.view().slice(first_row, logits.rows), model_.output(), nullptr, logits);
}

}  // namespace engine

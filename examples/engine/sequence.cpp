#include "sequence.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace engine {

Sequence::Sequence(const Model& model, std::vector<int> rules)
    : model_(model),
      rules_(std::move(rules)),
      attention_(model.config(), model.cpu(), batch),
      workspace_(model.experts().workspace(batch)),
      hidden_(batch, model.config().hidden()),
      normed_(batch, model.config().hidden()),
      update_(batch, model.config().hidden()) {
  const moe::io::ModelConfig& c = model.config();
  if (rules_.empty() || streams() > batch) {
    moe::raise(moe::Error("engine", "streams", "1 to " + std::to_string(batch), std::to_string(rules_.size())));
  }
  caches_.assign(static_cast<std::size_t>(c.layers()) * rules_.size(),
                 KvCache(c.kv_heads * c.head_dim, c.sliding_window, batch));
}

ConstRows Sequence::append(std::span<const int> tokens, LogitsOf which) {
  check(tokens);
  if (position_ == 0) model_.experts().begin_sequence();
  const auto count = static_cast<int>(tokens.size());
  const int rows = which == LogitsOf::every_token ? count : std::min(count, 1);  // of a stream
  if (logits_.rows() < rows * streams()) logits_ = Matrix(rows * streams(), model_.config().vocab);
  const Rows logits = logits_.first(rows * streams());
  for (int done = 0; done < count;) {
    const int n = std::min(batch / streams(), count - done);
    append_batch(tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)));
    for (int s = 0; s < streams(); ++s) {
      if (which == LogitsOf::every_token) {
        write_logits(s * n, logits.slice(s * rows + done, n));
      } else if (done + n == count) {
        write_logits(s * n + n - 1, logits.slice(s, 1));
      }
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
  const auto count = static_cast<int>(tokens.size());
  const int layers = model_.config().layers();
  const Rows x = hidden_.first(count * streams());
  for (int row = 0; row < x.rows; ++row) {
    const int token = tokens[static_cast<std::size_t>(row % count)];
    std::ranges::copy(model_.backbone().embeddings.view().row(token), x.row(row).begin());
  }
  if (observer_) observer_(0, x);
  attention_.begin(position_, count);
  const moe::RouteContext<> routing = context(tokens);
  model_.experts().begin_pass(x.rows, streams(), routing);
  for (int i = 0; i < layers; ++i) {
    layer(i, x, routing);
    if (observer_ && i + 1 < layers) observer_(i + 1, x);
  }
  rms_norm(x, model_.backbone().final_gain, model_.config().rms_norm_eps, x);
  if (observer_) observer_(layers, x);
  position_ += count;
  guess_next(x, count);
}

/// Tells the experts what the newest tokens came to, [streams * count, H], while the next ones are not yet known.
void Sequence::guess_next(ConstRows outputs, int count) {
  const ConstRows newest(outputs.row(count - 1).data(), streams(), outputs.cols, outputs.stride * count);
  row_positions_.assign(rules_.size(), position_);
  model_.experts().end_pass(
      newest, workspace_, {.rules = rules_.data(), .positions = row_positions_.data(), .seed = seed_, .decode = true});
}

/// What routers may know of the rows of the next tokens.
moe::RouteContext<> Sequence::context(std::span<const int> tokens) {
  row_tokens_.clear();
  row_rules_.clear();
  row_positions_.clear();
  for (const int rule : rules_) {
    row_tokens_.insert(row_tokens_.end(), tokens.begin(), tokens.end());
    for (int t = 0; t < static_cast<int>(tokens.size()); ++t) {
      row_rules_.push_back(rule);
      row_positions_.push_back(position_ + t);
    }
  }
  return {.tokens = row_tokens_.data(),
          .rules = row_rules_.data(),
          .positions = row_positions_.data(),
          .seed = seed_,
          .decode = tokens.size() == 1};
}

/// x += attention(norm(x)); x += experts(norm(x))
void Sequence::layer(int index, Rows x, const moe::RouteContext<>& context) {
  const DecoderLayer& weights = model_.backbone().layers[static_cast<std::size_t>(index)];
  const float epsilon = model_.config().rms_norm_eps;
  const Rows normed = normed_.first(x.rows), update = update_.first(x.rows);
  rms_norm(x, weights.attention_gain, epsilon, normed);
  attention_.forward(weights.attention, normed, {&cache(index, 0), rules_.size()}, update);
  add(x, update);
  rms_norm(x, weights.feed_forward_gain, epsilon, normed);
  model_.experts().forward(index, normed, update, workspace_, context);
  add(x, update);
}

void Sequence::write_logits(int first_row, Rows logits) {
  moe::Frame<> unused;
  model_.cpu().linear(unused, hidden_.view().slice(first_row, logits.rows), model_.output(), nullptr, logits);
}

}  // namespace engine

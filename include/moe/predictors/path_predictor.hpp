// PathPredictor: a small network that guesses the experts of all layers from token ids, before the first layer runs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <moe/error.hpp>
#include <moe/frame.hpp>
#include <moe/math.hpp>
#include <moe/predictors/routing_paths.hpp>

namespace moe {

/// What a PathPredictor computes with; matrices are row-major. V token ids, d `width`, h `hidden`, W `window`, R
/// decays.
struct PathPredictorWeights {
  int vocabulary = 0, width = 0, window = 0, hidden = 0, layers = 0, experts = 0;
  std::vector<float> decays = {};      // [R], each in [0, 1); R may be 0
  std::vector<float> embedding = {};   // [V,d]
  std::vector<float> enter = {};       // [h,(W + R) d]
  std::vector<float> enter_bias = {};  // [h]
  std::vector<float> leave = {};       // [layers experts,h]
  std::vector<float> leave_bias = {};  // [layers experts]
};

/// What a PathPredictor remembers of one sequence, and memory that it works in: 4 ((W + R) d + h) bytes for each of up
/// to 32 tokens that come at once, and 4 (W + R) d.
struct PathPredictorState {
  std::vector<float> inputs;                          // [(W + R) d] after the last token
  std::vector<float> inputs_of_rows, hidden_of_rows;  // [rows,(W + R) d], [rows,h]
};

/// ExpertFlow's routing path predictor (He et al. 2024) in a form that costs little beside the model and goes on token
/// by token, in prompts as in decoding: instead of an encoder-decoder it sees the embeddings x of the last W tokens,
/// zero before the first one, and R moving averages of all of them,
///   s_r <- decay_r s_r + (1 - decay_r) x_t,
///   logits = leave silu(enter [x_t, x_(t-1), .., x_(t-W+1), s_1, .., s_R] + bias) + bias.
/// It is trained as the paper's is, by binary cross-entropy on the paths of the model that it serves
/// (examples/models/kjv-mixtral/train_path_predictor.py). Const in use: threads may share it, each with its own states.
class PathPredictor {
 public:
  /// Throws Error for sizes below 1, for parts of other sizes, for decays outside [0, 1), and for weights that are NaN
  /// or infinite.
  explicit PathPredictor(PathPredictorWeights weights) : w_(std::move(weights)) { check(); }

  int vocabulary() const noexcept { return w_.vocabulary; }
  int layers() const noexcept { return w_.layers; }
  int experts() const noexcept { return w_.experts; }
  /// Columns of the logits: layers * experts.
  int outputs() const noexcept { return w_.layers * w_.experts; }
  const PathPredictorWeights& weights() const noexcept { return w_; }

  /// Before the first token of a sequence.
  PathPredictorState begin() const { return {std::vector<float>(inputs(), 0.0f), {}, {}}; }

  /// The tokens are the next ones of the state's sequence. `logits` [tokens, outputs()] get their paths; without rows
  /// the tokens are only remembered. The executor multiplies. Throws Error for a token outside the vocabulary, for
  /// other shapes and for a state of another predictor, and then changes nothing. O(h ((W + R) d + layers experts)) a
  /// token; allocates when more tokens come at once than before.
  template <class Executor>
  void advance(const Executor& executor, PathPredictorState& state, Row<const int> tokens, View<float> logits) const {
    check_call(state, tokens, logits);
    if (logits.rows > 0) reserve(state, tokens.size());
    for (int first = 0; first < tokens.size(); first += block) {
      const int rows = tokens.size() - first < block ? tokens.size() - first : block;
      for (int t = 0; t < rows; ++t) {
        remember(state, tokens[first + t]);
        if (logits.rows == 0) continue;
        std::copy(state.inputs.begin(), state.inputs.end(),
                  state.inputs_of_rows.begin() + t * static_cast<std::ptrdiff_t>(state.inputs.size()));
      }
      if (logits.rows > 0) predict(executor, state, logits.slice(first, rows));
    }
  }

 private:
  static constexpr const char* where = "moe::PathPredictor";
  static constexpr int block = 32;  // tokens that are predicted together

  std::size_t inputs() const noexcept {
    return (static_cast<std::size_t>(w_.window) + w_.decays.size()) * static_cast<std::size_t>(w_.width);
  }
  static void require_size(const char* what, std::size_t expected, const std::vector<float>& found) {
    require_equal(where, what, expected, found.size());
    for (const float value : found)
      if (!std::isfinite(value)) raise(Error(where, what, "finite numbers", std::to_string(value)));
  }
  void check() const {
    const auto at_least_one = [](const char* what, int found) {
      if (found < 1) raise(Error(where, what, "at least 1", std::to_string(found)));
      return static_cast<std::size_t>(found);
    };
    const std::size_t v = at_least_one("token ids", w_.vocabulary), d = at_least_one("width", w_.width);
    const std::size_t h = at_least_one("hidden units", w_.hidden), l = at_least_one("layers", w_.layers);
    const std::size_t e = at_least_one("experts", w_.experts), w = at_least_one("window", w_.window);
    constexpr std::size_t most = std::numeric_limits<int>::max();
    if (w_.decays.size() > most || w + w_.decays.size() > most / d)
      raise(Error(where, "window and decays", concat("at most ", most / d), "more"));
    if (l > most / e) raise(Error(where, "experts of all layers", concat("at most ", most), "more"));
    for (const float decay : w_.decays)
      if (!(decay >= 0 && decay < 1)) raise(Error(where, "decay", "in [0, 1)", std::to_string(decay)));
    require_size("embedding", v * d, w_.embedding);
    require_size("enter", h * inputs(), w_.enter);
    require_size("bias of enter", h, w_.enter_bias);
    require_size("leave", l * e * h, w_.leave);
    require_size("bias of leave", l * e, w_.leave_bias);
  }
  void check_call(const PathPredictorState& state, Row<const int> tokens, View<float> logits) const {
    constexpr const char* here = "moe::PathPredictor::advance";
    require_equal(here, "inputs of the state", inputs(), state.inputs.size());
    if (logits.rows != 0) {
      require_equal(here, "rows of logits", tokens.size(), logits.rows);
      require_equal(here, "columns of logits", outputs(), logits.cols);
    }
    for (const int token : tokens)
      if (token < 0 || token >= w_.vocabulary)
        raise(Error(here, "token id", concat("0 to ", w_.vocabulary - 1), std::to_string(token)));
  }

  void remember(PathPredictorState& state, int token) const noexcept {
    const auto d = static_cast<std::size_t>(w_.width), window = static_cast<std::size_t>(w_.window) * d;
    const float* embedding = w_.embedding.data() + static_cast<std::size_t>(token) * d;
    float* inputs = state.inputs.data();
    std::memmove(inputs + d, inputs, (window - d) * sizeof(float));
    std::memcpy(inputs, embedding, d * sizeof(float));
    float* average = inputs + window;
    for (const float decay : w_.decays)
      for (std::size_t i = 0; i < d; ++i, ++average) *average += (1 - decay) * (embedding[i] - *average);
  }
  void reserve(PathPredictorState& state, int tokens) const {
    const auto rows = static_cast<std::size_t>(tokens < block ? tokens : block);
    if (state.inputs_of_rows.size() < rows * inputs()) state.inputs_of_rows.resize(rows * inputs());
    const std::size_t units = rows * static_cast<std::size_t>(w_.hidden);
    if (state.hidden_of_rows.size() < units) state.hidden_of_rows.resize(units);
  }
  template <class Executor>
  void predict(const Executor& executor, PathPredictorState& state, View<float> logits) const {
    const int width = static_cast<int>(inputs());
    const View<const float> in(state.inputs_of_rows.data(), logits.rows, width);
    const View<float> hidden(state.hidden_of_rows.data(), logits.rows, w_.hidden);
    Frame<> none;
    executor.linear(none, in, View<const float>(w_.enter.data(), w_.hidden, width), w_.enter_bias.data(), hidden);
    // moe::silu gives the same bits everywhere, at a price that a guess need not pay.
    for (int t = 0; t < hidden.rows; ++t)
      for (float& unit : hidden.row(t)) unit /= 1 + std::exp(-unit);
    executor.linear(none, hidden, View<const float>(w_.leave.data(), outputs(), w_.hidden), w_.leave_bias.data(),
                    logits);
  }

  PathPredictorWeights w_;
};

/// The logits of one layer among those of all [T, layers experts], in place: Call::logits of MoELayer::prefetch.
inline View<const float> logits_of_layer(View<const float> all, int experts, int layer) {
  if (experts < 1 || layer < 0 || layer >= all.cols / experts)
    raise(Error("moe::logits_of_layer", "layer", concat("one of ", experts < 1 ? 0 : all.cols / experts),
                std::to_string(layer)));
  return {all.data + std::ptrdiff_t{layer} * experts, all.rows, experts, all.stride};
}

/// Calls `visit(layer, expert, probability)` once for every expert that is among the k likeliest of some token, layer
/// by layer and by id: what ExpertCache::plan wants to know. The probability is sigmoid(logit), the largest of the
/// tokens that pick it. Same errors as `top_paths`. O(T layers experts k).
template <class Visit>
void for_each_predicted(View<const float> logits, int experts, int k, Visit&& visit) {
  const RoutingPaths paths = top_paths(logits, experts, k);
  for (int l = 0; l < paths.layers(); ++l)
    for (int e = 0; e < experts; ++e) {
      float largest = -1;
      for (int t = 0; t < logits.rows; ++t)
        if (paths.test(t, l, e)) {
          const float p = sigmoid(logits.row(t)[l * experts + e]);
          largest = p > largest ? p : largest;
        }
      if (largest >= 0) visit(l, ExpertId{e}, largest);
    }
}

}  // namespace moe

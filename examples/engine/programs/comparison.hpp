// What compare_policies measures of a model under a policy: quality on a text, and the speed of decoding.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "contrast.hpp"
#include "sequence.hpp"

namespace programs {

/// How well a text was predicted.
struct Quality {
  double bits = 0;           // of all scored tokens
  std::int64_t scored = 0;   // tokens
  std::int64_t right = 0;    // that were the likeliest
  std::int64_t outside = 0;  // that the contrast's cut had excluded
  double experts_per_token = 0;

  double bits_per_byte() const { return bits / static_cast<double>(scored); }
  double share_right() const { return static_cast<double>(right) / static_cast<double>(scored); }
  double share_outside() const { return static_cast<double>(outside) / static_cast<double>(scored); }
};

/// Called with the tokens that were worked off since the last time.
using Done = std::function<void(std::int64_t tokens)>;

/// Windows of `window` tokens, each read from its beginning; every token but the first of a window is scored.
Quality score(engine::Model& model, std::span<const int> text, int window, const Done& done);

struct ContrastQuality {
  std::vector<Quality> by_beta;
  double fresh_share = 0;  // of the weak stream's picks: those that the strong stream did not make for that token
};

/// The two streams of a model under `TwoStreams`, read once, contrasted with every beta. Bits are those of the softmax
/// of the contrasted logits over the whole vocabulary: with the cut, a single excluded token would cost infinitely
/// many. What the cut at `alpha` excludes is counted beside them, and `right` obeys it.
ContrastQuality score_contrast(engine::Model& model, std::span<const int> text, int window, float alpha,
                               std::span<const float> betas, const Done& done);

/// One way to decode, timed: reads a prompt, then goes on token by token.
class Contestant {
 public:
  enum class How { one_stream, fused_streams, two_passes };

  Contestant(engine::Model& model, engine::Policy policy, How how)
      : model_(model), policy_(std::move(policy)), how_(how) {}

  /// Seconds that `text` took token by token after `prompt`. The tokens are given, so that all contestants read the
  /// same.
  double seconds(std::span<const int> prompt, std::span<const int> text) const;

 private:
  engine::Model& model_;
  engine::Policy policy_;
  How how_;
};

/// Tokens per second of every contestant: the median over rounds in which each takes its turn.
std::vector<double> race(std::span<const Contestant> contestants, std::span<const int> prompt,
                         std::span<const int> text, int rounds, const Done& done);

/// The shift of the null experts' logits at which the text's load is nearest to `load`, by bisection.
float shift_for_load(engine::Model& model, std::span<const int> text, int window, double load, const Done& done);
/// Halvings of `shift_for_load`: each costs a pass over the text.
inline constexpr int shift_halvings = 12;

}  // namespace programs

// Made-up routing traces whose locality is set by three knobs; the same bits on every machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <moe/math.hpp>
#include <moe/offline/trace.hpp>

namespace moe {

/// Logits are tau * (b + 1.6 s): b is a sequence's fixed taste, s changes from token to token.
struct TraceShape {
  int layers = 8, experts = 8, k = 2;
  int sequences = 4, tokens = 128;  // tokens of each sequence
  int batch = 1;                    // sequences that run together: a layer sees a token of each before the next layer
  double bias = 1;                  // b ~ bias * N(0,1), for every layer and expert: favours LFU
  double rho = 0.75;                // s <- rho s + sqrt(1 - rho^2) N(0,1): stickiness, favours LRU
  double tau = 0.8;                 // sharpness: how unequal the weights are
  std::uint64_t seed = 0;
};

namespace detail {

/// Fixed point with 24 fractional bits: floating-point sums may be contracted by one compiler and not by another, and
/// exponentials differ between mathematical libraries; integers do not.
namespace fixed {
inline constexpr int bits = 24;
inline constexpr std::int64_t one = std::int64_t{1} << bits;

inline std::int64_t from(double x) noexcept { return std::llround(x * static_cast<double>(one)); }
inline std::int64_t times(std::int64_t a, std::int64_t b) noexcept { return (a * b) >> bits; }
/// Rounded down.
inline std::int64_t root(std::int64_t x) noexcept {
  std::uint64_t result = 0;
  const auto square = static_cast<std::uint64_t>(x) << bits;
  for (std::uint64_t bit = std::uint64_t{1} << 28; bit != 0; bit >>= 1)
    if ((result + bit) * (result + bit) <= square) result += bit;
  return static_cast<std::int64_t>(result);
}
/// e^x for x <= 0, with 40 fractional bits: halved as often as x holds ln 2, the rest by its series.
inline std::int64_t exp_of_negative(std::int64_t x) noexcept {
  constexpr std::int64_t ln2 = 11629080, one40 = std::int64_t{1} << 40;
  const std::int64_t halvings = -x / ln2, rest = x + halvings * ln2;  // in (-ln 2, 0]
  if (halvings > 40) return 0;
  std::int64_t sum = one40, term = one40;
  for (int n = 1; n <= 14; ++n) {
    term = ((term >> 16) * rest >> 8) / n;
    sum += term;
  }
  return sum >> halvings;
}
}  // namespace fixed

/// One sequence of a made-up trace.
class GeneratedSequence {
 public:
  GeneratedSequence(const TraceShape& shape, int sequence)
      : shape_(shape),
        state_(shape.seed ^ (0xd1342543de82ef95ull * (static_cast<std::uint64_t>(sequence) + 1))),
        rho_(fixed::from(shape.rho)),
        fresh_(fixed::root(fixed::one - fixed::times(rho_, rho_))),
        taste_(cells()),
        mood_(cells()) {
    for (std::int64_t& b : taste_) b = fixed::times(fixed::from(shape.bias), normal());
    for (std::int64_t& s : mood_) s = normal();
  }

  /// To the next token.
  void advance() noexcept {
    for (std::int64_t& s : mood_) s = fixed::times(rho_, s) + fixed::times(fresh_, normal());
  }
  /// The current token's choices in a layer; valid until the next call.
  Row<const Slot> picks(int layer) {
    const std::size_t first = static_cast<std::size_t>(layer) * static_cast<std::size_t>(shape_.experts);
    logits_.clear();
    for (std::size_t e = 0; e < static_cast<std::size_t>(shape_.experts); ++e)
      logits_.push_back(
          {fixed::times(fixed::from(shape_.tau), taste_[first + e] + fixed::times(fixed::from(1.6), mood_[first + e])),
           static_cast<ExpertId>(e)});
    const auto chosen = logits_.begin() + shape_.k;
    std::partial_sort(logits_.begin(), chosen, logits_.end(), [](const Logit& a, const Logit& b) {
      return a.value != b.value ? a.value > b.value : a.expert < b.expert;
    });
    weigh();
    return {slots_.data(), shape_.k};
  }

 private:
  struct Logit {
    std::int64_t value;
    ExpertId expert;
  };

  std::size_t cells() const {
    return static_cast<std::size_t>(shape_.layers) * static_cast<std::size_t>(shape_.experts);
  }
  /// The softmax of the chosen logits: as the softmax of all, renormalised. One division, which is exact to the bit.
  void weigh() {
    slots_.clear();
    masses_.clear();
    std::int64_t total = 0;
    for (int i = 0; i < shape_.k; ++i) {
      const Logit& chosen = logits_[static_cast<std::size_t>(i)];
      masses_.push_back(fixed::exp_of_negative(chosen.value - logits_[0].value));
      total += masses_.back();
    }
    for (int i = 0; i < shape_.k; ++i) {
      const double share = static_cast<double>(masses_[static_cast<std::size_t>(i)]) / static_cast<double>(total);
      slots_.push_back({logits_[static_cast<std::size_t>(i)].expert, static_cast<float>(share)});
    }
  }
  /// Close to N(0,1): the sum of 12 uniform numbers, whose variance is 1, less 6.
  std::int64_t normal() noexcept {
    std::int64_t sum = -6 * fixed::one;
    for (int i = 0; i < 6; ++i) {
      const std::uint64_t two = next_random(state_);
      sum += static_cast<std::int64_t>((two >> 40) + (two & 0xffffff));
    }
    return sum;
  }

  const TraceShape shape_;
  std::uint64_t state_;
  std::int64_t rho_, fresh_;
  std::vector<std::int64_t> taste_, mood_, masses_;  // the first two [L,E]
  std::vector<Logit> logits_;
  std::vector<Slot> slots_;
};

inline void check_trace_shape(const TraceShape& s) {
  constexpr const char* where = "moe::generate_trace";
  const auto check = [](const char* what, bool holds, const char* expected, const std::string& found) {
    if (!holds) raise(Error(where, what, expected, found));
  };
  for (const int size : {s.layers, s.experts, s.k, s.sequences, s.tokens, s.batch})
    check("layers, experts, k, sequences, tokens, batch", size > 0, "at least 1", std::to_string(size));
  check("k", s.k <= s.experts, "at most the experts", std::to_string(s.k));
  // Within these the sums of fixed-point numbers cannot overflow.
  for (const double knob : {s.bias, s.tau})
    check("bias, tau", knob >= 0 && knob <= 64, "0 to 64", std::to_string(knob));
  check("rho", s.rho >= 0 && s.rho <= 1, "0 to 1", std::to_string(s.rho));
}

}  // namespace detail

/// A trace with adjustable locality: every sequence draws a taste for each layer's experts; every token moves an AR(1)
/// state; the k largest of tau * (taste + 1.6 state) are picked, with renormalised softmax weights. With 8 experts and
/// k=2 the defaults give Mixtral's split of selections by HOBBIT's thresholds (0.67 / 0.30 / 0.03); rho=0.3, bias=1.5,
/// tau=0.62 favour LFU over LRU. Bit-identical everywhere, and a sequence does not depend on how many run together.
/// Throws Error for impossible sizes. O(sequences * tokens * layers * experts).
inline RoutingTrace generate_trace(const TraceShape& shape) {
  detail::check_trace_shape(shape);
  RoutingTrace trace(shape.layers, shape.experts, shape.k);
  for (int first = 0; first < shape.sequences; first += shape.batch) {
    std::vector<detail::GeneratedSequence> running;
    for (int s = first; s < std::min(first + shape.batch, shape.sequences); ++s) running.emplace_back(shape, s);
    for (int token = 0; token < shape.tokens; ++token) {
      for (int layer = 0; layer < shape.layers; ++layer)
        for (std::size_t s = 0; s < running.size(); ++s)
          trace.add(first + static_cast<int>(s), token, layer, running[s].picks(layer));
      for (detail::GeneratedSequence& sequence : running) sequence.advance();
    }
  }
  return trace;
}

}  // namespace moe

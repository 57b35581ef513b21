// Sampler: the next token from logits, greedy or by temperature.
#pragma once

#include <cstdint>
#include <moe/error.hpp>
#include <moe/math.hpp>
#include <moe/tensor.hpp>

namespace engine {

/// Random numbers that are the same on every machine and with every standard library (Steele et al. 2014, splitmix64).
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept { return moe::next_random(state_); }
  /// Uniform in [0, 1).
  double uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  std::uint64_t state_;
};

class Sampler {
 public:
  /// Temperature 0 is greedy. Throws moe::Error unless it is finite and not negative.
  Sampler(double temperature, std::uint64_t seed) : temperature_(temperature), random_(seed) {
    if (!(temperature >= 0 && temperature <= most)) {
      moe::raise(moe::Error("--temperature", "temperature", "0 to 1000", std::to_string(temperature)));
    }
  }

  /// Draws from softmax(logits / temperature). Logits that are NaN are never drawn; throws moe::Error if all are.
  int operator()(moe::Row<const float> logits) {
    const int best = greedy(logits);
    return temperature_ == 0 ? best : draw(logits, logits[best]);
  }

  /// The largest logit, the lower id among equals.
  static int greedy(moe::Row<const float> logits) {
    int best = -1;
    for (int i = 0; i < logits.size(); ++i) {
      if (logits[i] == logits[i] && (best < 0 || logits[i] > logits[best])) best = i;
    }
    if (best < 0) moe::raise(moe::Error("engine", "logits", "a number", "nothing but NaN: the model is broken"));
    return best;
  }

 private:
  static constexpr double most = 1000;

  int draw(moe::Row<const float> logits, float best) {
    double sum = 0;
    for (const float logit : logits) sum += weight(logit, best);
    double rest = random_.uniform() * sum;
    int last = 0;
    for (int i = 0; i < logits.size(); ++i) {
      const double w = weight(logits[i], best);
      if (w == 0) continue;
      last = i;
      if ((rest -= w) < 0) break;
    }
    return last;
  }
  double weight(float logit, float best) const {
    if (logit == best) return 1;  // also where both are infinite
    if (!(logit == logit)) return 0;
    const double distance = (static_cast<double>(logit) - static_cast<double>(best)) / temperature_;
    return static_cast<double>(moe::exp(static_cast<float>(distance)));
  }

  double temperature_;
  SplitMix64 random_;
};

}  // namespace engine

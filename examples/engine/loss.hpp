// Loss of logits: how surprised a model is by a token.
#pragma once

#include <algorithm>
#include <cmath>
#include <moe/tensor.hpp>

namespace engine {

/// -ln softmax(logits)[token], in double precision; infinite for a logit of minus infinity.
inline double nats(moe::Row<const float> logits, int token) {
  const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - static_cast<double>(logits[token]);
}
inline double bits(moe::Row<const float> logits, int token) { return nats(logits, token) / std::log(2.0); }

}  // namespace engine

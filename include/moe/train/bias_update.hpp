// Balancing without a loss: how selection biases follow the experts' loads from step to step.
#pragma once

#include <cmath>
#include <cstdint>

#include <moe/tensor.hpp>

namespace moe {

/// b_e += rate * sign(mean load - load_e) (Wang et al. 2024; DeepSeek-V3, rate 1e-3).
struct SignBiasUpdate {
  float rate = 1e-3f;

  void operator()(Row<const int> loads, Row<float> bias) const noexcept {
    std::int64_t sum = 0;
    for (const int load : loads) sum += load;
    for (int e = 0; e < loads.size(); ++e) {
      const std::int64_t ahead = sum - std::int64_t{loads[e]} * loads.size();
      bias[e] += ahead > 0 ? rate : (ahead < 0 ? -rate : 0.0f);
    }
  }
};

/// b_i += rate * (K_e / (K N) - T_i / (K T)) for the N real experts of LongCat-Flash: their loads T_i
/// go to K_e / N of the T rows, the rest of a row's K choices to the zero-computation experts, whose biases stay.
struct ShareBiasUpdate {
  float rate = 1e-3f;
  int choices = 1;          // K, per row
  double real_choices = 1;  // K_e, the mean number of real experts that a row is to have

  /// `loads` of the real experts come first in `bias`; `rows` is T.
  void operator()(Row<const int> loads, int rows, Row<float> bias) const noexcept {
    const double wanted = real_choices / (static_cast<double>(choices) * loads.size());
    for (int i = 0; i < loads.size(); ++i) {
      const double off = wanted - loads[i] / (static_cast<double>(choices) * rows);
      bias[i] = static_cast<float>(std::fma(static_cast<double>(rate), off, static_cast<double>(bias[i])));
    }
  }
};

}  // namespace moe

// CapacityFactor: how many rows an expert may have, exactly.
#pragma once

#include <cstdint>

#include <moe/tensor.hpp>

namespace moe {

/// A capacity factor as a fraction: 5/4 rather than 1.25f, which would round capacities up now and then.
struct CapacityFactor {
  int numerator = 1, denominator = 1;

  /// Rows per expert: ceil(rows * per_row * factor / experts), at least `minimum`, at most `rows`.
  MOE_HD int capacity(int rows, int per_row, int experts, int minimum) const noexcept {
    const std::int64_t wanted = std::int64_t{rows} * per_row * numerator;
    const std::int64_t among = std::int64_t{experts} * denominator;
    std::int64_t most = among > 0 ? pieces(wanted, among) : rows;
    if (most < minimum) most = minimum;
    return most < rows ? static_cast<int>(most) : rows;
  }
};

}  // namespace moe

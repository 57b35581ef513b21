// The largest of many, without memory: by insertion into slots, or by radix selection over keys.
#pragma once

#include <cstdint>

#include <moe/routing.hpp>
#include <moe/tensor.hpp>

namespace moe::detail {

/// Into a list of n slots in descending order of weight, at most out.size(); ties stay in order of arrival. Returns its
/// new length.
MOE_HD inline int insert_largest(Row<Slot> out, int n, Slot slot) noexcept {
  if (n == out.size() && (n == 0 || !(slot.weight > out[n - 1].weight))) return n;
  const int size = n < out.size() ? n + 1 : n;
  int at = size - 1;
  for (; at > 0 && slot.weight > out[at - 1].weight; --at) out[at] = out[at - 1];
  out[at] = slot;
  return size;
}

/// The same order as the floats', as integers; both zeros are equal.
MOE_HD inline std::uint32_t ordered_key(float value) noexcept {
  const auto bits = bit_cast<std::uint32_t>(value + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

/// Keys above `key` are in, and the first `equal` of those that equal it.
struct Cut {
  std::uint32_t key = 0;
  int equal = 0;

  /// Asked for every key in order.
  MOE_HD bool admits(std::uint32_t candidate) noexcept { return candidate > key || (candidate == key && equal-- > 0); }
};

/// Where to cut to keep the `kept` largest of key(begin) .. key(end - 1), 1 <= kept <= end - begin; the earlier of two
/// equal ones. A radix selection by digits of 4 bits: asks for every key 8 times.
template <class Keys>
MOE_HD Cut cut_at_largest(int begin, int end, int kept, const Keys& key) noexcept {
  Cut cut{0, kept};
  std::uint32_t known = 0;  // mask of the digits of the cut that are decided
  for (int shift = 28; shift >= 0; shift -= 4) {
    int count[16] = {};
    for (int i = begin; i < end; ++i)
      if (const std::uint32_t k = key(i); (k & known) == cut.key) ++count[(k >> shift) & 15u];
    int digit = 15;
    for (; digit > 0 && count[digit] < cut.equal; --digit) cut.equal -= count[digit];
    cut.key |= static_cast<std::uint32_t>(digit) << shift;
    known |= std::uint32_t{15} << shift;
  }
  return cut;
}

}  // namespace moe::detail

// Reads a FirstLayerGate from a safetensors file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <moe/io/network_tensors.hpp>
#include <moe/io/tensor_set.hpp>
#include <moe/predictors/first_gate.hpp>
#include <string_view>
#include <vector>

namespace moe::io {

/// Tensors `weight` [experts,hidden] and `bias` [experts], each in F32, BF16 or F16. Throws `IoError` that names the
/// file and the tensor when one is missing or does not fit the other, and Error for numbers that are not finite.
inline FirstLayerGate read_first_gate(const std::filesystem::path& file) {
  const TensorSet set(file);
  const int experts = detail::dimension_of(set, "bias", 1, 0), hidden = detail::dimension_of(set, "weight", 2, 1);
  const auto e = static_cast<std::uint64_t>(experts), h = static_cast<std::uint64_t>(hidden);
  const auto read = [&](std::string_view name, const detail::Shape& shape) {
    return detail::read_slice(set, detail::require_weights(set, name, shape), 0, 1);
  };
  return FirstLayerGate(experts, hidden, read("weight", {e, h}), read("bias", {e}));
}

}  // namespace moe::io

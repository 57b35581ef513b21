// Writes a TokenFrequencies to a safetensors file, and reads it back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <moe/io/network_tensors.hpp>
#include <moe/io/tensor_set.hpp>
#include <moe/predictors/token_frequencies.hpp>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

/// Tensors `tokens` I32 [N], `counts` U16 [N,layers,experts] and `totals` U64 [layers,experts]; N token ids have been
/// seen. The file appears whole or not at all; throws `IoError` when the disk refuses.
inline void write_token_frequencies(const std::filesystem::path& file, const TokenFrequencies& table) {
  const std::uint64_t n = table.tokens().size();
  const auto layers = static_cast<std::uint64_t>(table.shape().layers);
  const auto experts = static_cast<std::uint64_t>(table.shape().experts);
  const std::vector<TensorData> tensors = {
      {"tokens", Dtype::I32, {n}, std::as_bytes(std::span(table.tokens()))},
      {"counts", Dtype::U16, {n, layers, experts}, std::as_bytes(std::span(table.counts()))},
      {"totals", Dtype::U64, {layers, experts}, std::as_bytes(std::span(table.totals()))}};
  write_safetensors(file, tensors);
}

/// Reads it into a table of this shape, with this prior. Throws `IoError` that names the file and the tensor where one
/// is missing or has another type or shape, and Error for more ids than rows, ids outside the vocabulary or twice.
inline TokenFrequencies read_token_frequencies(const std::filesystem::path& file, TokenFrequenciesShape shape,
                                               float prior = 2) {
  TokenFrequencies table(shape, prior);
  const TensorSet set(file);
  const TensorInfo& ids = set.at("tokens");
  const std::uint64_t n = ids.shape.size() == 1 ? ids.shape[0] : 0;
  const auto layers = static_cast<std::uint64_t>(shape.layers), experts = static_cast<std::uint64_t>(shape.experts);
  const auto read = [&]<class T>(std::string_view name, const detail::Shape& wanted, Dtype type, T) {
    const TensorInfo& tensor = detail::require_tensor(set, name, wanted, std::span(&type, 1));
    std::vector<T> values(static_cast<std::size_t>(tensor.bytes) / sizeof(T));
    set.read(tensor, std::as_writable_bytes(std::span(values)));
    return values;
  };
  auto tokens = read("tokens", {n}, Dtype::I32, std::int32_t{});
  auto counts = read("counts", {n, layers, experts}, Dtype::U16, std::uint16_t{});
  auto totals = read("totals", {layers, experts}, Dtype::U64, std::uint64_t{});
  table.restore(std::move(tokens), std::move(counts), std::move(totals));
  return table;
}

}  // namespace moe::io

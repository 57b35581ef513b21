// Reads a PathPredictor from a safetensors file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <moe/io/network_tensors.hpp>
#include <moe/io/tensor_set.hpp>
#include <moe/predictors/path_predictor.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moe::io {

/// Tensors `decays` [R], `embedding` [V,d], `enter.weight` [h,W + R,d], `enter.bias` [h], `leave.weight`
/// [layers,experts,h] and `leave.bias` [layers,experts], each in F32, BF16 or F16; W follows. Throws `IoError` that
/// names the file and the tensor when one is missing or does not fit the others, and Error for numbers that are not
/// finite and decays outside [0, 1).
inline PathPredictor read_path_predictor(const std::filesystem::path& file) {
  const TensorSet set(file);
  const auto size = [&](std::string_view name, std::size_t rank, std::size_t dimension) {
    return detail::dimension_of(set, name, rank, dimension);
  };
  const auto read = [&](std::string_view name, const detail::Shape& shape) {
    return detail::read_slice(set, detail::require_weights(set, name, shape), 0, 1);
  };
  PathPredictorWeights w;
  w.vocabulary = size("embedding", 2, 0);
  w.width = size("embedding", 2, 1);
  w.hidden = size("enter.bias", 1, 0);
  w.layers = size("leave.bias", 2, 0);
  w.experts = size("leave.bias", 2, 1);
  const auto as64 = [](int n) { return static_cast<std::uint64_t>(n); };
  const std::uint64_t d = as64(w.width), h = as64(w.hidden), l = as64(w.layers), e = as64(w.experts);
  const std::uint64_t inputs = as64(size("enter.weight", 3, 1)), r = as64(size("decays", 1, 0));
  if (inputs <= r)
    raise(IoError(set.place(set.at("enter.weight")), "dimension 1", concat("more than the ", r, " decays"),
                  std::to_string(inputs)));
  w.window = static_cast<int>(inputs - r);
  w.decays = read("decays", {r});
  w.embedding = read("embedding", {as64(w.vocabulary), d});
  w.enter = read("enter.weight", {h, inputs, d});
  w.enter_bias = read("enter.bias", {h});
  w.leave = read("leave.weight", {l, e, h});
  w.leave_bias = read("leave.bias", {l, e});
  return PathPredictor(std::move(w));
}

}  // namespace moe::io

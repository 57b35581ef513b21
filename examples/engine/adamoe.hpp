// AdaMoE: a model with null experts, stored as a directory of what changed beside the model that it was tuned from.
#pragma once

#include <filesystem>
#include <memory>
#include <moe/io/checkpoint.hpp>

#include "dense.hpp"
#include "policy.hpp"

namespace engine {

/// `num_null_experts` and `num_experts_per_tok` of the directory's config.json. Throws moe::IoError.
TrainedNulls load_nulls(const std::filesystem::path& adamoe);

/// The model of `base` under the tensors of `adamoe`/adamoe.safetensors. Throws moe::IoError unless each of them
/// replaces one of the base, in its shape, or is the gate [nulls, H] of a layer's null experts, and every layer with
/// experts has one.
std::shared_ptr<const moe::io::Checkpoint> open_adamoe(const std::filesystem::path& base,
                                                       const std::filesystem::path& adamoe);

/// The gate of a layer: [experts + nulls, H]. Throws moe::IoError as moe::io::Checkpoint::gate does.
Matrix gate_with_nulls(const moe::io::Checkpoint& checkpoint, int layer, const TrainedNulls& nulls);

}  // namespace engine

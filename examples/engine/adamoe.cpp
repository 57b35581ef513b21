#include "adamoe.hpp"

#include <cmath>
#include <string>
#include <utility>

namespace engine {

namespace {

using moe::io::Checkpoint;
using moe::io::ModelConfig;

/// As the checkpoints of the authors' code name it, beside the gate of the true experts.
std::string null_gate_name(const Checkpoint& checkpoint, int layer) {
  std::string name = checkpoint.layer_tensor(layer, checkpoint.blocks().gate.weight.front());
  const std::string tail = "gate.weight";
  return name.replace(name.rfind(tail), tail.size(), "gate2.weight");
}

void check_added(const Checkpoint& checkpoint, const std::filesystem::path& base, const TrainedNulls& nulls) {
  const ModelConfig& config = checkpoint.config();
  std::size_t gates = 0;
  for (int layer = 0; layer < config.layers(); ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    checkpoint.require(null_gate_name(checkpoint, layer), {nulls.count, config.hidden()});
    ++gates;
  }
  const moe::io::TensorSet before(base);
  const moe::io::TensorSet& tensors = checkpoint.tensors();
  if (tensors.size() == before.size() + gates) return;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (before.find(tensors[i].name) != nullptr || tensors[i].name.ends_with("gate2.weight")) continue;
    moe::raise(moe::IoError(tensors.place(tensors[i]), "added tensor", "one that the base has, or a gate of nulls",
                            "another one"));
  }
}

}  // namespace

TrainedNulls load_nulls(const std::filesystem::path& adamoe) {
  const std::filesystem::path file = adamoe / "config.json";
  const moe::io::Json root =
      moe::io::parse_json(moe::io::read_text(file, moe::io::ModelLimits::file_bytes), file.string());
  const moe::io::ConfigReader config(root, file.string());
  TrainedNulls nulls;
  nulls.count = config.integer({"num_null_experts"}, 1, moe::io::ModelLimits::experts);
  nulls.picks = config.integer({"num_experts_per_tok"}, 1, moe::io::ModelLimits::experts);
  return nulls;
}

std::shared_ptr<const Checkpoint> open_adamoe(const std::filesystem::path& base, const std::filesystem::path& adamoe) {
  auto checkpoint = std::make_shared<const Checkpoint>(base, moe::io::TensorSet(base, adamoe / "adamoe.safetensors"));
  check_added(*checkpoint, base, load_nulls(adamoe));
  return checkpoint;
}

Matrix gate_with_nulls(const Checkpoint& checkpoint, int layer, const TrainedNulls& nulls) {
  const ModelConfig& config = checkpoint.config();
  std::vector<float> gate = checkpoint.gate(layer);
  if (nulls.count > 0) {
    const std::string name = null_gate_name(checkpoint, layer);
    const std::vector<float> rows = checkpoint.read_f32(name, {nulls.count, config.hidden()});
    for (const float value : rows) {
      if (std::isfinite(value)) continue;
      moe::raise(moe::IoError(checkpoint.tensors().place(checkpoint.tensors().at(name)), "element", "a finite number",
                              std::to_string(value)));
    }
    gate.insert(gate.end(), rows.begin(), rows.end());
  }
  return {std::move(gate), config.experts() + nulls.count, config.hidden()};
}

}  // namespace engine

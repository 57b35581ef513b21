// Model directories: every role finds its tensor, and nothing is loaded from one that lacks or bends something.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <moe/concepts.hpp>
#include <moe/io/checkpoint.hpp>
#include <string>
#include <vector>

#include "io/golden_model.hpp"

using namespace io_test;
using moe::io::Checkpoint;
using moe::io::CheckpointExperts;
using moe::io::Dtype;
using moe::io::Json;
using moe::io::TensorData;
using moe::io::TensorInfo;
using moe::io::TensorSet;

static_assert(moe::RecordSource<CheckpointExperts<float>>);
static_assert(moe::RecordSource<CheckpointExperts<moe::q8_0>>);

namespace {

float float_at(const Model::Tensor& tensor, std::size_t i) {
  float value;
  std::memcpy(&value, tensor.bytes.data() + 4 * i, 4);
  return value;
}

/// Whether a matrix shows exactly this f32 tensor.
bool same(const moe::Matrix& matrix, const Model::Tensor& tensor) {
  bool equal = matrix.rows == static_cast<int>(tensor.shape[0]) && matrix.cols == static_cast<int>(tensor.shape[1]);
  for (int r = 0; equal && r < matrix.rows; ++r) {
    for (int c = 0; c < matrix.cols; ++c) {
      equal = equal && matrix.at(r, c) == float_at(tensor, static_cast<std::size_t>(r * matrix.cols + c));
    }
  }
  return equal;
}

struct Expected {
  const char *family, *gate, *expert_gate, *expert_up, *expert_down;
};
const Expected expected[] = {
    {"mixtral", "model.layers.1.block_sparse_moe.gate.weight", "model.layers.1.block_sparse_moe.experts.3.w1.weight",
     "model.layers.1.block_sparse_moe.experts.3.w3.weight", "model.layers.1.block_sparse_moe.experts.3.w2.weight"},
    {"qwen3_moe", "model.layers.1.mlp.gate.weight", "model.layers.1.mlp.experts.3.gate_proj.weight",
     "model.layers.1.mlp.experts.3.up_proj.weight", "model.layers.1.mlp.experts.3.down_proj.weight"},
    {"olmoe", "model.layers.1.mlp.gate.weight", "model.layers.1.mlp.experts.3.gate_proj.weight",
     "model.layers.1.mlp.experts.3.up_proj.weight", "model.layers.1.mlp.experts.3.down_proj.weight"},
};

const std::string mixtral_gate = "model.layers.0.block_sparse_moe.gate.weight";
const std::string mixtral_w1 = "model.layers.1.block_sparse_moe.experts.7.w1.weight";

}  // namespace

TEST_CASE("gate and experts of each family are the tensors of their names, bit for bit") {
  for (const Expected& e : expected) {
    CAPTURE(e.family);
    const Model model(e.family);
    const Checkpoint checkpoint(golden + e.family);
    CHECK(checkpoint.default_format() == moe::ElementType::float32);
    const std::vector<float> gate = checkpoint.gate(1);
    const Model::Tensor& stored = model.tensors.at(e.gate);
    REQUIRE(gate.size() * 4 == stored.bytes.size());
    CHECK(std::memcmp(gate.data(), stored.bytes.data(), stored.bytes.size()) == 0);
    const moe::io::ExpertTensors expert = checkpoint.expert(1, 3);
    CHECK(same(expert.matrices().gate, model.tensors.at(e.expert_gate)));
    CHECK(same(expert.matrices().up, model.tensors.at(e.expert_up)));
    CHECK(same(expert.matrices().down, model.tensors.at(e.expert_down)));
  }
}

TEST_CASE("another weights file beside the config gives the same model in bf16") {
  for (const Expected& e : expected) {
    CAPTURE(e.family);
    const Checkpoint exact(golden + e.family);
    const Checkpoint rounded(golden + e.family, "model.bf16.safetensors");
    CHECK(rounded.default_format() == moe::ElementType::bfloat16);
    CHECK(rounded.is_language_model());
    CHECK(rounded.config().heads == exact.config().heads);
    const moe::io::ExpertTensors a = exact.expert(0, 5), b = rounded.expert(0, 5);
    CHECK(b.matrices().up.type == moe::ElementType::bfloat16);
    for (int r = 0; r < a.matrices().up.rows; ++r) {
      for (int c = 0; c < a.matrices().up.cols; ++c) {
        REQUIRE(b.matrices().up.at(r, c) == float(moe::bf16(a.matrices().up.at(r, c))));
      }
    }
    const std::vector<float> x = exact.gate(0), y = rounded.gate(0);
    for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(y[i] == float(moe::bf16(x[i])));
  }
}

TEST_CASE("a sharded checkpoint is the same model") {
  const Model model("olmoe");
  model.write_sharded();
  const Checkpoint whole(concat(golden, "olmoe")), sharded(model.folder.path());
  CHECK(sharded.tensors().files().size() == 3);
  CHECK(sharded.tensors().bytes() == whole.tensors().bytes());
  CHECK(sharded.gate(0) == whole.gate(0));
  const moe::io::ExpertTensors a = whole.expert(1, 11), b = sharded.expert(1, 11);
  CHECK(std::memcmp(a.matrices().down.data, b.matrices().down.data, 64 * 24 * 4) == 0);
}

TEST_CASE("a checkpoint that lacks a tensor is refused when it is opened") {
  for (const std::string& name : {mixtral_gate, mixtral_w1}) {
    Model model("mixtral");
    model.tensors.erase(name);
    CHECK(contains(model.message(), concat("model.safetensors: tensor \"", name, "\": missing")));
  }
  Model model("mixtral");
  model.config["num_hidden_layers"] = 3;
  CHECK(contains(model.message(), "tensor \"model.layers.2.block_sparse_moe.gate.weight\": missing"));
  model.config["num_hidden_layers"] = 2;
  model.config["num_local_experts"] = 9;
  CHECK(contains(model.message(), "gate.weight\" at byte "));
}

TEST_CASE("a tensor of another shape is refused when the checkpoint is opened") {
  Model model("mixtral");
  model.tensors.at(mixtral_w1).shape = {64, 40};
  const std::string message = model.message();
  CHECK(contains(message, concat("tensor \"", mixtral_w1, "\" at byte ")));
  CHECK(contains(message, ": shape: expected [40, 64], found [64, 40]"));
  model.tensors.at(mixtral_w1).shape = {2560};
  CHECK(contains(model.message(), "expected [40, 64], found [2560]"));
  model.tensors.at(mixtral_w1).shape = {1, 40, 64};
  CHECK(contains(model.message(), "expected [40, 64], found [1, 40, 64]"));
  Model wider("mixtral");
  wider.config["intermediate_size"] = 41;
  CHECK(contains(wider.message(), "experts.0.w1.weight\" at byte "));
  CHECK(contains(wider.message(), ": shape: expected [41, 64], found [40, 64]"));
  Model gate("qwen3_moe");
  gate.tensors.at("model.layers.1.mlp.gate.weight").shape = {64, 12};
  CHECK(contains(gate.message(), ": shape: expected [12, 64], found [64, 12]"));
}

TEST_CASE("a tensor of a type that nothing computes with is refused when the checkpoint is opened") {
  Model model("mixtral");
  model.tensors.at(mixtral_w1).dtype = Dtype::I32;
  CHECK(contains(model.message(), concat("tensor \"", mixtral_w1, "\" at byte ")));
  CHECK(contains(model.message(), ": element type: expected F32, BF16 or F16, found I32"));
}

TEST_CASE("a gate with NaN or infinity is refused with its place") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {std::nanf(""), infinity, -infinity}) {
    Model model("mixtral");
    model.set_float(mixtral_gate, 3 * 64 + 5, value);
    model.write();
    const Checkpoint checkpoint(model.folder.path());
    const std::string message = message_of([&] { checkpoint.gate(0); });
    CHECK(contains(message, concat("model.safetensors: tensor \"", mixtral_gate, "\" at byte ")));
    CHECK(contains(message, "element [3, 5]: expected a finite number, found "));
    CHECK(checkpoint.gate(1).size() == 512);
  }
}

TEST_CASE("a config that asks for more picks than experts is refused before any weight is touched") {
  Model model("qwen3_moe");
  model.config["num_experts_per_tok"] = 13;
  CHECK(contains(model.message(),
                 "config.json: key \"num_experts_per_tok\": value: expected at most the 12 experts, found 13"));
}

TEST_CASE("a folder without a config, or without weights, is refused") {
  const TemporaryFolder folder;
  const auto message = [&] { return message_of([&] { Checkpoint checkpoint(folder.path()); }); };
  CHECK(contains(message(), "config.json: cannot be opened"));
  write_file(folder / "config.json", read_file(concat(golden, "mixtral/config.json")));
  CHECK(contains(message(), "expected model.safetensors.index.json or model.safetensors, found neither"));
}

TEST_CASE("layers without experts are checked and read by their own names") {
  Model model("qwen3_moe");
  model.config["mlp_only_layers"] = {0};
  CHECK(contains(model.message(), "tensor \"model.layers.0.mlp.gate_proj.weight\": missing"));
  const std::string bytes(80 * 64 * 4, '\0');
  model.tensors["model.layers.0.mlp.gate_proj.weight"] = {Dtype::F32, {80, 64}, bytes};
  model.tensors["model.layers.0.mlp.up_proj.weight"] = {Dtype::F32, {80, 64}, bytes};
  model.tensors["model.layers.0.mlp.down_proj.weight"] = {Dtype::F32, {64, 80}, bytes};
  model.write();
  const Checkpoint checkpoint(model.folder.path());
  const moe::io::ExpertTensors dense = checkpoint.dense(0);
  CHECK(dense.matrices().down.cols == 80);
  CHECK(checkpoint.gate(1).size() == 12 * 64);
  model.config["mlp_only_layers"] = {0, 1};
  for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
    const std::string tail = concat(".mlp.", name, ".weight");
    model.tensors[concat("model.layers.1", tail)] = model.tensors.at(concat("model.layers.0", tail));
  }
  CHECK(contains(model.message(), "expected a layer with experts, found none"));
}

TEST_CASE("the engine's other tensors pass the same checks") {
  const Checkpoint checkpoint(concat(golden, "mixtral"));
  CHECK(checkpoint.read_f32("model.norm.weight", {64}).size() == 64);
  CHECK(
      contains(message_of([&] { checkpoint.require("model.norm.weight", {65}); }), "shape: expected [65], found [64]"));
  CHECK(contains(message_of([&] { checkpoint.require("model.nrm.weight", {64}); }),
                 "tensor \"model.nrm.weight\": missing"));
}

TEST_CASE("experts packed from a checkpoint hold the checkpoint's weights") {
  const auto checkpoint = std::make_shared<const Checkpoint>(concat(golden, "mixtral"));
  const CheckpointExperts<float> source(checkpoint, 1);
  CHECK(source.shape() == moe::ExpertShape{64, 40, true, false});
  CHECK(source.num_experts() == 8);
  moe::Buffer record(source.bytes(0));
  bool answered = false;
  source.read({2, 0, record.data(),
               [](void* who, const moe::Error* error) noexcept { *static_cast<bool*>(who) = error == nullptr; },
               &answered});
  CHECK(answered);
  const moe::io::ExpertTensors expert = checkpoint->expert(1, 2);
  const moe::Matrix& down = expert.matrices().down;
  const moe::RecordOffsets offsets = moe::PanelLayout::offsets<float>(source.shape());
  const std::size_t panel = moe::PanelLayout::panel_bytes<float>(40);
  for (int r = 0; r < 64; ++r) {
    for (int c = 0; c < 40; ++c) {
      REQUIRE(moe::PanelLayout::element<float>(record.data() + offsets.down, panel, r, c) == down.at(r, c));
    }
  }
}

TEST_CASE("a read that fails is answered with its error, and the source stays usable") {
  Model model("mixtral");
  model.write();
  const auto checkpoint = std::make_shared<const Checkpoint>(model.folder.path());
  const CheckpointExperts<moe::bf16> source(checkpoint, 0);
  moe::Buffer record(source.bytes(0));
  const auto read = [&](int e) {
    std::string message = "no answer";
    source.read({e, 0, record.data(),
                 [](void* who, const moe::Error* error) noexcept {
                   *static_cast<std::string*>(who) = error == nullptr ? "" : error->what();
                 },
                 &message});
    return message;
  };
  const std::uint64_t cut = checkpoint->tensors().at("model.layers.0.block_sparse_moe.experts.6.w1.weight").offset;
  std::filesystem::resize_file(model.folder / "model.safetensors", cut + 10);
  CHECK(contains(read(6), "the end of the file after 10"));
  CHECK(contains(read(-1), "experts.-1.w1.weight\": missing"));
  CHECK(contains(read(8), "experts.8.w1.weight\": missing"));
  CHECK(read(5).empty());
}

TEST_CASE("a source needs a layer with experts") {
  const auto checkpoint = std::make_shared<const Checkpoint>(concat(golden, "mixtral"));
  CHECK_THROWS_AS(CheckpointExperts<float>(checkpoint, 2), moe::Error);
  CHECK_THROWS_AS(CheckpointExperts<float>(checkpoint, -1), moe::Error);
}

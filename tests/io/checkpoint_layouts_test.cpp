// Checkpoints of all families: every layout gives the same matrices, and what is missing or bent is refused.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <moe/io/checkpoint.hpp>
#include <string>
#include <vector>

#include "io/golden_model.hpp"

using namespace io_test;
using moe::io::Checkpoint;

namespace {

/// A stored tensor of any float type, by indices.
class Stored {
 public:
  Stored(const std::string& family, const std::string& name) : file_(concat(golden, family, "/model.safetensors")) {
    info_ = file_.find(name);
    REQUIRE(info_ != nullptr);
    bytes_.resize(static_cast<std::size_t>(info_->bytes));
    file_.read(*info_, bytes_);
  }
  template <class... I>
  float operator()(I... indices) const {
    std::size_t at = 0, dimension = 0;
    ((at = at * static_cast<std::size_t>(info_->shape[dimension++]) + static_cast<std::size_t>(indices)), ...);
    return moe::io::detail::weight_at(bytes_.data(), *moe::io::element_type_of(info_->dtype), at);
  }

 private:
  moe::io::SafetensorsFile file_;
  const TensorInfo* info_;
  std::vector<std::byte> bytes_;
};

/// Whether element (r, c) of a matrix is `element(r, c)`.
template <class Expected>
bool holds(const moe::Matrix& m, int rows, int cols, Expected element) {
  bool equal = m.rows == rows && m.cols == cols;
  for (int r = 0; equal && r < rows; ++r)
    for (int c = 0; c < cols; ++c) equal = equal && m.at(r, c) == element(r, c);
  return equal;
}

Checkpoint one_layer(const std::string& family) { return Checkpoint::of_layer(golden + family, golden + family, {}); }

}  // namespace

TEST_CASE("gate above up in one tensor of all experts") {
  const Stored both("granitemoe", "model.layers.0.block_sparse_moe.input_linear.weight");
  const Stored down("granitemoe", "model.layers.0.block_sparse_moe.output_linear.weight");
  const moe::io::ExpertTensors expert = one_layer("granitemoe").expert(0, 3);
  CHECK(holds(expert.matrices().gate, 40, 64, [&](int r, int c) { return both(3, r, c); }));
  CHECK(holds(expert.matrices().up, 40, 64, [&](int r, int c) { return both(3, 40 + r, c); }));
  CHECK(holds(expert.matrices().down, 64, 40, [&](int r, int c) { return down(3, r, c); }));
}

TEST_CASE("stacked experts with inputs first") {
  const Stored both("llama4", "model.layers.0.feed_forward.experts.gate_up_proj");
  const Stored down("llama4", "model.layers.0.feed_forward.experts.down_proj");
  const moe::io::ExpertTensors expert = one_layer("llama4").expert(0, 11);
  CHECK(holds(expert.matrices().gate, 40, 64, [&](int r, int c) { return both(11, c, r); }));
  CHECK(holds(expert.matrices().up, 40, 64, [&](int r, int c) { return both(11, c, 40 + r); }));
  CHECK(holds(expert.matrices().down, 64, 40, [&](int r, int c) { return down(11, c, r); }));
}

TEST_CASE("gate and up in turn, with biases") {
  const std::string block = "model.layers.0.mlp.experts.";
  const Stored both("gpt_oss", block + "gate_up_proj"), bias("gpt_oss", block + "gate_up_proj_bias");
  const Stored down_bias("gpt_oss", block + "down_proj_bias");
  const moe::io::ExpertTensors expert = one_layer("gpt_oss").expert(0, 5);
  const moe::ExpertMatrices& m = expert.matrices();
  CHECK(holds(m.gate, 64, 64, [&](int r, int c) { return both(5, c, 2 * r); }));
  CHECK(holds(m.up, 64, 64, [&](int r, int c) { return both(5, c, 2 * r + 1); }));
  for (int i = 0; i < 64; ++i) {
    CHECK(m.gate_bias[i] == bias(5, 2 * i));
    CHECK(m.up_bias[i] == bias(5, 2 * i + 1));
    CHECK(m.down_bias[i] == down_bias(5, i));
  }
}

TEST_CASE("experts one below the other, with a transposed down matrix") {
  const std::string block = "transformer.blocks.0.ffn.experts.mlp.";
  const Stored gate("dbrx", block + "w1"), up("dbrx", block + "v1"), down("dbrx", block + "w2");
  const moe::io::ExpertTensors expert = one_layer("dbrx").expert(0, 7);
  CHECK(holds(expert.matrices().gate, 20, 32, [&](int r, int c) { return gate(7 * 20 + r, c); }));
  CHECK(holds(expert.matrices().up, 20, 32, [&](int r, int c) { return up(7 * 20 + r, c); }));
  CHECK(holds(expert.matrices().down, 32, 20, [&](int r, int c) { return down(7 * 20 + c, r); }));
}

TEST_CASE("a decoder's layers are found wherever models keep them") {
  const std::string usual = "model.layers.";
  const std::vector<float> expected = one_layer("mixtral").gate(0);
  for (const char* prefix : {"model.layers.", "model.language_model.layers.", "language_model.model.layers.",
                             "language_model.layers.", "layers."}) {
    CAPTURE(prefix);
    Model model("mixtral");
    decltype(model.tensors) renamed;
    for (auto& [name, tensor] : model.tensors)
      renamed[name.starts_with(usual) ? prefix + name.substr(usual.size()) : name] = std::move(tensor);
    model.tensors = std::move(renamed);
    model.write();
    const Checkpoint checkpoint = Checkpoint::of_layer(model.folder.path(), model.folder.path(), {});
    CHECK(checkpoint.layer_tensor(0, "x") == concat(prefix, "0.x"));
    CHECK(checkpoint.gate(0) == expected);
  }
}

TEST_CASE("an expert outside a stack is refused") {
  const Checkpoint checkpoint = one_layer("llama4");
  CHECK_THROWS_WITH_AS(checkpoint.expert(0, 12), doctest::Contains("expected 0 to 11, found 12"), moe::Error);
  CHECK_THROWS_WITH_AS(checkpoint.expert(0, -1), doctest::Contains("found -1"), moe::Error);
}

TEST_CASE("MXFP4 blocks become the numbers that the format says") {
  const moe::io::SafetensorsFile file(concat(golden, "gpt_oss_mxfp4/model.safetensors"));
  const auto bytes = [&](const std::string& name) {
    const TensorInfo& info = file.at("model.layers.0.mlp.experts." + name);
    std::vector<std::byte> all(static_cast<std::size_t>(info.bytes));
    file.read(info, all);
    return all;
  };
  const std::vector<std::byte> blocks = bytes("gate_up_proj_blocks"), scales = bytes("gate_up_proj_scales");
  const double magnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const auto weight = [&](int e, int row, int input) {
    const auto block = static_cast<std::size_t>((e * 128 + row) * 2 + input / 32);
    const auto byte = std::to_integer<unsigned>(blocks[16 * block + static_cast<std::size_t>(input % 32 / 2)]);
    const unsigned code = input % 2 == 0 ? byte & 15u : byte >> 4;
    const double value = std::ldexp(magnitudes[code & 7u], std::to_integer<int>(scales[block]) - 127);
    return static_cast<float>((code & 8u) != 0 ? -value : value);
  };
  const Checkpoint checkpoint = one_layer("gpt_oss_mxfp4");
  CHECK(checkpoint.stores_mxfp4());
  const moe::io::ExpertTensors expert = checkpoint.expert(0, 6);
  CHECK(holds(expert.matrices().gate, 64, 64, [&](int r, int c) { return weight(6, 2 * r, c); }));
  CHECK(holds(expert.matrices().up, 64, 64, [&](int r, int c) { return weight(6, 2 * r + 1, c); }));
}

TEST_CASE("a shared expert, its gate, and a selection bias are read by their names") {
  const Checkpoint qwen = one_layer("qwen2_moe");
  const Stored up("qwen2_moe", "model.layers.0.mlp.shared_expert.up_proj.weight");
  const moe::io::ExpertTensors shared = qwen.shared(0);
  CHECK(holds(shared.matrices().up, 56, 64, [&](int r, int c) { return up(r, c); }));
  const Stored bias("ernie4_5_moe", "model.layers.0.mlp.moe_statics.e_score_correction_bias");  // [1,E]
  const std::vector<float> found = one_layer("ernie4_5_moe").vector(0, "mlp.moe_statics.e_score_correction_bias", 8);
  for (int e = 0; e < 8; ++e) CHECK(found[static_cast<std::size_t>(e)] == bias(0, e));
}

TEST_CASE("one layer may be opened alone, and only that is missed") {
  const std::string folder = golden + "deepseek_v4";  // holds layer 1 of two
  CHECK(one_layer("deepseek_v4").first_moe_layer() == 1);
  CHECK(contains(message_of([&] { Checkpoint all(folder); }), "layers.0.ffn.gate.weight\": missing"));
  CHECK(contains(message_of([&] { Checkpoint::of_layer(folder, folder, 0); }), "layers.0.ffn.gate.weight\": missing"));
  CHECK(contains(message_of([&] { Checkpoint::of_layer(folder, folder, 2); }), "layer: expected one with experts"));
  CHECK(contains(message_of([&] { one_layer("deepseek_v4").config(); }), "known as a whole model"));
}

TEST_CASE("what is missing, bent, or of a type that nobody computes with is refused in every layout") {
  struct Bent {
    const char *family, *tensor, *expected;
    void (*bend)(Model&, const std::string&);
  };
  const auto erase = [](Model& m, const std::string& name) { m.tensors.erase(name); };
  const auto turn = [](Model& m, const std::string& name) {
    auto& shape = m.tensors.at(name).shape;
    std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
  };
  const auto fp8 = [](Model& m, const std::string& name) {
    Model::Tensor& tensor = m.tensors.at(name);
    tensor.dtype = Dtype::F8_E4M3;
    tensor.bytes.resize(tensor.bytes.size() / 2);
  };
  const std::vector<Bent> all{
      {"granitemoe", "model.layers.0.block_sparse_moe.input_linear.weight", "missing", erase},
      {"granitemoe", "model.layers.0.block_sparse_moe.input_linear.weight", "[12, 80, 64], found [12, 64, 80]", turn},
      {"granitemoe", "model.layers.0.block_sparse_moe.output_linear.weight", "F32, BF16 or F16, found F8_E4M3", fp8},
      {"llama4", "model.layers.0.feed_forward.experts.gate_up_proj", "[12, 64, 80], found [12, 80, 64]", turn},
      {"llama4", "model.layers.0.feed_forward.shared_expert.up_proj.weight", "missing", erase},
      {"gpt_oss", "model.layers.0.mlp.experts.down_proj_bias", "missing", erase},
      {"gpt_oss", "model.layers.0.mlp.router.bias", "missing", erase},
      {"gpt_oss_mxfp4", "model.layers.0.mlp.experts.gate_up_proj_scales", "missing", erase},
      {"gpt_oss_mxfp4", "model.layers.0.mlp.experts.down_proj_blocks", "[8, 64, 2, 16], found [8, 64, 16, 2]", turn},
      {"deepseek_v3", "model.layers.0.mlp.gate.e_score_correction_bias", "missing", erase},
      {"deepseek_v4_hash", "layers.0.ffn.gate.tid2eid", "[24, 3], found [3, 24]", turn},
      {"qwen2_moe", "model.layers.0.mlp.shared_expert_gate.weight", "missing", erase},
      {"adamoe", "model.layers.0.block_sparse_moe.gate2.weight", "missing", erase},
      {"zaya", "model.layers.1.mlp.gate.router_mlp.fc1.bias", "missing", erase},
      {"gemma4", "model.language_model.layers.0.router.per_expert_scale", "missing", erase},
      {"nemotron_h_latent", "backbone.layers.0.mixer.fc2_latent_proj.weight", "found [", turn},
  };
  for (const Bent& bent : all) {
    CAPTURE(bent.family);
    CAPTURE(bent.tensor);
    Model model(bent.family);
    REQUIRE(model.tensors.count(bent.tensor) == 1);
    bent.bend(model, bent.tensor);
    model.write();
    const std::string message = message_of([&] { Checkpoint::of_layer(model.folder.path(), model.folder.path(), {}); });
    CAPTURE(message);
    CHECK(contains(message, concat("tensor \"", bent.tensor, "\"")));
    CHECK(contains(message, bent.expected));
  }
}

TEST_CASE("every golden layer opens, and what it cannot do without it cannot have in another size") {
  int opened = 0, vectors = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden)) {
    if (!std::filesystem::exists(entry.path() / "model.safetensors")) continue;
    const std::string family = entry.path().filename().string();
    CAPTURE(family);
    CHECK_NOTHROW(one_layer(family));
    ++opened;
    const Model good(family);
    for (const auto& one : good.tensors) {
      const std::string& name = one.first;
      const Model::Tensor& tensor = one.second;
      if (tensor.shape.size() != 1) continue;
      CAPTURE(name);
      Model model(family);
      const auto refusal = [&] {
        model.write();
        return message_of([&] { Checkpoint::of_layer(model.folder.path(), model.folder.path(), {}); });
      };
      model.tensors.erase(name);
      if (!contains(refusal(), concat("tensor \"", name, "\": missing"))) continue;  // not of the blocks
      ++vectors;
      model.tensors[name] = tensor;
      model.tensors[name].shape[0] += 1;
      model.tensors[name].bytes.resize(tensor.bytes.size() / tensor.shape[0] * (tensor.shape[0] + 1));
      CHECK(contains(refusal(), concat("expected [", tensor.shape[0], "], found [", tensor.shape[0] + 1, "]")));
    }
  }
  CHECK(opened >= 40);
  CHECK(vectors >= 20);
}

TEST_CASE("ungated experts may lie in one tensor") {
  const Checkpoint apart = one_layer("nemotron_h");
  const int layer = apart.first_moe_layer(), experts = apart.blocks().router.experts.at(layer);
  Model model("nemotron_h");
  for (const char* side : {"up_proj", "down_proj"}) {
    Model::Tensor all;
    for (int e = 0; e < experts; ++e) {
      const auto one =
          model.tensors.extract(apart.layer_tensor(layer, concat("mixer.experts.", e, ".", side, ".weight")));
      all.dtype = one.mapped().dtype;
      all.shape = {static_cast<std::uint64_t>(experts), one.mapped().shape[0], one.mapped().shape[1]};
      all.bytes += one.mapped().bytes;
    }
    model.tensors[apart.layer_tensor(layer, concat("mixer.experts.", side))] = all;
  }
  model.write();
  const Checkpoint stacked = Checkpoint::of_layer(model.folder.path(), model.folder.path(), {});
  for (int e = 0; e < experts; ++e) {
    const moe::io::ExpertTensors a = apart.expert(layer, e), b = stacked.expert(layer, e);
    const moe::Matrix &up = a.matrices().up, &down = a.matrices().down;
    CHECK(holds(b.matrices().up, up.rows, up.cols, [&](int r, int c) { return up.at(r, c); }));
    CHECK(holds(b.matrices().down, down.rows, down.cols, [&](int r, int c) { return down.at(r, c); }));
  }
}

TEST_CASE("a table with an id that is no expert is refused") {
  Model model("deepseek_v4_hash");
  Model::Tensor& table = model.tensors.at("layers.0.ffn.gate.tid2eid");
  const std::int64_t wrong = 8;
  std::memcpy(table.bytes.data() + 5 * 8, &wrong, 8);
  model.write();
  const Checkpoint checkpoint = Checkpoint::of_layer(model.folder.path(), model.folder.path(), {});
  CHECK(contains(message_of([&] { checkpoint.token_table(0); }), "element 5: expected an expert from 0 to 7, found 8"));
}

TEST_CASE("layers that no config counts are those that have a gate") {
  Model model("adamoe");
  std::map<std::string, Model::Tensor> second;
  for (const auto& [name, tensor] : model.tensors) {
    std::string moved = name;
    moved.replace(moved.find("layers.0."), 9, "layers.2.");
    second[moved] = tensor;
  }
  model.tensors.merge(second);
  model.config.erase("num_hidden_layers");
  model.write();
  CHECK(Checkpoint(model.folder.path()).blocks().moe_layers == std::vector<int>{0, 2});
}

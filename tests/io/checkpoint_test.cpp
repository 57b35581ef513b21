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

#include "io/support.hpp"

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

const std::string golden = MOE_TEST_DATA "/golden/";

/// A copy of a golden model that a test may bend before it is written to a folder of its own.
struct Model {
  struct Tensor {
    Dtype dtype;
    std::vector<std::uint64_t> shape;
    std::string bytes;
  };
  std::map<std::string, Tensor> tensors;
  Json config;
  TemporaryFolder folder;

  explicit Model(const std::string& family) : config(Json::parse(read_file(concat(golden, family, "/config.json")))) {
    const moe::io::SafetensorsFile file(concat(golden, family, "/model.safetensors"));
    for (const TensorInfo& info : file.tensors()) {
      Tensor& tensor = tensors[info.name] = {info.dtype, info.shape, std::string(info.bytes, '\0')};
      file.read(info, std::as_writable_bytes(std::span(tensor.bytes)));
    }
  }
  std::vector<TensorData> data() const {
    std::vector<TensorData> all;
    for (const auto& [name, tensor] : tensors)
      all.push_back({name, tensor.dtype, tensor.shape, as_bytes(tensor.bytes)});
    return all;
  }
  void write() const {
    write_file(folder / "config.json", config.dump());
    moe::io::write_safetensors(folder / "model.safetensors", data());
  }
  /// Tensor i goes to shard i mod 3.
  void write_sharded() const {
    write_file(folder / "config.json", config.dump());
    std::vector<std::vector<TensorData>> shards(3);
    Json index;
    std::size_t i = 0;
    for (const TensorData& tensor : data()) {
      index["weight_map"][tensor.name] = concat("model-", i % 3, ".safetensors");
      shards[i++ % 3].push_back(tensor);
    }
    for (i = 0; i < 3; ++i) moe::io::write_safetensors(folder / concat("model-", i, ".safetensors"), shards[i]);
    write_file(folder / TensorSet::index_name, index.dump());
  }
  std::string message() const {
    write();
    return message_of([&] { Checkpoint checkpoint(folder.path()); });
  }
  void set_float(const std::string& name, std::size_t i, float value) {
    std::memcpy(tensors.at(name).bytes.data() + 4 * i, &value, 4);
  }
};

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
  source.read(
      2, 0, record.data(),
      [](void* who, const moe::Error* error) noexcept { *static_cast<bool*>(who) = error == nullptr; }, &answered);
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
    source.read(
        e, 0, record.data(),
        [](void* who, const moe::Error* error) noexcept {
          *static_cast<std::string*>(who) = error == nullptr ? "" : error->what();
        },
        &message);
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

// ---- families other than those of whole models

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

// A published model directory: its blocks, and their tensors by role (gate, experts, shared experts), checked before
// use.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <moe/concepts.hpp>
#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>
#include <moe/io/block_locator.hpp>
#include <moe/io/families.hpp>
#include <moe/io/network_tensors.hpp>
#include <moe/io/tensor_set.hpp>
#include <moe/layout.hpp>
#include <moe/tensor.hpp>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

/// A model directory of any known family: config.json and safetensors, in one file or sharded. Opening reads and
/// validates the config and all headers, and checks presence, element type and shape of everything that blocks with
/// experts have; weights are read on request, by several threads at once if need be. Every fault is an `IoError` with
/// file, tensor, byte, expected, found.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& directory)
      : Checkpoint(load(directory), directory, true, std::nullopt) {}
  /// With other weights than the directory's own, e.g. a `weights_file` beside them (relative to `directory`).
  Checkpoint(const std::filesystem::path& directory, const std::filesystem::path& weights_file)
      : Checkpoint(load(directory), directory / weights_file, true, std::nullopt) {}
  Checkpoint(const std::filesystem::path& directory, TensorSet tensors)
      : Checkpoint(load(directory), std::move(tensors), true, std::nullopt) {}
  /// One layer, the first with experts if none is named; the files need no other one.
  static Checkpoint of_layer(const std::filesystem::path& directory, const std::filesystem::path& weights,
                             std::optional<int> layer) {
    return {load(directory), weights, false, layer};
  }

  /// With only those layers, prefixes and layouts that this checkpoint has.
  const BlockConfig& blocks() const noexcept { return model_.blocks; }
  /// The family is known as a whole model.
  bool is_language_model() const noexcept { return whole_; }
  /// The whole language model; throws `IoError` for families of which only the blocks are known.
  const ModelConfig& config() const {
    if (!whole_)
      raise(IoError(place_, "family", "one that is known as a whole model", in_quotes(model_.blocks.family)));
    return model_;
  }
  const TensorSet& tensors() const noexcept { return tensors_; }
  int first_moe_layer() const noexcept { return model_.blocks.moe_layers.front(); }
  /// The widths of the experts of a layer.
  ExpertShape expert_shape(int layer) const { return model_.blocks.expert_shape(layer); }
  ExpertShape expert_shape() const { return expert_shape(first_moe_layer()); }
  /// The element type in which the checkpoint stores its experts (the first one, where they differ).
  ElementType default_format() const noexcept { return default_format_; }
  /// Experts are stored in MXFP4; they are read as floats, which that format packs again without loss.
  bool stores_mxfp4() const noexcept { return model_.blocks.experts[0].mxfp4; }

  /// Throws `IoError` unless the checkpoint has this tensor with exactly this shape and in f32, bf16 or f16.
  /// What an engine needs beside the experts goes through this before it loads anything.
  const TensorInfo& require(std::string_view name, std::span<const std::uint64_t> shape) const {
    return detail::require_weights(tensors_, name, {shape.begin(), shape.end()});
  }
  const TensorInfo& require(std::string_view name, std::initializer_list<int> shape) const {
    return detail::require_weights(tensors_, name, sizes(shape));
  }
  /// A tensor of weights as floats, row by row; exact for every element type. Same errors as `require`.
  std::vector<float> read_f32(std::string_view name, std::initializer_list<int> shape) const {
    return detail::read_slice(tensors_, require(name, shape), 0, 1);
  }

  // ---- one layer's tensors, by the names of `blocks()`

  /// The full name of a layer's tensor.
  std::string layer_tensor(int layer, std::string_view name) const {
    return detail::layer_prefix(model_.blocks, layer) + std::string(name);
  }
  bool has(int layer, std::string_view name) const {
    return !name.empty() && tensors_.find(layer_tensor(layer, name)) != nullptr;
  }
  /// The gate's matrix, or its last one, of a layer with experts: [L,H]. A gate with NaN or infinity would route at
  /// random: refused, with index.
  std::vector<float> gate(int layer) const {
    std::vector<float> all;
    for (const std::string& name : model_.blocks.gate.weight) {
      const TensorInfo& tensor = tensors_.at(layer_tensor(layer, name));
      const std::vector<float> part = detail::read_slice(tensors_, tensor, 0, 1);
      require_finite(tensor, part);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  /// A matrix of a layer; finite numbers.
  std::vector<float> matrix(int layer, std::string_view name, int rows, int cols) const {
    std::vector<float> values = read_f32(layer_tensor(layer, name), {rows, cols});
    require_finite(tensors_.at(layer_tensor(layer, name)), values);
    return values;
  }
  /// `size` numbers of a layer, [size] or [1, size]; finite.
  std::vector<float> vector(int layer, std::string_view name, int size) const {
    const TensorInfo& tensor = require_vector(layer, name, size);
    std::vector<float> values = detail::read_slice(tensors_, tensor, 0, 1);
    require_finite(tensor, values);
    return values;
  }
  /// Ids of experts by token id [V,K] of a layer that picks by table.
  std::vector<int> token_table(int layer) const;

  /// Reads one expert of a layer, and nothing of the others, into one buffer.
  ExpertTensors expert(int layer, int e) const { return experts(layer).read(e); }
  /// Reads the network that every token passes.
  ExpertTensors shared(int layer) const { return shared_network(layer).read(0); }
  /// The feed-forward of a layer without experts, in families that an engine runs as whole models.
  ExpertTensors dense(int layer) const { return dense_network(layer).read(0); }

 private:
  struct Loaded {
    Json json;
    std::string place;
  };
  static Loaded load(const std::filesystem::path& directory) {
    const std::filesystem::path file = directory / "config.json";
    return {parse_json(read_text(file, ModelLimits::file_bytes), file.string()), file.string()};
  }

  Checkpoint(const Loaded& loaded, const std::filesystem::path& weights, bool whole, std::optional<int> layer)
      : Checkpoint(loaded, TensorSet(weights), whole, layer) {}
  Checkpoint(const Loaded& loaded, TensorSet tensors, bool whole, std::optional<int> layer)
      : place_(loaded.place), tensors_(std::move(tensors)) {
    const ConfigReader config(loaded.json, place_);
    model_.blocks = read_block_config(config);
    whole_ = whole && io::is_language_model(model_.blocks.family);
    if (whole_) model_ = read_model_config(config);
    detail::BlockLocator locator(model_.blocks, tensors_);
    if (!whole) locator.keep_one_layer(layer, place_);
    locator.locate();
    for (const int moe_layer : model_.blocks.moe_layers) check_layer(moe_layer);
    if (whole_) check_dense_layers();
    default_format_ = experts(first_moe_layer()).type();
  }

  static detail::Shape sizes(std::initializer_list<int> shape) {
    detail::Shape all;
    for (const int size : shape) all.push_back(static_cast<std::uint64_t>(size));
    return all;
  }

  // ---- checks

  void check_dense_layers() const {
    for (int layer = 0; layer < model_.blocks.layers(); ++layer)
      if (!model_.blocks.is_moe_layer(layer)) dense_network(layer).check();
  }
  void check_layer(int layer) const {
    check_gate(layer);
    check_router(layer);
    experts(layer).check();
    const SharedConfig& shared = model_.blocks.shared;
    if (shared.mixing != SharedConfig::Mixing::none && shared.ffn.at(layer) != 0) {
      shared_network(layer).check();
      if (!shared.weight.empty())
        require(layer_tensor(layer, shared.weight),
                {shared.mixing == SharedConfig::Mixing::learned ? 2 : 1, model_.blocks.hidden});
      if (!shared.bias.empty()) require_vector(layer, shared.bias, 2);
    }
    if (const LatentConfig& latent = model_.blocks.latent; latent.width != 0) {
      require(layer_tensor(layer, latent.enter), {latent.width, model_.blocks.hidden});
      require(layer_tensor(layer, latent.leave), {model_.blocks.hidden, latent.width});
    }
  }
  void check_gate(int layer) const {
    const GateConfig& g = model_.blocks.gate;
    const bool carried = g.kind == GateConfig::Kind::carried;
    int rows = model_.blocks.logits(layer);
    for (std::size_t i = g.weight.size(); i-- > 0;) {  // all parts but the first say themselves how many rows they have
      const std::string name = layer_tensor(layer, g.weight[i]);
      const TensorInfo& tensor = tensors_.at(name);
      const bool whole = i == 0 || tensor.shape.empty() || tensor.shape[0] >= static_cast<std::uint64_t>(rows);
      const int own = whole ? rows : static_cast<int>(tensor.shape[0]);
      require(name, {own, carried ? g.state : model_.blocks.hidden});
      rows -= own;
    }
    if (!g.bias.empty()) require_vector(layer, g.bias, model_.blocks.logits(layer));
    if (!g.gain.empty()) require_vector(layer, g.gain, model_.blocks.hidden);
    if (!carried) return;
    require(layer_tensor(layer, g.enter), {g.state, model_.blocks.hidden});
    for (const std::string& name : {g.first, g.second}) require(layer_tensor(layer, name), {g.state, g.state});
    for (const std::string& name : {g.enter_bias, g.norm, g.first_bias, g.second_bias})
      require_vector(layer, name, g.state);
    if (has(layer, g.carried)) require_vector(layer, g.carried, g.state);
  }
  void check_router(int layer) const {
    const RouterConfig& r = model_.blocks.router;
    const bool hash = r.is_hash_layer(layer);
    if (!r.bias.empty() && !hash) require_vector(layer, r.bias, r.choosable(layer));
    if (!r.expert_scale.empty()) require_vector(layer, r.expert_scale, r.choosable(layer));
    if (hash) require_table(layer);
  }
  const TensorInfo& require_vector(int layer, std::string_view name, int size) const {
    const std::string full = layer_tensor(layer, name);
    const bool row = tensors_.at(full).shape.size() == 2;
    return row ? require(full, {1, size}) : require(full, {size});
  }
  const TensorInfo& require_table(int layer) const {
    static constexpr std::array types{Dtype::I64, Dtype::I32};
    const RouterConfig& r = model_.blocks.router;
    return detail::require_tensor(tensors_, layer_tensor(layer, r.table), sizes({r.vocab, r.k.at(layer)}), types);
  }
  void require_finite(const TensorInfo& tensor, std::span<const float> values) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      const auto width = static_cast<std::size_t>(tensor.shape.empty() ? 1 : tensor.shape.back());
      const std::string at =
          tensor.shape.size() < 2 ? concat("[", i, "]") : concat("[", i / width, ", ", i % width, "]");
      raise(IoError(tensors_.place(tensor), concat("element ", at), "a finite number", std::to_string(values[i])));
    }
  }

  // ---- networks

  detail::NetworkReader experts(int layer) const {
    return {tensors_, model_.blocks.experts[0], detail::layer_prefix(model_.blocks, layer), expert_shape(layer),
            model_.blocks.router.experts.at(layer)};
  }
  detail::NetworkReader shared_network(int layer) const {
    return {tensors_, model_.blocks.shared.tensors, detail::layer_prefix(model_.blocks, layer),
            model_.blocks.shared_shape(layer), 1};
  }
  detail::NetworkReader dense_network(int layer) const {
    return {tensors_,
            model_.blocks.dense,
            detail::layer_prefix(model_.blocks, layer),
            {model_.blocks.hidden, model_.blocks.dense_ffn, true, false},
            1};
  }

  std::string place_;  // of the config
  TensorSet tensors_;
  ModelConfig model_;  // of families of which only the blocks are known, those
  bool whole_ = false;
  ElementType default_format_ = ElementType::float32;
};

inline std::vector<int> Checkpoint::token_table(int layer) const {
  const TensorInfo& tensor = require_table(layer);
  std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes));
  tensors_.read(tensor, bytes);
  const std::size_t size = tensor.dtype == Dtype::I64 ? 8 : 4;
  const int experts = model_.blocks.router.experts.at(layer);
  std::vector<int> ids(bytes.size() / size);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::int64_t id = 0;
    if (size == 8) {
      std::memcpy(&id, bytes.data() + 8 * i, 8);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, bytes.data() + 4 * i, 4);
      id = narrow;
    }
    if (id < 0 || id >= experts)
      raise(IoError(tensors_.place(tensor), concat("element ", i), concat("an expert from 0 to ", experts - 1),
                    std::to_string(id)));
    ids[i] = static_cast<int>(id);
  }
  return ids;
}

/// The experts of one layer as a `RecordSource`: every read takes the expert's matrices from the checkpoint's files and
/// packs them as `Format`, on the caller's thread. Costs a buffer of one unpacked expert while it works.
template <class Format>
class CheckpointExperts {
 public:
  using layout = PanelLayout;
  using formats = moe::formats<Format>;

  /// Throws `Error` unless `layer` is a layer with experts.
  CheckpointExperts(std::shared_ptr<const Checkpoint> checkpoint, int layer)
      : checkpoint_(std::move(checkpoint)), layer_(layer) {
    const BlockConfig& blocks = checkpoint_->blocks();
    if (!blocks.is_moe_layer(layer))
      raise(Error("moe::io::CheckpointExperts", "layer", concat("one with experts among the model's ", blocks.layers()),
                  std::to_string(layer)));
    shape_ = checkpoint_->expert_shape(layer);
  }

  ExpertShape shape() const noexcept { return shape_; }
  int num_experts() const noexcept { return checkpoint_->blocks().router.experts.at(layer_); }
  std::size_t bytes(int) const noexcept { return layout::record_bytes<Format>(shape()); }

  /// Answers before it returns, with the error if there was one.
  void read(const ReadRequest& request) const noexcept {
    const std::optional<Error> error = pack(request.expert, request.to);
    request.done(request.who, error ? &*error : nullptr);
  }

 private:
  std::optional<Error> pack(ExpertId e, std::byte* to) const noexcept try {
    const ExpertTensors expert = checkpoint_->expert(layer_, e);
    layout::pack<Format>(shape(), expert.matrices(), to);
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error("moe::io::CheckpointExperts: out of memory while an expert was read");
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  int layer_;
  ExpertShape shape_;
};

}  // namespace moe::io

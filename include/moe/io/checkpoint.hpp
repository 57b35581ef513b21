// A published model directory: its config, and its tensors by role (gate, experts, the rest), checked before use.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <moe/concepts.hpp>
#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>
#include <moe/io/model_config.hpp>
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

/// The element type of a tensor of weights; nothing for types that no policy computes with.
constexpr std::optional<ElementType> element_type_of(Dtype type) {
  switch (type) {
    case Dtype::F32:
      return ElementType::float32;
    case Dtype::BF16:
      return ElementType::bfloat16;
    case Dtype::F16:
      return ElementType::float16;
    default:
      return std::nullopt;
  }
}

/// A gated network's three matrices in the checkpoint's own element type, read from the files into one buffer.
class ExpertTensors {
 public:
  ExpertTensors(Buffer bytes, const ExpertMatrices& matrices) : bytes_(std::move(bytes)), matrices_(matrices) {}

  /// Gate and up [F,H], down [H,F]: views of what this object owns, so not to be had from a temporary.
  const ExpertMatrices& matrices() const& noexcept { return matrices_; }
  const ExpertMatrices& matrices() const&& = delete;

 private:
  Buffer bytes_;
  ExpertMatrices matrices_;
};

namespace detail {

/// `pattern` with {i} and {e} replaced.
inline std::string tensor_name(std::string_view pattern, int layer, int expert = 0) {
  std::string name;
  for (std::size_t at = 0; at < pattern.size(); ++at) {
    const std::string_view mark = pattern.substr(at, 3);
    if (mark != "{i}" && mark != "{e}") {
      name += pattern[at];
      continue;
    }
    name += std::to_string(mark == "{i}" ? layer : expert);
    at += 2;
  }
  return name;
}

}  // namespace detail

/// A model directory: config.json and safetensors, in one file or sharded. Opening reads and validates the config and
/// all headers, and checks every gate's and every expert's presence, element type and shape; weights are read on
/// request, by several threads at once if need be. Every fault is an `IoError` with file, tensor, byte, expected,
/// found.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& directory)
      : Checkpoint(load_model_config(directory / "config.json"), directory, nullptr) {}
  /// With other weights than the directory's own, e.g. a `weights_file` beside them (relative to `directory`).
  Checkpoint(const std::filesystem::path& directory, const std::filesystem::path& weights_file)
      : Checkpoint(load_model_config(directory / "config.json"), directory / weights_file, nullptr) {}

  const ModelConfig& config() const noexcept { return config_; }
  const TensorSet& tensors() const noexcept { return tensors_; }
  /// The widths of the experts.
  ExpertShape expert_shape() const noexcept { return {config_.hidden, config_.expert_ffn, true, false}; }
  /// The element type in which the checkpoint stores its experts (the first one, where they differ).
  ElementType default_format() const noexcept { return default_format_; }

  /// Throws `IoError` unless the checkpoint has this tensor with exactly this shape and in f32, bf16 or f16.
  /// What an engine needs beside the experts goes through this before it loads anything.
  const TensorInfo& require(std::string_view name, std::span<const std::uint64_t> shape) const {
    const TensorInfo& tensor = tensors_.at(name);
    if (!element_type_of(tensor.dtype)) {
      raise(IoError(tensors_.place(tensor), "element type", "F32, BF16 or F16", std::string(dtype_name(tensor.dtype))));
    }
    if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end())) {
      raise(IoError(tensors_.place(tensor), "shape", shape_text(shape), shape_text(tensor.shape)));
    }
    return tensor;
  }
  const TensorInfo& require(std::string_view name, std::initializer_list<int> shape) const {
    std::vector<std::uint64_t> sizes;
    for (const int size : shape) sizes.push_back(static_cast<std::uint64_t>(size));
    return require(name, sizes);
  }

  /// A tensor of weights as floats, row by row; exact for every element type. Same errors as `require`.
  std::vector<float> read_f32(std::string_view name, std::initializer_list<int> shape) const {
    const TensorInfo& tensor = require(name, shape);
    Buffer bytes(static_cast<std::size_t>(tensor.bytes));
    tensors_.read(tensor, {bytes.data(), bytes.bytes()});
    const ElementType type = *element_type_of(tensor.dtype);
    std::vector<float> values(bytes.bytes() / element_bytes(type));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = element(bytes.data(), type, i);
    return values;
  }

  /// The gate of a layer with experts: [E,H]. A gate with NaN or infinity would route at random: refused, with index.
  std::vector<float> gate(int layer) const {
    const std::string name = detail::tensor_name(names().gate, layer);
    std::vector<float> values = read_f32(name, {config_.experts, config_.hidden});
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) bad_gate(tensors_.at(name), i, values[i]);
    }
    return values;
  }

  /// Reads one expert: three reads into one buffer.
  ExpertTensors expert(int layer, int e) const {
    return read_network({names().expert_gate, names().expert_up, names().expert_down}, layer, e);
  }
  /// Reads the feed-forward of a layer without experts; its inner width is `config().dense_ffn`.
  ExpertTensors dense(int layer) const {
    return read_network({names().dense_gate, names().dense_up, names().dense_down}, layer, 0);
  }

 private:
  using Patterns = std::array<std::string_view, 3>;  // gate, up, down

  Checkpoint(ModelConfig config, const std::filesystem::path& weights, std::nullptr_t)
      : config_(std::move(config)), tensors_(weights) {
    int first = -1;
    for (int layer = 0; layer < config_.layers; ++layer) {
      check_layer(layer);
      if (first < 0 && config_.is_moe_layer(layer)) first = layer;
    }
    if (first < 0) raise(IoError(tensors_.files()[0].path().string(), "model", "a layer with experts", "none"));
    default_format_ = *element_type_of(tensors_.at(detail::tensor_name(names().expert_gate, first)).dtype);
  }

  const TensorNames& names() const { return tensor_names(config_.family); }
  void check_layer(int layer) const {
    const TensorNames& n = names();
    if (!config_.is_moe_layer(layer)) {
      return check_network({n.dense_gate, n.dense_up, n.dense_down}, layer, 0, config_.dense_ffn);
    }
    require(detail::tensor_name(n.gate, layer), {config_.experts, config_.hidden});
    for (int e = 0; e < config_.experts; ++e) {
      check_network({n.expert_gate, n.expert_up, n.expert_down}, layer, e, config_.expert_ffn);
    }
  }
  void check_network(const Patterns& patterns, int layer, int e, int ffn) const {
    require(detail::tensor_name(patterns[0], layer, e), {ffn, config_.hidden});
    require(detail::tensor_name(patterns[1], layer, e), {ffn, config_.hidden});
    require(detail::tensor_name(patterns[2], layer, e), {config_.hidden, ffn});
  }

  ExpertTensors read_network(const Patterns& patterns, int layer, int e) const {
    std::array<const TensorInfo*, 3> tensors;
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      tensors[i] = &tensors_.at(detail::tensor_name(patterns[i], layer, e));
      bytes += round_up(static_cast<std::size_t>(tensors[i]->bytes), alignment);
    }
    Buffer buffer(bytes);
    std::byte* to = buffer.data();
    ExpertMatrices matrices;
    matrices.gate = read_matrix(*tensors[0], to);
    matrices.up = read_matrix(*tensors[1], to);
    matrices.down = read_matrix(*tensors[2], to);
    return {std::move(buffer), matrices};
  }
  /// Reads a matrix that `check_layer` has seen, and moves `to` behind it.
  Matrix read_matrix(const TensorInfo& tensor, std::byte*& to) const {
    const auto bytes = static_cast<std::size_t>(tensor.bytes);
    tensors_.read(tensor, {to, bytes});
    const auto rows = static_cast<int>(tensor.shape[0]), cols = static_cast<int>(tensor.shape[1]);
    return {std::exchange(to, to + round_up(bytes, alignment)), *element_type_of(tensor.dtype), rows, cols, cols, 1};
  }

  static float element(const std::byte* bytes, ElementType type, std::size_t i) {
    const auto load = [&]<class T>(T value) {
      std::memcpy(&value, bytes + i * sizeof value, sizeof value);
      return static_cast<float>(value);
    };
    if (type == ElementType::float32) return load(0.0f);
    return type == ElementType::bfloat16 ? load(bf16{}) : load(f16{});
  }
  [[noreturn]] void bad_gate(const TensorInfo& tensor, std::size_t i, float value) const {
    const auto width = static_cast<std::size_t>(config_.hidden);
    const std::string at = concat("[", i / width, ", ", i % width, "]");
    raise(IoError(tensors_.place(tensor), concat("element ", at), "a finite number", std::to_string(value)));
  }

  ModelConfig config_;
  TensorSet tensors_;
  ElementType default_format_ = ElementType::float32;
};

/// The experts of one layer as a `RecordSource`: every read takes the three matrices from the checkpoint's files and
/// packs them as `Format`, on the caller's thread. Costs a buffer of one unpacked expert while it works.
template <class Format>
class CheckpointExperts {
 public:
  using layout = PanelLayout;
  using formats = moe::formats<Format>;

  /// Throws `Error` unless `layer` is a layer with experts.
  CheckpointExperts(std::shared_ptr<const Checkpoint> checkpoint, int layer)
      : checkpoint_(std::move(checkpoint)), layer_(layer) {
    const ModelConfig& config = checkpoint_->config();
    if (layer < 0 || layer >= config.layers || !config.is_moe_layer(layer)) {
      raise(Error("moe::io::CheckpointExperts", "layer", concat("one with experts among the model's ", config.layers),
                  std::to_string(layer)));
    }
  }

  ExpertShape shape() const noexcept { return checkpoint_->expert_shape(); }
  int num_experts() const noexcept { return checkpoint_->config().experts; }
  std::size_t bytes(int) const noexcept { return layout::record_bytes<Format>(shape()); }

  /// Writes the record of expert `e` to `to` and answers `done` before it returns, with the error if there was one.
  void read(ExpertId e, int, std::byte* to, ReadDone done, void* who) const noexcept {
    const std::optional<Error> error = pack(e, to);
    done(who, error ? &*error : nullptr);
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
};

}  // namespace moe::io

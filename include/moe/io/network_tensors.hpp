// One feed-forward network's matrices out of a checkpoint's tensors, whatever their layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <moe/error.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>
#include <moe/io/block_config.hpp>
#include <moe/io/tensor_set.hpp>
#include <moe/tensor.hpp>
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

/// A network's matrices in the checkpoint's own element type (MXFP4: as float32), read from the files into one buffer.
class ExpertTensors {
 public:
  ExpertTensors(Buffer bytes, const ExpertMatrices& matrices, std::vector<float> biases = {})
      : bytes_(std::move(bytes)), biases_(std::move(biases)), matrices_(matrices) {}

  /// Gate and up [F,H], down [H,F]: views of what this object owns, so not to be had from a temporary.
  const ExpertMatrices& matrices() const& noexcept { return matrices_; }
  const ExpertMatrices& matrices() const&& = delete;

 private:
  Buffer bytes_;
  std::vector<float> biases_;
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

using Shape = std::vector<std::uint64_t>;

/// Throws `IoError` unless the set has this tensor with exactly this shape and one of the types `allowed`.
inline const TensorInfo& require_tensor(const TensorSet& set, std::string_view name, const Shape& shape,
                                        std::span<const Dtype> allowed) {
  const TensorInfo& tensor = set.at(name);
  bool known = false;
  std::string types;
  for (std::size_t i = 0; i < allowed.size(); ++i) {
    known = known || allowed[i] == tensor.dtype;
    types += concat(i == 0 ? "" : (i + 1 == allowed.size() ? " or " : ", "), dtype_name(allowed[i]));
  }
  if (!known) raise(IoError(set.place(tensor), "element type", types, std::string(dtype_name(tensor.dtype))));
  if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end()))
    raise(IoError(set.place(tensor), "shape", shape_text(shape), shape_text(tensor.shape)));
  return tensor;
}
inline const TensorInfo& require_weights(const TensorSet& set, std::string_view name, const Shape& shape) {
  static constexpr std::array types{Dtype::F32, Dtype::BF16, Dtype::F16};
  return require_tensor(set, name, shape, types);
}

/// A dimension of a tensor, as the size that other tensors must agree with.
inline int dimension_of(const TensorSet& set, std::string_view name, std::size_t rank, std::size_t dimension) {
  const TensorInfo& tensor = set.at(name);
  if (tensor.shape.size() != rank)
    raise(IoError(set.place(tensor), "dimensions", std::to_string(rank), shape_text(tensor.shape)));
  const std::uint64_t size = tensor.shape[dimension];
  if (size < 1 || size > std::numeric_limits<int>::max())
    raise(IoError(set.place(tensor), concat("dimension ", dimension), "1 to 2147483647", std::to_string(size)));
  return static_cast<int>(size);
}

/// Element i of raw weights, as float.
inline float weight_at(const std::byte* bytes, ElementType type, std::size_t i) {
  const auto load = [&]<class T>(T value) {
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    return static_cast<float>(value);
  };
  if (type == ElementType::float32) return load(0.0f);
  return type == ElementType::bfloat16 ? load(bf16{}) : load(f16{});
}

/// Slice `index` of the equal slices of a tensor, as floats.
inline std::vector<float> read_slice(const TensorSet& set, const TensorInfo& tensor, int index, int slices) {
  const std::uint64_t bytes = tensor.bytes / static_cast<std::uint64_t>(slices);
  Buffer raw(static_cast<std::size_t>(bytes));
  set.read(tensor, bytes * static_cast<std::uint64_t>(index), {raw.data(), raw.bytes()});
  const ElementType type = *element_type_of(tensor.dtype);
  std::vector<float> values(raw.bytes() / element_bytes(type));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = weight_at(raw.data(), type, i);
  return values;
}

/// The tensors of one network (or of all networks of a layer, where they are stacked), checked and read.
/// Reads what one network needs and no more.
class NetworkReader {
 public:
  /// `prefix` is that of the layer, {i} already replaced; `experts` is how many the tensors hold together.
  NetworkReader(const TensorSet& set, const NetworkTensors& names, std::string prefix, ExpertShape shape, int experts)
      : set_(set), n_(names), prefix_(std::move(prefix)), shape_(shape), experts_(experts) {}

  /// Throws `IoError` unless everything is there in the right shape and type; O(names).
  void check() const {
    const int networks = own() ? experts_ : 1;
    for (int e = 0; e < networks; ++e) {
      for (const Part& part : parts())
        if (part.exists) check(part, e);
    }
  }
  ElementType type() const {
    if (n_.mxfp4) return ElementType::float32;
    return *element_type_of(set_.at(name(n_.up, 0)).dtype);
  }

  ExpertTensors read(int e) const {
    if (!own() && (e < 0 || e >= experts_))
      raise(Error(concat(set_.files()[0].path().string(), ": ", prefix_), "expert", concat("0 to ", experts_ - 1),
                  std::to_string(e)));
    const std::array<Part, 3> all = parts();
    std::size_t bytes = 0;
    for (const Part& part : all)
      if (part.exists) bytes += round_up(bytes_of(part, e), alignment);
    Buffer buffer(bytes);
    std::byte* to = buffer.data();
    ExpertMatrices m;
    std::array<Matrix, 3> matrices;
    for (std::size_t i = 0; i < 3; ++i)
      if (all[i].exists) matrices[i] = read(all[i], e, to);
    m.down = matrices[2];
    m.gate = matrices[0];
    m.up = matrices[1];
    if (fused()) split(matrices[1], m.gate, m.up);
    std::vector<float> biases = read_biases(e);
    if (shape_.biased) place(biases, m);
    return {std::move(buffer), m, std::move(biases)};
  }

 private:
  /// A matrix [rows, cols] as a product needs it; stored with rows and columns exchanged where `transposed`.
  struct Part {
    bool exists = false;
    const std::string* pattern = nullptr;
    const std::string* bias = nullptr;
    int rows = 0, cols = 0;
    bool transposed = false;
  };

  bool own() const { return n_.experts == NetworkTensors::Experts::own_tensors; }
  bool fused() const { return n_.fusion != NetworkTensors::Fusion::separate; }
  std::string name(const std::string& pattern, int e) const { return prefix_ + tensor_name(pattern, 0, e); }

  std::array<Part, 3> parts() const {
    const int up_rows = fused() ? 2 * shape_.ffn : shape_.ffn;
    return {Part{shape_.gated && !fused(), &n_.gate, &n_.gate_bias, shape_.ffn, shape_.hidden, n_.up_transposed},
            Part{true, &n_.up, &n_.up_bias, up_rows, shape_.hidden, n_.up_transposed},
            Part{true, &n_.down, &n_.down_bias, shape_.hidden, shape_.ffn, n_.down_transposed}};
  }
  /// The tensor that holds `rows` x `cols` of each expert.
  Shape shape_of(int rows, int cols) const {
    const auto size = [](int n) { return static_cast<std::uint64_t>(n); };
    if (n_.experts == NetworkTensors::Experts::stacked) return {size(experts_), size(rows), size(cols)};
    if (n_.experts == NetworkTensors::Experts::flat) return {size(experts_) * size(rows), size(cols)};
    return {size(rows), size(cols)};
  }
  Shape shape_of(const Part& part) const {
    return part.transposed ? shape_of(part.cols, part.rows) : shape_of(part.rows, part.cols);
  }

  // ---- checks

  void check(const Part& part, int e) const {
    if (n_.mxfp4) {
      check_mxfp4(part, e);
    } else {
      require_weights(set_, name(*part.pattern, e), shape_of(part));
    }
    if (shape_.biased) require_weights(set_, name(*part.bias, e), bias_shape(part));
  }
  Shape bias_shape(const Part& part) const {
    const auto rows = static_cast<std::uint64_t>(part.rows);
    return own() ? Shape{rows} : Shape{static_cast<std::uint64_t>(experts_), rows};
  }
  void check_mxfp4(const Part& part, int e) const {
    static constexpr std::array type{Dtype::U8};
    const std::string head = name(*part.pattern, e);
    if (part.cols % 32 != 0)
      raise(IoError(set_.place(set_.at(head + "_blocks")), "inputs", "a multiple of 32", std::to_string(part.cols)));
    Shape shape = shape_of(part.rows, part.cols / 32);
    require_tensor(set_, head + "_scales", shape, type);
    shape.push_back(16);
    require_tensor(set_, head + "_blocks", shape, type);
  }

  // ---- reads

  int slices() const { return own() ? 1 : experts_; }
  std::size_t bytes_of(const Part& part, int e) const {
    if (n_.mxfp4) return sizeof(float) * static_cast<std::size_t>(part.rows) * static_cast<std::size_t>(part.cols);
    return static_cast<std::size_t>(set_.at(name(*part.pattern, e)).bytes) / static_cast<std::size_t>(slices());
  }
  /// Reads this network's part, and moves `to` behind it.
  Matrix read(const Part& part, int e, std::byte*& to) const {
    const std::size_t bytes = bytes_of(part, e);
    std::byte* const begin = std::exchange(to, to + round_up(bytes, alignment));
    if (n_.mxfp4) {
      read_mxfp4(part, e, reinterpret_cast<float*>(begin));
      return {begin, ElementType::float32, part.rows, part.cols, part.cols, 1};
    }
    const TensorInfo& tensor = set_.at(name(*part.pattern, e));
    set_.read(tensor, own() ? 0 : static_cast<std::uint64_t>(bytes) * static_cast<std::uint64_t>(e), {begin, bytes});
    const ElementType type = *element_type_of(tensor.dtype);
    if (!part.transposed) return {begin, type, part.rows, part.cols, part.cols, 1};
    return {begin, type, part.rows, part.cols, 1, part.rows};
  }
  std::vector<std::byte> read_bytes(const std::string& tensor_name, int e) const {
    const TensorInfo& tensor = set_.at(tensor_name);
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes) / static_cast<std::size_t>(slices()));
    set_.read(tensor, own() ? 0 : bytes.size() * static_cast<std::uint64_t>(e), bytes);
    return bytes;
  }
  void read_mxfp4(const Part& part, int e, float* to) const {
    const std::string head = name(*part.pattern, e);
    const std::vector<std::byte> blocks = read_bytes(head + "_blocks", e), scales = read_bytes(head + "_scales", e);
    mxfp4 block;
    for (std::size_t b = 0; b < scales.size(); ++b, to += 32) {
      block.scale.bits = std::to_integer<std::uint8_t>(scales[b]);
      for (std::size_t i = 0; i < 16; ++i) block.codes[i].bits = std::to_integer<std::uint8_t>(blocks[16 * b + i]);
      format_traits<mxfp4>::decode(block, to);
    }
  }

  /// Gate and up out of a matrix that holds both.
  void split(const Matrix& both, Matrix& gate, Matrix& up) const {
    const bool halves = n_.fusion == NetworkTensors::Fusion::halves;
    gate = both;
    gate.rows = shape_.ffn;
    const std::ptrdiff_t up_begin = both.row_stride * (halves ? shape_.ffn : 1);
    if (!halves) gate.row_stride *= 2;
    up = gate;
    up.data =
        static_cast<const std::byte*>(both.data) + up_begin * static_cast<std::ptrdiff_t>(element_bytes(both.type));
  }

  /// Gate, up and down biases, one behind the other.
  std::vector<float> read_biases(int e) const {
    std::vector<float> all;
    if (!shape_.biased) return all;
    for (const Part& part : parts()) {
      if (!part.exists) continue;
      const std::vector<float> bias = read_slice(set_, set_.at(name(*part.bias, e)), own() ? 0 : e, slices());
      if (part.pattern == &n_.up && n_.fusion == NetworkTensors::Fusion::interleaved) {
        for (std::size_t first : {0u, 1u})
          for (std::size_t i = first; i < bias.size(); i += 2) all.push_back(bias[i]);
      } else {
        all.insert(all.end(), bias.begin(), bias.end());
      }
    }
    return all;
  }
  void place(const std::vector<float>& biases, ExpertMatrices& m) const {
    const float* at = biases.data();
    if (shape_.gated) m.gate_bias = std::exchange(at, at + shape_.ffn);
    m.up_bias = std::exchange(at, at + shape_.ffn);
    m.down_bias = at;
  }

  const TensorSet& set_;
  const NetworkTensors& n_;
  std::string prefix_;
  ExpertShape shape_;
  int experts_;
};

}  // namespace detail

}  // namespace moe::io

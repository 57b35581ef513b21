// Safetensors files: opened with full validation, read tensor by tensor, written whole.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <moe/error.hpp>
#include <moe/io/safetensors_header.hpp>
#include <moe/io/text.hpp>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

/// One open, fully validated safetensors file. Holds the header only; tensors are read on request, by position, so
/// several threads may read at once.
class SafetensorsFile {
 public:
  /// Throws `IoError` that names the file, the tensor, the byte, what was expected and what was found.
  explicit SafetensorsFile(std::filesystem::path path) : file_(std::move(path)), header_(read_header(file_)) {}

  std::filesystem::path path() const { return file_.path(); }
  /// In the order of their offsets; they tile the file's data without holes.
  std::span<const TensorInfo> tensors() const noexcept { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const noexcept { return header_.metadata; }
  std::uint64_t file_bytes() const noexcept { return file_.size(); }

  /// Null if there is no tensor of this name.
  const TensorInfo* find(std::string_view name) const { return header_.find(name); }
  /// Throws `IoError` if there is no tensor of this name.
  const TensorInfo& at(std::string_view name) const {
    const TensorInfo* tensor = find(name);
    if (tensor == nullptr) {
      raise(IoError(concat(file_.path(), ": tensor ", in_quotes(name)), "missing",
                    concat("it among the file's ", count()), "none"));
    }
    return *tensor;
  }

  /// Reads a whole tensor of this file; `to` has exactly its bytes. Throws `IoError`.
  void read(const TensorInfo& tensor, std::span<std::byte> to) const {
    if (to.size() != tensor.bytes) bad_range(tensor, "room for all bytes", to.size());
    read(tensor, 0, to);
  }
  /// Reads `to.size()` bytes of a tensor of this file from its byte `first` on.
  void read(const TensorInfo& tensor, std::uint64_t first, std::span<std::byte> to) const {
    if (first > tensor.bytes || to.size() > tensor.bytes - first) bad_range(tensor, "range", first + to.size());
    file_.read(tensor.offset + first, to);
  }

 private:
  static SafetensorsHeader read_header(const InputFile& file) {
    std::vector<std::byte> head(static_cast<std::size_t>(std::min<std::uint64_t>(8, file.size())));
    file.read(0, head);
    const std::uint64_t length = safetensors_header_bytes(head, file.size(), file.path());
    head.resize(static_cast<std::size_t>(8 + length));
    file.read(8, std::span(head).subspan(8));
    return parse_safetensors_header(head, file.size(), file.path());
  }
  std::string count() const { return concat(header_.tensors.size(), " tensors"); }
  [[noreturn]] void bad_range(const TensorInfo& tensor, const char* what, std::uint64_t found) const {
    raise(
        Error(detail::tensor_place(file_.path(), tensor), what, concat(tensor.bytes, " bytes"), std::to_string(found)));
  }

  InputFile file_;
  SafetensorsHeader header_;
};

// ---- writing

/// A tensor to be written; `bytes` are its elements row by row, little-endian.
struct TensorData {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> bytes;
};

namespace detail {

inline void check_tensor_data(const std::string& file, const TensorData& tensor) {
  const std::string where = concat(file, ": tensor ", in_quotes(tensor.name));
  const std::string type = concat(shape_text(tensor.shape), " of ", dtype_name(tensor.dtype));
  const std::optional<std::uint64_t> bytes = tensor_bytes(tensor.dtype, tensor.shape);
  if (!bytes || tensor.shape.size() > SafetensorsLimits::rank) {
    raise(Error(where, "shape", concat("at most ", SafetensorsLimits::rank, " dimensions, whole bytes"), type));
  }
  if (*bytes != tensor.bytes.size()) {
    raise(Error(where, "data", concat(*bytes, " bytes for ", type), std::to_string(tensor.bytes.size())));
  }
}

inline std::string json_text(const Json& header, const std::string& file) try {
  return header.dump();
} catch (const Json::exception&) {
  raise(Error(file, "names and metadata", "valid UTF-8", "something else"));
}

/// The JSON text with offsets in the order of `order`, padded so that the data begins at a multiple of 8.
inline std::string header_text(const std::string& file, std::span<const TensorData> tensors,
                               std::span<const std::size_t> order, const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const std::size_t i : order) {
    const TensorData& tensor = tensors[i];
    if (header.contains(tensor.name) || tensor.name == "__metadata__") {
      raise(Error(concat(file, ": tensor ", in_quotes(tensor.name)), "name", "each name once", "a second one"));
    }
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = json_text(header, file);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace detail

/// Writes a safetensors file: beside its final name first, synced, then renamed, so that nobody ever sees half of it.
/// Tensors with wider elements come first, which keeps every tensor aligned to its element; else in the given order.
/// Throws `Error` for tensors that no file can hold (bytes that do not match the shape, duplicate or malformed names)
/// and its kind `IoError` when the disk refuses.
inline void write_safetensors(const std::filesystem::path& path, std::span<const TensorData> tensors,
                              const std::map<std::string, std::string>& metadata = {{"format", "pt"}}) {
  std::uint64_t size = 0;
  for (const TensorData& tensor : tensors) {
    detail::check_tensor_data(path.string(), tensor);
    size += tensor.bytes.size();
  }
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return dtype_bits(tensors[a].dtype) > dtype_bits(tensors[b].dtype);
  });
  const std::string text = detail::header_text(path.string(), tensors, order, metadata);
  std::vector<std::byte> head(8 + text.size());
  for (std::size_t i = 0; i < 8; ++i) head[i] = static_cast<std::byte>(text.size() >> (8 * i) & 255u);
  std::memcpy(head.data() + 8, text.data(), text.size());
  parse_safetensors_header(head, head.size() + size, path.string());  // by the reader's rules: what we write we read
  OutputFile file(path);
  file.write(head);
  for (const std::size_t i : order) file.write(tensors[i].bytes);
  file.commit();
}

}  // namespace moe::io

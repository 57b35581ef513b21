// The head of a safetensors file: one pure function that either proves every tensor's place or throws.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <moe/error.hpp>
#include <moe/io/json.hpp>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

// ---- element types

/// The format's closed list of element types, under the format's names.
// clang-format off
enum class Dtype { BOOL, F4, F6_E2M3, F6_E3M2, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ,
                   I16, U16, F16, BF16, I32, U32, F32, C64, F64, I64, U64 };

namespace detail {
struct DtypeRow { std::string_view name; unsigned bits; };
inline constexpr std::array<DtypeRow, 22> dtype_rows{{
    {"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16},
    {"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64}}};
// clang-format on
}  // namespace detail

constexpr std::string_view dtype_name(Dtype type) { return detail::dtype_rows[static_cast<std::size_t>(type)].name; }
constexpr unsigned dtype_bits(Dtype type) { return detail::dtype_rows[static_cast<std::size_t>(type)].bits; }
/// Bytes of one element; 0 for the types that pack several elements into a byte (F4, F6_*).
constexpr std::size_t dtype_bytes(Dtype type) { return dtype_bits(type) / 8; }

constexpr std::optional<Dtype> dtype_named(std::string_view name) {
  for (std::size_t i = 0; i < detail::dtype_rows.size(); ++i) {
    if (detail::dtype_rows[i].name == name) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

/// Bytes of a dense tensor. Empty if they exceed 64 bits (also of the dimensions beside a zero, so that strides are
/// safe) or do not fill whole bytes. The one place where sizes of tensors are computed.
constexpr std::optional<std::uint64_t> tensor_bytes(Dtype type, std::span<const std::uint64_t> shape) {
  std::uint64_t bits = dtype_bits(type);
  bool empty = false;
  for (const std::uint64_t size : shape) {
    empty = empty || size == 0;
    if (size != 0 && __builtin_mul_overflow(bits, size, &bits)) return std::nullopt;
  }
  if (empty) return 0;
  return bits % 8 == 0 ? std::optional(bits / 8) : std::nullopt;
}

/// "[2, 3]"
inline std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += concat(i == 0 ? "" : ", ", shape[i]);
  return concat(text, "]");
}

// ---- what a header says

struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::U8;
  std::vector<std::uint64_t> shape;
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t bytes = 0;
};

/// A header that passed: the tensors tile the bytes behind the header exactly, in this order.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;     // by offset
  std::vector<std::uint32_t> by_name;  // indices into `tensors`, in the order of names
  std::map<std::string, std::string> metadata;

  /// Null if there is none of this name.
  const TensorInfo* find(std::string_view name) const {
    const auto at = std::lower_bound(by_name.begin(), by_name.end(), name,
                                     [&](std::uint32_t i, std::string_view n) { return tensors[i].name < n; });
    return at != by_name.end() && tensors[*at].name == name ? &tensors[*at] : nullptr;
  }
};

/// Limits of this reader. The first is the format's own; the others are far above every published model.
struct SafetensorsLimits {
  static constexpr std::uint64_t header_bytes = 100'000'000;
  static constexpr std::size_t name_bytes = 4096;
  static constexpr std::size_t rank = 8;
};

namespace detail {

/// Whether a name may be shown and compared without surprises; nlohmann has refused invalid UTF-8 already.
inline bool has_control_characters(std::string_view name) {
  return std::any_of(name.begin(), name.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; });
}

/// Reads `{"name": {"dtype": .., "shape": [..], "data_offsets": [begin, end]}, "__metadata__": {..}}`; every other
/// form is refused where it stands.
class SafetensorsEvents : public JsonEvents {
 public:
  SafetensorsEvents(std::string_view file, std::string_view text, std::uint64_t file_size)
      : JsonEvents(concat(file, ": header"), 8), data_begin_(8 + text.size()), data_bytes_(file_size - data_begin_) {
    // "":{"dtype":"I8","shape":[],"data_offsets":[0,0]}, -- what the bytes can hold bounds what we reserve.
    constexpr std::size_t smallest_entry = 48;
    const auto braces = static_cast<std::size_t>(std::count(text.begin(), text.end(), '{'));
    header.tensors.reserve(std::min(braces, text.size() / smallest_entry + 1));
  }

  SafetensorsHeader header;

  bool start_object(std::size_t) {
    switch (state_) {
      case State::begin:
        return go(State::top);
      case State::tensor_begin:
        return go(State::tensor);
      case State::metadata_begin:
        return go(State::metadata);
      default:
        return unexpected("an object");
    }
  }
  bool key(std::string& name) {
    switch (state_) {
      case State::top:
        return start_entry(name);
      case State::tensor:
        return start_field(name);
      default:
        break;
    }
    metadata_key_ = std::move(name);
    return go(State::metadata_value);
  }
  bool end_object() {
    switch (state_) {
      case State::tensor:
        return end_tensor();
      case State::metadata:
        return go(State::top);
      default:
        return go(State::end);
    }
  }
  bool start_array(std::size_t) {
    if (state_ == State::shape_begin) return go(State::shape);
    if (state_ == State::offsets_begin) return go(State::offsets);
    return unexpected("an array");
  }
  bool end_array() {
    if (state_ == State::offsets && offsets_ != 2) return unexpected(std::to_string(offsets_));
    return go(State::tensor);
  }
  bool number_unsigned(std::uint64_t value) {
    if (state_ == State::shape) return add_dimension(value);
    if (state_ != State::offsets || offsets_ == 2) return unexpected(std::to_string(value));
    offset_[offsets_++] = value;
    return true;
  }
  bool string(std::string& value) {
    if (state_ == State::dtype) return set_dtype(value);
    if (state_ != State::metadata_value) return unexpected(concat("the string ", in_quotes(value)));
    if (!header.metadata.emplace(metadata_key_, std::move(value)).second) {
      fail(concat("__metadata__ key ", in_quotes(metadata_key_)), "each key once", "a second one");
    }
    return go(State::metadata);
  }
  bool null() { return unexpected("null"); }
  bool boolean(bool value) { return unexpected(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) { return unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) { return unexpected(text.substr(0, 40)); }

 private:
  // clang-format off
  enum class State { begin, top, tensor_begin, tensor, dtype, shape_begin, shape, offsets_begin, offsets,
                     metadata_begin, metadata, metadata_value, end };
  // clang-format on
  static constexpr std::array<const char*, 13> expected_{"an object",
                                                         "a tensor's name",
                                                         "an object with dtype, shape and data_offsets",
                                                         "a field",
                                                         "a string for dtype",
                                                         "an array for shape",
                                                         "an unsigned integer in shape",
                                                         "an array for data_offsets",
                                                         "exactly two unsigned integers in data_offsets",
                                                         "an object of strings for __metadata__",
                                                         "a metadata key",
                                                         "a string in __metadata__",
                                                         "nothing more"};
  enum Field : unsigned { has_dtype = 1, has_shape = 2, has_offsets = 4, has_all = 7 };

  bool go(State next) {
    state_ = next;
    return true;
  }
  bool unexpected(const std::string& found) const {
    fail(in_tensor_ ? concat("tensor ", in_quotes(tensor_.name)) : "JSON", expected_[static_cast<std::size_t>(state_)],
         found);
  }
  [[noreturn]] void bad_tensor(const std::string& what, const std::string& expected, const std::string& found) const {
    fail(concat("tensor ", in_quotes(tensor_.name), ": ", what), expected, found);
  }

  bool start_entry(std::string& name) {
    if (name == "__metadata__") {
      if (std::exchange(seen_metadata_, true)) fail("key \"__metadata__\"", "each key once", "a second one");
      return go(State::metadata_begin);
    }
    tensor_ = {};
    tensor_.name = std::move(name);
    in_tensor_ = true;
    fields_ = 0;
    offsets_ = 0;
    if (tensor_.name.size() > SafetensorsLimits::name_bytes) {
      bad_tensor("name", concat("at most ", SafetensorsLimits::name_bytes, " bytes"),
                 std::to_string(tensor_.name.size()));
    }
    if (has_control_characters(tensor_.name)) bad_tensor("name", "printable text", "a control character");
    return go(State::tensor_begin);
  }
  bool start_field(const std::string& name) {
    if (name == "dtype") return first_time(name, has_dtype, State::dtype);
    if (name == "shape") return first_time(name, has_shape, State::shape_begin);
    if (name == "data_offsets") return first_time(name, has_offsets, State::offsets_begin);
    bad_tensor("field", "dtype, shape or data_offsets", in_quotes(name));
  }
  bool first_time(const std::string& name, Field field, State next) {
    if ((fields_ & field) != 0) bad_tensor(concat("field ", in_quotes(name)), "each field once", "a second one");
    fields_ |= field;
    return go(next);
  }
  bool set_dtype(const std::string& name) {
    const std::optional<Dtype> type = dtype_named(name);
    if (!type) bad_tensor("dtype", "a type of the safetensors format", in_quotes(name));
    tensor_.dtype = *type;
    return go(State::tensor);
  }
  bool add_dimension(std::uint64_t size) {
    if (tensor_.shape.size() == SafetensorsLimits::rank) {
      bad_tensor("shape", concat("at most ", SafetensorsLimits::rank, " dimensions"), "more");
    }
    tensor_.shape.push_back(size);
    return true;
  }
  bool end_tensor() {
    if (fields_ != has_all) {
      const char* missing = (fields_ & has_dtype) == 0   ? "dtype"
                            : (fields_ & has_shape) == 0 ? "shape"
                                                         : "data_offsets";
      bad_tensor("fields", missing, "none");
    }
    place_tensor();
    header.tensors.push_back(std::move(tensor_));
    in_tensor_ = false;
    return go(State::top);
  }
  void place_tensor() {
    const auto [first, last] = offset_;
    if (first > last || last > data_bytes_) {
      bad_tensor("data_offsets", concat("a range within [0, ", data_bytes_, ")"), extent_text());
    }
    const std::optional<std::uint64_t> bytes = tensor_bytes(tensor_.dtype, tensor_.shape);
    if (!bytes) bad_tensor("shape", "a size in whole bytes below 2^61", type_text());
    if (*bytes != last - first) {
      bad_tensor("data_offsets", concat(*bytes, " bytes for ", type_text()),
                 concat(last - first, " in ", extent_text()));
    }
    tensor_.offset = data_begin_ + first;
    tensor_.bytes = *bytes;
  }
  std::string extent_text() const { return concat("[", offset_[0], ", ", offset_[1], ")"); }
  std::string type_text() const { return concat(shape_text(tensor_.shape), " of ", dtype_name(tensor_.dtype)); }

  std::uint64_t data_begin_;
  std::uint64_t data_bytes_;
  State state_ = State::begin;
  TensorInfo tensor_;
  std::array<std::uint64_t, 2> offset_{};
  std::size_t offsets_ = 0;
  unsigned fields_ = 0;
  bool in_tensor_ = false;
  bool seen_metadata_ = false;
  std::string metadata_key_;
};

/// "FILE: tensor "NAME" at byte N": for faults of a tensor's place in the file.
inline std::string tensor_place(std::string_view file, const TensorInfo& tensor) {
  return concat(file, ": tensor ", in_quotes(tensor.name), " at byte ", tensor.offset);
}

/// Every byte behind the header belongs to exactly one tensor. Sorts the tensors by offset.
inline void check_tiling(SafetensorsHeader& header, std::string_view file, std::uint64_t begin, std::uint64_t end) {
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  const auto at = [](std::uint64_t byte) { return concat("byte ", byte); };
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.offset != begin) {
      const char* what = tensor.offset < begin ? "overlaps the tensor before it" : "leaves a hole before it";
      raise(IoError(tensor_place(file, tensor), what, concat("data from ", at(begin)), at(tensor.offset)));
    }
    begin += tensor.bytes;
  }
  if (begin != end) {
    raise(IoError(concat(file, ": data"), "bytes that belong to no tensor",
                  concat("the end of the file at ", at(begin)), concat("it at ", at(end))));
  }
}

inline void index_names(SafetensorsHeader& header, std::string_view file) {
  const std::vector<TensorInfo>& tensors = header.tensors;
  header.by_name.resize(tensors.size());
  std::iota(header.by_name.begin(), header.by_name.end(), 0u);
  std::sort(header.by_name.begin(), header.by_name.end(), [&](std::uint32_t a, std::uint32_t b) {
    const int order = tensors[a].name.compare(tensors[b].name);
    return order != 0 ? order < 0 : a < b;
  });
  for (std::size_t i = 1; i < header.by_name.size(); ++i) {
    const TensorInfo& tensor = tensors[header.by_name[i]];
    if (tensors[header.by_name[i - 1]].name == tensor.name) {
      raise(IoError(tensor_place(file, tensor), "duplicate name", "each name once", "a second one"));
    }
  }
}

}  // namespace detail

/// Bytes of the JSON text that the first eight bytes of a file announce (little-endian). Throws `IoError` unless the
/// file can hold them.
inline std::uint64_t safetensors_header_bytes(std::span<const std::byte> head, std::uint64_t file_size,
                                              std::string_view file_name) {
  const std::string where = concat(file_name, ": header at byte 0");
  if (head.size() < 8 || file_size < 8) {
    raise(IoError(where, "length", "8 bytes", std::to_string(std::min<std::uint64_t>(head.size(), file_size))));
  }
  std::uint64_t bytes = 0;
  for (std::size_t i = 8; i-- > 0;) bytes = bytes << 8 | std::to_integer<std::uint64_t>(head[i]);
  const std::uint64_t most = std::min(SafetensorsLimits::header_bytes, file_size - 8);
  if (bytes < 2 || bytes > most) {
    raise(IoError(where, "length", concat("2 to ", most, " bytes"), std::to_string(bytes)));
  }
  return bytes;
}

/// Parses and validates the head of a safetensors file: `bytes` starts with the file and reaches at least to the end
/// of the JSON text; nothing behind it is read. Throws `IoError` that names `file_name`, the tensor, the byte, what was
/// expected and what was found. Allocates in proportion to the header's real bytes only.
inline SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, std::uint64_t file_size,
                                                  std::string_view file_name) {
  const std::uint64_t length = safetensors_header_bytes(bytes, file_size, file_name);
  if (length > bytes.size() - 8) {
    raise(IoError(concat(file_name, ": header at byte 8"), "JSON", concat(length, " bytes"),
                  std::to_string(bytes.size() - 8)));
  }
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length));
  detail::SafetensorsEvents events(file_name, text, file_size);
  // Writers pad with spaces only; other white space behind the JSON is not the format.
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  if (text.empty() || text.back() != '}') {
    events.consumed = text.size();
    events.fail("JSON", "\"}\", then spaces only", text.empty() ? "spaces" : in_quotes(text.substr(text.size() - 1)));
  }
  detail::parse_events(text, events);
  detail::check_tiling(events.header, file_name, 8 + length, file_size);
  detail::index_names(events.header, file_name);
  return std::move(events.header);
}

}  // namespace moe::io

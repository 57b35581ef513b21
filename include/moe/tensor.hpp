// Memory spaces, non-owning rows and views, aligned buffers, arenas, and the 16-bit floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <moe/config.hpp>
#include <moe/error.hpp>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace moe {

// ---- memory spaces

struct host_queue {};

/// A memory tag names its queue (work of one call is in order on it) and its staging memory.
struct host_memory {
  using queue = host_queue;
  using staging = host_memory;
};

// ---- bits

/// std::bit_cast for host and device.
template <class To, class From>
MOE_HD constexpr To bit_cast(const From& from) noexcept {
  return __builtin_bit_cast(To, from);
}

// ---- Row: a span that device code may use

template <class T>
class Row {
 public:
  constexpr Row() = default;
  MOE_HD constexpr Row(T* data, int size) : data_(data), size_(size) {}
  template <class U>
  requires std::is_same_v<const U, T> MOE_HD constexpr Row(const Row<U>& other)
      : data_(other.data()), size_(other.size()) {}  // NOLINT: a view of const

  MOE_HD constexpr T* data() const noexcept { return data_; }
  MOE_HD constexpr int size() const noexcept { return size_; }
  MOE_HD constexpr bool empty() const noexcept { return size_ == 0; }
  MOE_HD constexpr T& operator[](int i) const noexcept {
    MOE_ASSERT(i >= 0 && i < size_);
    return data_[i];
  }
  MOE_HD constexpr T* begin() const noexcept { return data_; }
  MOE_HD constexpr T* end() const noexcept { return data_ + size_; }
  MOE_HD constexpr Row first(int n) const noexcept {
    MOE_ASSERT(n >= 0 && n <= size_);
    return {data_, n};
  }

 private:
  T* data_ = nullptr;
  int size_ = 0;
};

// ---- View: a row-major matrix somewhere

/// Non-owning [rows, cols] matrix in memory `M`; `stride` counts elements from one row to the next.
/// Views of different memories do not convert into each other.
template <class T, class M = host_memory>
struct View {
  T* data = nullptr;
  int rows = 0;
  int cols = 0;
  std::ptrdiff_t stride = 0;

  constexpr View() = default;
  MOE_HD constexpr View(T* d, int r, int c) : data(d), rows(r), cols(c), stride(c) {}
  MOE_HD constexpr View(T* d, int r, int c, std::ptrdiff_t s) : data(d), rows(r), cols(c), stride(s) {}
  template <class U>
  requires std::is_same_v<const U, T> MOE_HD constexpr View(const View<U, M>& o)
      : data(o.data), rows(o.rows), cols(o.cols), stride(o.stride) {}  // NOLINT

  MOE_HD constexpr Row<T> row(int i) const noexcept {
    MOE_ASSERT(i >= 0 && i < rows);
    return {data + i * stride, cols};
  }
  MOE_HD constexpr View slice(int first, int count) const noexcept {
    MOE_ASSERT(first >= 0 && count >= 0 && first + count <= rows);
    return {data + first * stride, count, cols, stride};
  }
};

// ---- arithmetic on sizes

/// `value` rounded up to a multiple of `step`.
template <class Int>
MOE_HD constexpr Int round_up(Int value, Int step) {
  return (value + step - 1) / step * step;
}

/// Number of `step`-sized pieces that cover `value`.
template <class Int>
MOE_HD constexpr Int pieces(Int value, Int step) {
  return (value + step - 1) / step;
}

// ---- owning memory

/// Cache-line alignment that every record, panel and arena allocation keeps.
inline constexpr std::size_t alignment = 64;

/// Alignment of every Buffer: what O_DIRECT reads need.
inline constexpr std::size_t page_alignment = 4096;

/// Buffers of at least this size begin on it, and ask the kernel to back them with pages of it: fewer translations
/// make reading weights 5 to 8 % faster (docs/performance.md).
inline constexpr std::size_t huge_page = std::size_t{2} << 20;

/// Owning, page-aligned, movable host bytes. Contents are not initialised.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes) : data_(bytes == 0 ? nullptr : allocate(bytes)), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_ != nullptr) ::operator delete(data_, alignment_of(bytes_));
  }

  std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }
  /// Makes the system find all pages now: otherwise the first read into each waits for it.
  void touch() noexcept {
    for (std::size_t at = 0; at < bytes_; at += page_alignment) data_[at] = std::byte{0};
  }

 private:
  static std::align_val_t alignment_of(std::size_t bytes) noexcept {
    return std::align_val_t{bytes >= huge_page ? huge_page : page_alignment};
  }
  static std::byte* allocate(std::size_t bytes) {
    auto* data = static_cast<std::byte*>(::operator new(bytes, alignment_of(bytes)));
#if defined(__linux__)
    if (bytes >= huge_page) ::madvise(data, bytes, MADV_HUGEPAGE);  // a wish: refusal changes nothing but speed
#endif
    return data;
  }

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Hands out aligned pieces of one block. With a null base it only measures: the same text sizes and carves.
class Arena {
 public:
  constexpr Arena() = default;
  constexpr Arena(std::byte* base, std::size_t capacity) : base_(base), capacity_(capacity) {}

  template <class T>
  constexpr T* take(std::size_t count) {
    static_assert(alignof(T) <= alignment);
    const std::size_t offset = used_;
    used_ = round_up(used_ + count * sizeof(T), alignment);
    MOE_ASSERT(base_ == nullptr || used_ <= capacity_);
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + offset);
  }
  template <class T, class M>
  constexpr View<T, M> matrix(int rows, int cols) {
    return {take<T>(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols)), rows, cols};
  }
  constexpr std::size_t used() const { return used_; }

 private:
  std::byte* base_ = nullptr;
  [[maybe_unused]] std::size_t capacity_ = 0;  // read by checked builds only
  std::size_t used_ = 0;
};

// ---- 16-bit floats

/// bfloat16: the upper half of a float. Conversion from float rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;

  constexpr bf16() = default;
  MOE_HD explicit constexpr bf16(float value) : bits(round(bit_cast<std::uint32_t>(value))) {}
  MOE_HD explicit constexpr operator float() const { return bit_cast<float>(std::uint32_t{bits} << 16); }

 private:
  MOE_HD static constexpr std::uint16_t round(std::uint32_t u) {
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);
    return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

/// IEEE binary16. Conversion from float rounds to nearest, ties to even; overflow gives infinity; NaN stays NaN.
struct f16 {
  std::uint16_t bits = 0;

  constexpr f16() = default;
  MOE_HD explicit constexpr f16(float value) : bits(round(bit_cast<std::uint32_t>(value))) {}
  MOE_HD explicit constexpr operator float() const {
    const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16;
    const std::uint32_t exponent = (bits >> 10) & 31u;
    const std::uint32_t mantissa = bits & 1023u;
    if (exponent == 31)
      return bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) | (mantissa != 0 ? 0x400000u : 0u));
    if (exponent != 0) return bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }

 private:
  MOE_HD static constexpr std::uint16_t round(std::uint32_t u) {
    const std::uint32_t sign = (u >> 16) & 0x8000u;
    const std::uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) {
      const std::uint32_t rebased = magnitude - 0x38000000u;
      return static_cast<std::uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
    }
    return static_cast<std::uint16_t>(sign | subnormal(magnitude));
  }
  MOE_HD static constexpr std::uint32_t subnormal(std::uint32_t magnitude) {
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return 0;
    const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const std::uint32_t shift = 126 - exponent;
    const std::uint32_t kept = mantissa >> shift;
    const std::uint32_t rest = mantissa & ((1u << shift) - 1u);
    const std::uint32_t half = 1u << (shift - 1);
    return kept + ((rest > half || (rest == half && (kept & 1u) != 0)) ? 1u : 0u);
  }
};

using f32 = float;

/// Element types that checkpoints store.
enum class ElementType { float32, bfloat16, float16 };

template <class T>
MOE_HD constexpr ElementType element_type_of() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, f16>,
                "moe: elements are float, moe::bf16 or moe::f16");
  if constexpr (std::is_same_v<T, bf16>) return ElementType::bfloat16;
  if constexpr (std::is_same_v<T, f16>) return ElementType::float16;
  return ElementType::float32;
}

MOE_HD constexpr std::size_t element_bytes(ElementType type) { return type == ElementType::float32 ? 4 : 2; }

constexpr const char* element_type_name(ElementType type) {
  return type == ElementType::float32 ? "float32" : (type == ElementType::bfloat16 ? "bfloat16" : "float16");
}

// ---- views of any element type

template <class T>
inline constexpr bool is_element = std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

/// One row of an ElementView; numbers are read as float32, which is exact.
class ElementRow {
 public:
  MOE_HD constexpr ElementRow(const void* data, ElementType type, int size) : data_(data), type_(type), size_(size) {}
  MOE_HD constexpr int size() const noexcept { return size_; }
  MOE_HD float operator[](int i) const noexcept {
    MOE_ASSERT(i >= 0 && i < size_);
    if (type_ == ElementType::float32) return static_cast<const float*>(data_)[i];
    return type_ == ElementType::bfloat16 ? float(static_cast<const bf16*>(data_)[i])
                                          : float(static_cast<const f16*>(data_)[i]);
  }

 private:
  const void* data_;
  ElementType type_;
  int size_;
};

/// A View of float, bf16 or f16, known when the program runs: activations and gate weights in the type that their host
/// application holds. Void is `void` or `const void`; `stride` counts elements.
template <class Void, class M>
class BasicElementView {
  template <class T>
  static constexpr bool fits = is_element<std::remove_const_t<T>> && (std::is_const_v<Void> || !std::is_const_v<T>);
  using Float = std::conditional_t<std::is_const_v<Void>, const float, float>;

 public:
  Void* data = nullptr;
  ElementType type = ElementType::float32;
  int rows = 0;
  int cols = 0;
  std::ptrdiff_t stride = 0;

  constexpr BasicElementView() = default;
  /// No matrix, of some size.
  MOE_HD constexpr BasicElementView(std::nullptr_t, int r, int c) : rows(r), cols(c), stride(c) {}
  template <class T>
  requires fits<T> MOE_HD constexpr BasicElementView(T* d, int r, int c) : BasicElementView(d, r, c, c) {}
  template <class T>
  requires fits<T> MOE_HD constexpr BasicElementView(T* d, int r, int c, std::ptrdiff_t s)
      : data(d), type(element_type_of<std::remove_const_t<T>>()), rows(r), cols(c), stride(s) {}
  template <class T>
  requires fits<T> MOE_HD constexpr BasicElementView(const View<T, M>& v)  // NOLINT: a view of one type is one
      : BasicElementView(v.data, v.rows, v.cols, v.stride) {}
  template <class V>
  requires(std::is_const_v<Void> && !std::is_const_v<V>) MOE_HD
      constexpr BasicElementView(const BasicElementView<V, M>& v)  // NOLINT: a view of const
      : data(v.data), type(v.type), rows(v.rows), cols(v.cols), stride(v.stride) {}

  MOE_HD constexpr bool is_float() const noexcept { return type == ElementType::float32; }
  /// The same matrix, which is one of float32.
  MOE_HD View<Float, M> floats() const noexcept {
    MOE_ASSERT(is_float());
    return {static_cast<Float*>(data), rows, cols, stride};
  }
  /// For policies that take float32 alone: throws Error for another type.
  operator View<const float, M>() const {  // NOLINT
    if (!is_float())
      raise(Error("moe::View", "element type, for a policy that takes no other", "float32", element_type_name(type)));
    return floats();
  }
  MOE_HD ElementRow row(int i) const noexcept {
    MOE_ASSERT(i >= 0 && i < rows);
    return {at(i), type, cols};
  }
  MOE_HD BasicElementView slice(int first, int count) const noexcept {
    MOE_ASSERT(first >= 0 && count >= 0 && first + count <= rows);
    BasicElementView v = *this;
    v.data = at(first);
    v.rows = count;
    return v;
  }
  /// Rounds to nearest, ties to even, where the type is narrower.
  MOE_HD void set(int r, int c, float value) const noexcept requires(!std::is_const_v<Void>) {
    if (type == ElementType::float32) static_cast<float*>(at(r))[c] = value;
    if (type == ElementType::bfloat16) static_cast<bf16*>(at(r))[c] = bf16(value);
    if (type == ElementType::float16) static_cast<f16*>(at(r))[c] = f16(value);
  }

 private:
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
  MOE_HD Void* at(int i) const noexcept {
    return static_cast<Byte*>(data) + i * stride * static_cast<std::ptrdiff_t>(element_bytes(type));
  }
};
template <class M = host_memory>
using ElementView = BasicElementView<void, M>;
template <class M = host_memory>
using ConstElementView = BasicElementView<const void, M>;

/// Non-owning matrix of any element type and order, as checkpoints and host applications hold it.
/// Element (r, c) lies at `data + (r * row_stride + c * col_stride) * element_bytes(type)`.
struct Matrix {
  const void* data = nullptr;
  ElementType type = ElementType::float32;
  int rows = 0;
  int cols = 0;
  std::ptrdiff_t row_stride = 0;
  std::ptrdiff_t col_stride = 1;

  constexpr Matrix() = default;
  constexpr Matrix(const void* d, ElementType t, int r, int c, std::ptrdiff_t rs, std::ptrdiff_t cs)
      : data(d), type(t), rows(r), cols(c), row_stride(rs), col_stride(cs) {}
  /// Row-major [rows, cols].
  template <class T>
  constexpr Matrix(const T* d, int r, int c) : data(d), type(element_type_of<T>()), rows(r), cols(c), row_stride(c) {}

  constexpr Matrix transposed() const { return {data, type, cols, rows, col_stride, row_stride}; }

  /// Element (r, c) as float; exact for every element type.
  float at(int r, int c) const noexcept {
    MOE_ASSERT(r >= 0 && r < rows && c >= 0 && c < cols);
    const std::ptrdiff_t offset = r * row_stride + c * col_stride;
    const auto* bytes = static_cast<const std::byte*>(data) + offset * static_cast<std::ptrdiff_t>(element_bytes(type));
    if (type == ElementType::float32) return load<float>(bytes);
    return type == ElementType::bfloat16 ? float(load<bf16>(bytes)) : float(load<f16>(bytes));
  }

 private:
  template <class T>
  static T load(const std::byte* bytes) noexcept {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
};

}  // namespace moe

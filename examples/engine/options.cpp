#include "options.hpp"

#include <array>
#include <charconv>
#include <cstdint>

namespace engine {

namespace {

constexpr std::array<std::string_view, 5> format_names{"f32", "bf16", "f16", "q8_0", "mxfp4"};

/// "64M" as bytes; nothing if it is no number, zero, or too large.
std::optional<std::size_t> bytes_from_text(std::string_view text) {
  constexpr std::string_view suffixes = "KMG";
  unsigned shift = 0;
  if (!text.empty()) {
    if (const std::size_t at = suffixes.find(text.back()); at != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(at) + 1);
      text.remove_suffix(1);
    }
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (!whole || value == 0 || value > (std::uint64_t{1} << 62) >> shift) return std::nullopt;
  return static_cast<std::size_t>(value << shift);
}

}  // namespace

std::string_view format_name(Format format) { return format_names[static_cast<std::size_t>(format)]; }

Format format_from_name(std::string_view name) {
  for (std::size_t i = 0; i < format_names.size(); ++i) {
    if (format_names[i] == name) return static_cast<Format>(i);
  }
  moe::raise(moe::Error("--format", "weight format", "f32, bf16, f16, q8_0 or mxfp4", std::string(name)));
}

Format format_of(moe::ElementType type) {
  if (type == moe::ElementType::float32) return Format::f32;
  return type == moe::ElementType::bfloat16 ? Format::bf16 : Format::f16;
}

StorageChoice storage_from_text(std::string_view text) {
  constexpr std::string_view cached = "cached:";
  if (text == "resident") return {};
  if (text.starts_with(cached)) {
    if (const auto bytes = bytes_from_text(text.substr(cached.size()))) return {bytes};
  }
  moe::raise(moe::Error("--storage", "storage of the experts", "resident or cached:BYTES (as in cached:64M)",
                        std::string(text)));
}

}  // namespace engine

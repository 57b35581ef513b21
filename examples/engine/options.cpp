#include "options.hpp"

#include <array>

namespace engine {

namespace {

constexpr std::array<std::string_view, 6> format_names{"f32", "bf16", "f16", "q8_0", "mxfp4", "q4_0"};

}  // namespace

std::string_view format_name(Format format) { return format_names[static_cast<std::size_t>(format)]; }

Format format_from_name(std::string_view name) {
  for (std::size_t i = 0; i < format_names.size(); ++i) {
    if (format_names[i] == name) return static_cast<Format>(i);
  }
  moe::raise(moe::Error("--format", "weight format", "f32, bf16, f16, q8_0, mxfp4 or q4_0", std::string(name)));
}

Format format_of(moe::ElementType type) {
  if (type == moe::ElementType::float32) return Format::f32;
  return type == moe::ElementType::bfloat16 ? Format::bf16 : Format::f16;
}

}  // namespace engine

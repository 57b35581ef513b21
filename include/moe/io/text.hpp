// Small things the readers share: hostile names in messages, small text files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include <moe/error.hpp>
#include <moe/storage/posix_file.hpp>

namespace moe::io {

/// `text` in quotes for a message: bytes outside printable ASCII as \xNN, cut to 120 bytes.
/// Names in model files are a stranger's text and must not steer a terminal.
inline std::string in_quotes(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  constexpr std::size_t longest = 120;
  std::string out = "\"";
  for (const char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return out + (text.size() > longest ? "...\"" : "\"");
}

/// The whole of a small untrusted text file; throws `IoError` if it holds more than `most` bytes.
inline std::string read_text(const std::filesystem::path& path, std::uint64_t most) {
  const InputFile file(path);
  if (file.size() > most) {
    raise(IoError(file.path(), "size", concat("at most ", most, " bytes"), std::to_string(file.size())));
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span<char>(text)));
  return text;
}

}  // namespace moe::io

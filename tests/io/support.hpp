// What the tests of moe/io share: files made by hand, a folder that goes away, the message of an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <moe/error.hpp>
#include <moe/io/text.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "temporary_folder.hpp"

namespace io_test {

using moe::concat;

/// The bytes of a safetensors file as somebody could write it: any length field, any text, `data` zeros.
inline std::string raw_file(std::uint64_t length, std::string_view text, std::size_t data = 0) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(static_cast<unsigned char>(length >> (8 * i)));
  return bytes + std::string(text) + std::string(data, '\0');
}
inline std::string file_of(std::string_view text, std::size_t data = 0) { return raw_file(text.size(), text, data); }

/// `"name":{"dtype":..,"shape":..,"data_offsets":..}`
inline std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
  return concat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", offsets, "}");
}
/// Tensor "a", one byte an element.
inline std::string bytes_entry(const std::string& name, int begin, int end) {
  return entry(name, "U8", concat("[", end - begin, "]"), concat("[", begin, ",", end, "]"));
}

inline std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

/// What the IoError says that `run` throws; "" if it throws none.
template <class Run>
std::string message_of(Run&& run) {
  try {
    run();
  } catch (const moe::IoError& error) {
    return error.what();
  }
  return {};
}
inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace io_test

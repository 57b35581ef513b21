// damage: a record file as a fault of a disk leaves it.
#pragma once

#include <moe/io/xxh3.hpp>
#include <moe/storage/file.hpp>
#include <string>

#include "support.hpp"

namespace engine_test {

/// Flips a bit in the middle of one record of a file.
inline void damage(const std::string& path, int layer, moe::ExpertId expert) {
  const moe::InputFile file(path, moe::Access::buffered);
  const moe::RecordIndex<moe::io::Xxh3> index(file, "");
  const moe::RecordFileHead& head = index.head();
  std::string bytes = read_file(path);
  bytes[static_cast<std::size_t>(head.offset(0, layer, expert) + head.series[0].record_bytes / 2)] ^= 1;
  write_file(path, bytes);
}

}  // namespace engine_test

// Fuzzes the readers of untrusted text: safetensors headers, shard indices, config.json. What they accept must be
// sound.
//
// First byte modulo 4: 0 a file as it stands; 1 a header's text, to which the length field is added (two bytes of data
// size first), so that mutations reach the tensors; 2 an index; 3 a config.
#include <cstddef>
#include <cstdint>
#include <moe/io/families.hpp>
#include <moe/io/tensor_set.hpp>
#include <span>
#include <string>
#include <string_view>

namespace {

using Bytes = std::span<const std::byte>;
__extension__ using Wide = unsigned __int128;

void must(bool holds) {
  if (!holds) __builtin_trap();
}

/// Recomputes what an accepted header promises, in 128 bits and without the parser's helpers.
void check_header(Bytes bytes, std::uint64_t file_size) {
  const auto header = moe::io::parse_safetensors_header(bytes, file_size, "fuzz");
  std::uint64_t at = 8;
  for (std::size_t i = 0; i < 8; ++i) at += std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  for (const moe::io::TensorInfo& tensor : header.tensors) {
    Wide bits = moe::io::dtype_bits(tensor.dtype);
    for (const std::uint64_t size : tensor.shape) {
      bits *= size;
      must(bits <= ~std::uint64_t{0});
    }
    must(tensor.offset == at && bits == Wide{tensor.bytes} * 8);
    must(header.find(tensor.name) == &tensor);
    at += tensor.bytes;
  }
  must(at == file_size);
}

void check_text(Bytes input) {
  if (input.size() < 2) return;
  const std::uint64_t data = std::to_integer<std::uint64_t>(input[0]) << 8 | std::to_integer<std::uint64_t>(input[1]);
  const Bytes text = input.subspan(2);
  std::string file;
  for (std::size_t i = 0; i < 8; ++i) file += static_cast<char>(static_cast<unsigned char>(text.size() >> (8 * i)));
  file.append(reinterpret_cast<const char*>(text.data()), text.size());
  check_header(std::as_bytes(std::span(file)), file.size() + data);
}

void check_index(std::string_view text) {
  const auto index = moe::io::parse_safetensors_index(text, "fuzz");
  for (std::size_t i = 0; i < index.entries.size(); ++i) {
    must(index.entries[i].shard < index.shards.size());
    must(i == 0 || index.entries[i - 1].tensor < index.entries[i].tensor);
  }
  for (const std::string& shard : index.shards) must(shard.find('/') == std::string::npos && shard != "..");
}

void check_config(std::string_view text) {
  const auto config = moe::io::parse_model_config(text, "fuzz");
  must(config.layers() > 0 && config.hidden() > 0 && config.vocab > 0 && config.blocks.ffn.at(0) > 0);
  must(config.experts_per_token() > 0 && config.experts_per_token() <= config.experts());
  must(config.kv_heads > 0 && config.heads % config.kv_heads == 0 && config.head_dim > 0 && config.head_dim % 2 == 0);
  must(config.rope_theta >= 1 && config.rms_norm_eps >= 0 && config.max_positions > 0 && config.blocks.dense_ffn >= 0);
  for (const int id : config.eos_ids) must(id >= 0 && id < config.vocab);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const Bytes input = std::as_bytes(std::span(data + 1, size - 1));
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  try {
    switch (data[0] % 4) {
      case 0:
        check_header(input, input.size());
        break;
      case 1:
        check_text(input);
        break;
      case 2:
        check_index(text);
        break;
      default:
        check_config(text);
    }
  } catch (const moe::IoError&) {
    // refused with a message: what a reader is for
  }
  return 0;
}

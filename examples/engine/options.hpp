// What a user may choose about a model: weight format of the experts, where they live, threads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <moe/executors/cpu.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace engine {

/// In the order of `Formats`.
enum class Format { f32, bf16, f16, q8_0, mxfp4 };
using Formats = moe::formats<moe::f32, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4>;

std::string_view format_name(Format format);
/// Throws moe::Error for other names.
Format format_from_name(std::string_view name);
Format format_of(moe::ElementType type);

/// Calls `f(std::type_identity<F>{})` with the library's type of a format.
template <class Function>
void with_format(Format format, Function&& f) {
  moe::with_format(Formats{}, static_cast<int>(format), f);
}

/// All experts in memory, or as many of all layers together as fit a budget.
struct StorageChoice {
  std::optional<std::size_t> cache_bytes;
};

/// "resident" or "cached:BYTES", where K, M and G after the number stand for powers of 1024.
/// Throws moe::Error for anything else.
StorageChoice storage_from_text(std::string_view text);

struct Options {
  StorageChoice storage;
  std::optional<Format> format;  // none: what the checkpoint stores
  moe::Cpu cpu;
  std::filesystem::path adamoe = {};  // directory of what makes an AdaMoE of the model; empty: nothing
};

}  // namespace engine

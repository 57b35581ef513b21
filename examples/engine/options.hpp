// What a user may choose about a model: weight format of the experts, where they live, threads.
#pragma once

#include <filesystem>
#include <moe/executors/cpu.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "storage_choice.hpp"

namespace engine {

/// In the order of `Formats`.
enum class Format { f32, bf16, f16, q8_0, mxfp4, q4_0 };
using Formats = moe::formats<moe::f32, moe::bf16, moe::f16, moe::q8_0, moe::mxfp4, moe::q4_0>;

std::string_view format_name(Format format);
/// Throws moe::Error for other names.
Format format_from_name(std::string_view name);
Format format_of(moe::ElementType type);

/// Calls `f(std::type_identity<F>{})` with the library's type of a format.
template <class Function>
void with_format(Format format, Function&& f) {
  moe::with_format(Formats{}, static_cast<int>(format), f);
}

struct Options {
  StorageChoice storage;
  std::optional<Format> format;  // none: what the checkpoint stores
  moe::Cpu cpu;
  std::filesystem::path adamoe = {};  // directory of what makes an AdaMoE of the model; empty: nothing
};

}  // namespace engine

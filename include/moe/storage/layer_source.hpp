// LayerSource: any record source behind pointers, so that what layers share can read for each of them.
#pragma once

#include <moe/concepts.hpp>

namespace moe::detail {

/// Does not own; the source must stay where it is.
struct LayerSource {
  template <class Source>
  static LayerSource of(const Source& source) noexcept {
    return {&source, [](const void* s, const ReadRequest& request) { static_cast<const Source*>(s)->read(request); },
            [](const void* s, const void* who) noexcept { moe::hurry(*static_cast<const Source*>(s), who); }};
  }
  void read(const ReadRequest& request) const { read_(source_, request); }
  void hurry(const void* who) const noexcept { hurry_(source_, who); }

  const void* source_ = nullptr;
  void (*read_)(const void*, const ReadRequest&) = nullptr;
  void (*hurry_)(const void*, const void*) noexcept = nullptr;
};

}  // namespace moe::detail

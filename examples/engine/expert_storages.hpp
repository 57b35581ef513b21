// ExpertStorages: the storage of each layer's experts, as a StorageChoice wants it.
#pragma once

#include <memory>
#include <moe/storage/background.hpp>
#include <moe/storage/cached.hpp>
#include <moe/storage/resident.hpp>
#include <moe/storage/ring.hpp>
#include <moe/storage/storage_source.hpp>
#include <optional>
#include <type_traits>
#include <utility>

#include "expert_sources.hpp"
#include "offloading.hpp"

namespace engine {

/// Formats with more bits than q4_0, which experts of less importance may be loaded in.
template <class F>
inline constexpr bool may_be_mixed = std::is_same_v<F, moe::f32> || std::is_same_v<F, moe::bf16> ||
                                     std::is_same_v<F, moe::f16> || std::is_same_v<F, moe::q8_0>;

/// Sizes of the experts of a model in format F. Throws moe::Error if `choice` mixes in what is no less precise.
template <class F>
ExpertSizes sizes_of_experts(const moe::io::Checkpoint& checkpoint, const StorageChoice& choice) {
  if (choice.mixed && !may_be_mixed<F>)
    moe::raise(moe::Error("--low-precision", "format of the others", "f32, bf16, f16 or q8_0",
                          std::string(moe::format_traits<F>::name)));
  const moe::ExpertShape shape = checkpoint.expert_shape();
  return {static_cast<int>(checkpoint.blocks().moe_layers.size()), moe::PanelLayout::record_bytes<F>(shape),
          choice.mixed ? moe::PanelLayout::record_bytes<moe::q4_0>(shape) : 0};
}

template <class F>
class ExpertStorages {
 public:
  ExpertStorages(const std::shared_ptr<const moe::io::Checkpoint>& checkpoint, const Offloading& offloading)
      : offloading_(offloading), sources_(checkpoint, offloading.choice()) {
    if (offloading.choice().mixed) low_sources_.emplace(checkpoint, offloading.choice());
  }

  /// Calls `f(storage)` for `layer` of the model, the `index`-th one with experts; in this order.
  template <class Function>
  void with_storage(int layer, int index, Function&& f) const {
    moe::AnySource<moe::formats<F>> source = sources_.layer(layer, index);
    if (offloading_.ring() != nullptr) return f(moe::Ring{*offloading_.ring(), std::move(source)});
    if (offloading_.cache() == nullptr) return f(moe::Resident{source});
    if constexpr (may_be_mixed<F>) {
      if (low_sources_) {
        auto mixed = mixed_source(offloading_.choice(), std::move(source), low_sources_->layer(layer, index));
        return f(moe::Cached{*offloading_.cache(), std::move(mixed)});
      }
    }
    if (const moe::ExpertCache* const lower = offloading_.lower_cache())
      source =
          moe::AnySource<moe::formats<F>>(moe::Background{moe::StorageSource{moe::Cached{*lower, std::move(source)}}});
    f(moe::Cached{*offloading_.cache(), std::move(source)});
  }

 private:
  const Offloading& offloading_;
  ExpertSources<F> sources_;
  std::optional<ExpertSources<moe::q4_0>> low_sources_;
};

}  // namespace engine

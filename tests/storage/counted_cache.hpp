// A cache of small experts over sources whose reads are counted, for tests that look at decisions.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "laws/storage_laws.hpp"

/// Bytes of a slot for the experts of storage_laws.
inline std::size_t slot_bytes() {
  return moe::round_up(moe::PanelLayout::record_bytes<moe::bf16>(storage_laws::shape), moe::page_alignment);
}
inline moe::CacheOptions slots(int n) { return {.bytes = static_cast<std::size_t>(n) * slot_bytes()}; }

/// Guesses of one row each, the more important ones first.
inline std::vector<moe::ExpertNeed> guesses_of(const std::vector<moe::ExpertId>& experts) {
  std::vector<moe::ExpertNeed> out;
  for (const moe::ExpertId e : experts) out.push_back({e, 1, 1, static_cast<float>(out.size()) / 100});
  return out;
}

struct CountedCache {
  explicit CountedCache(moe::CacheOptions options, moe::AnyEviction eviction = moe::Lru{}, int num_layers = 1)
      : cache(std::move(options), std::move(eviction)) {
    for (int l = 0; l < num_layers; ++l) layers.emplace_back(cache, storage_laws::Source{packed(), &plan});
  }
  moe::Packed<moe::bf16> packed() const { return weights.packed<moe::bf16>(); }
  moe::CacheStatistics statistics() const { return cache.statistics(); }

  /// One call, which is right only if the bytes are.
  void use(const std::vector<moe::ExpertId>& wanted, int layer = 0) const {
    const moe::Packed<moe::bf16> source = packed();
    storage_laws::lend_all(layers[static_cast<std::size_t>(layer)], wanted, [&](const moe::ExpertRef& ref) {
      CHECK(std::memcmp(ref.bytes, fixture::record(source, ref.expert).data(), source.bytes(0)) == 0);
    });
  }
  int expect(const std::vector<moe::ExpertId>& experts, int layer = 0) const {
    return layers[static_cast<std::size_t>(layer)].expect(guesses_of(experts));
  }
  std::set<moe::ExpertId> residents(int layer = 0) const {
    std::uint32_t bits = 0;
    layers[static_cast<std::size_t>(layer)].residency(&bits);
    std::set<moe::ExpertId> out;
    for (moe::ExpertId e = 0; e < storage_laws::experts; ++e)
      if ((bits >> e & 1u) != 0) out.insert(e);
    return out;
  }

  fixture::RandomExperts weights{storage_laws::shape, storage_laws::experts, 1};
  fixture::Plan plan;
  moe::ExpertCache cache;
  std::vector<moe::Cached<storage_laws::Source>> layers;
};

using Experts = std::set<moe::ExpertId>;

/// A wave with the memory that a call would give it.
class HeldWave {
  using Pin = moe::detail::CachePin<moe::HostSlots>;

 public:
  moe::Wave<Pin>& get() { return wave_; }
  void release() {
    moe::host_queue queue;
    wave_.release(queue);
  }

 private:
  std::vector<moe::ExpertRef> refs_ = std::vector<moe::ExpertRef>(16);
  alignas(Pin) std::byte pins_[16 * sizeof(Pin)];
  moe::Wave<Pin> wave_{refs_.data(), reinterpret_cast<Pin*>(pins_)};
};

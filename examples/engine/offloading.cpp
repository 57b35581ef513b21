#include "offloading.hpp"

#include <cmath>
#include <string>
#include <utility>

namespace engine {

namespace {

using Kind = StorageChoice::Kind;

void check(const StorageChoice& c, const ExpertSizes& sizes) {
  const auto refuse = [](const char* option, const char* reason) {
    moe::raise(moe::Error(std::string(option) + reason));
  };
  const bool cached = c.kind == Kind::cached;
  if (!cached && c.prefetch != moe::Prefetch::off) refuse("--prefetch", " needs --storage cached:BYTES");
  if (!cached && c.mixed) refuse("--low-precision", " needs --storage cached:BYTES");
  if (!cached && (c.per_layer || !c.allocation.empty())) refuse("--allocation", " needs --storage cached:BYTES");
  if (c.mixed && c.lower_bytes != 0) refuse("--low-precision", " goes with one cache, not with cached:BYTES/BYTES");
  if (c.per_layer && !c.allocation.empty()) refuse("--per-layer", " excludes --allocation");
  if (c.staging_slots < 0) refuse("--staging", ": a number of slots from 0 on");
  if (c.horizon < 1) refuse("--horizon", ": at least 1 layer");
  if (!c.allocation.empty())
    moe::require_equal("--allocation", "layers with experts", sizes.layers, static_cast<int>(c.allocation.size()));
  const auto [low, skip] = c.thresholds;
  if (!(low >= 0 && low <= skip && skip <= 1)) refuse("--thresholds", ": two numbers from 0 to 1 in ascending order");
  if (!(c.low_share >= 0 && c.low_share < 1)) refuse("--low-share", ": a number from 0 to below 1");
}

std::size_t whole_pages(std::size_t bytes) { return moe::round_up(bytes, moe::page_alignment); }

/// Slots of the most precise format that a cache of these options has.
int slots_of(const moe::CacheOptions& o, const ExpertSizes& sizes) {
  const std::size_t high = whole_pages(sizes.record_bytes), low = whole_pages(sizes.low_bytes);
  if (o.shares.empty()) return static_cast<int>(o.bytes / (high + low));
  return static_cast<int>(o.shares[0] * static_cast<double>(o.bytes) / static_cast<double>(high));
}

moe::CacheOptions options_of(const StorageChoice& c, const ExpertSizes& sizes) {
  moe::CacheOptions o{.bytes = c.bytes, .staging_slots = c.staging_slots, .prefetch = c.prefetch};
  if (c.low_share > 0 && c.mixed) o.shares = {1 - c.low_share, c.low_share};
  o.slots_by_layer = c.allocation;
  if (c.per_layer) {
    const int slots = slots_of(o, sizes) - c.staging_slots;
    if (slots < 0 || (slots < sizes.layers && c.staging_slots == 0))
      moe::raise(moe::Error("--per-layer", "slots of the budget",
                            "at least one for each of " + std::to_string(sizes.layers) + " layers, or --staging",
                            std::to_string(slots)));
    o.slots_by_layer.assign(static_cast<std::size_t>(sizes.layers), slots / sizes.layers);
  }
  return o;
}

}  // namespace

Offloading::Offloading(const StorageChoice& choice, const ExpertSizes& sizes) : choice_(choice) {
  check(choice, sizes);
  if (choice.kind == Kind::cached) cache_.emplace(options_of(choice, sizes), choice.eviction);
  if (choice.lower_bytes != 0) lower_.emplace(moe::CacheOptions{.bytes = choice.lower_bytes});
  if (choice.kind == Kind::ring) ring_.emplace(moe::RingOptions{.bytes = choice.bytes, .sections = choice.ring_layers});
}

void Offloading::begin_sequence() const {
  if (cache_) cache_->begin_sequence();
  if (lower_) lower_->begin_sequence();
}

StorageFigures Offloading::figures() const {
  StorageFigures f;
  if (cache_) {
    f.cache = cache_->statistics();
    f.bytes_read = f.cache.bytes_read;
    f.bytes_held = cache_->bytes_held();
  }
  if (lower_) {
    f.lower_bytes = lower_->statistics().bytes_read;
    f.bytes_read = f.lower_bytes;
    f.bytes_held += lower_->bytes_held();
  }
  if (ring_) {
    const moe::RingStatistics ring = ring_->statistics();
    f.cache.bytes_read = f.bytes_read = ring.bytes_read;
    f.cache.stalls = ring.stalls;
    f.cache.stall_ns = ring.stall_ns;
    f.bytes_held = ring_->bytes_held();
  }
  return f;
}

}  // namespace engine

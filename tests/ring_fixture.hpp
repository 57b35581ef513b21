// Layers on a ring over sources that watch what is read when, and how to use a layer step by step.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <set>
#include <vector>

#include <doctest/doctest.h>
#include <moe/storage/ring.hpp>

#include "storage_fixture.hpp"

namespace ring_fixture {

using Packed = moe::Packed<moe::bf16>;

inline constexpr moe::ExpertShape small{16, 16};
inline constexpr int experts = 2;

/// What sources of one model see, in the time of one computing thread and one copying engine. No threads, no clocks.
struct World {
  explicit World(int layers) : arrives(static_cast<std::size_t>(layers), 0) {}

  std::int64_t now = 0, engine_free = 0;
  std::vector<std::int64_t> copy_cost;  // of the n-th copy; 0 beyond
  std::vector<std::int64_t> arrives;    // [layers] when the latest copy is there
  std::vector<int> copied;              // layers in the order of their copies
  std::set<const std::byte*> places;    // where records of expert 0 were written
  std::set<const std::byte*> lent;      // records that must stay as they are
  bool overwritten = false;
  int reads = 0, failing_read = -1;
  int failures = 0;                    // of that record from that read on
  std::pair<int, int> broken{-1, -1};  // its layer and expert
};

/// Answers at once and says when the record would be there. A layer's copy begins with its expert 0.
struct WorldSource {
  using layout = Packed::layout;
  using formats = Packed::formats;
  Packed source;
  int layer;
  World* world;
  moe::ExpertShape shape() const noexcept { return source.shape(); }
  int num_experts() const noexcept { return source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return source.bytes(format); }
  void read(const moe::ReadRequest& request) const {
    World& w = *world;
    if (request.expert == 0) {
      const std::size_t n = w.copied.size();
      w.engine_free = std::max(w.engine_free, w.now) + (n < w.copy_cost.size() ? w.copy_cost[n] : 0);
      w.arrives[static_cast<std::size_t>(layer)] = w.engine_free;
      w.copied.push_back(layer);
      w.places.insert(request.to);
    }
    w.overwritten = w.overwritten || w.lent.count(request.to) > 0;
    if (w.reads++ == w.failing_read) w.broken = {layer, request.expert};
    if (w.broken != std::pair{layer, request.expert} || w.failures-- <= 0) return source.read(request);
    const moe::IoError error("injected fault");
    request.done(request.who, &error);
  }
};

/// The weights of `layers` layers, all different.
struct Weights {
  explicit Weights(int layers) {
    for (int l = 0; l < layers; ++l)
      of.push_back(std::make_unique<fixture::RandomExperts>(small, experts, static_cast<unsigned>(l + 1)));
  }
  Packed packed(int l) const { return of[static_cast<std::size_t>(l)]->packed<moe::bf16>(); }
  bool holds(int l, const moe::ExpertRef& ref) const {
    return std::memcmp(ref.bytes, fixture::record(packed(l), ref.expert).data(), packed(l).bytes(0)) == 0;
  }
  std::vector<std::unique_ptr<fixture::RandomExperts>> of;
};

/// Some experts of one layer, until `give_back`.
template <class Storage>
class Lent {
 public:
  using Pin = typename Storage::pin;
  Lent(const Storage& storage, const std::vector<moe::ExpertId>& wanted) {
    for (const moe::ExpertId e : wanted) needs_.push_back({e, 1, 1, 0});
    rest_ = storage.acquire(needs_, wave_, queue_).size();
  }
  moe::Row<const moe::ExpertRef> refs() const { return wave_.refs(); }
  std::size_t rest() const { return rest_; }
  void give_back() { wave_.release(queue_); }

 private:
  std::vector<moe::ExpertNeed> needs_;
  std::array<moe::ExpertRef, 8> refs_;
  alignas(Pin) std::array<std::byte, 8 * sizeof(Pin)> pins_;
  moe::Wave<Pin> wave_{refs_.data(), reinterpret_cast<Pin*>(pins_.data())};
  moe::host_queue queue_;
  std::size_t rest_ = 0;
};

/// N layers on a ring of K sections, used one after the other as a token does.
struct Model {
  Model(int layers, int sections) : weights(layers), world(layers), ring({.sections = sections}) {
    for (int l = 0; l < layers; ++l) storage.emplace_back(ring, WorldSource{weights.packed(l), l, &world});
  }
  /// One layer: waits until its copy is there, computes for `cost`, and ends.
  void step(int l, std::int64_t cost = 1, const std::vector<moe::ExpertId>& wanted = {0, 1}) {
    Lent lent(storage[static_cast<std::size_t>(l)], wanted);
    CHECK(lent.rest() == 0);
    CHECK(lent.refs().size() == static_cast<int>(wanted.size()));
    for (const moe::ExpertRef& ref : lent.refs()) {
      CHECK(weights.holds(l, ref));
      world.lent.insert(ref.bytes);
    }
    world.now = std::max(world.now, world.arrives[static_cast<std::size_t>(l)]) + cost;
    world.lent.clear();
    lent.give_back();
  }
  int layers() const { return static_cast<int>(storage.size()); }

  Weights weights;
  World world;
  moe::RingSections ring;
  std::vector<moe::Ring<WorldSource>> storage;
};

}  // namespace ring_fixture

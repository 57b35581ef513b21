// Model: the layers of a record file over one storage or another, behind one interface.
#pragma once

#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include <moe/executors/cpu.hpp>
#include <moe/layer.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/cached.hpp>
#include <moe/storage/mixed.hpp>
#include <moe/storage/resident.hpp>
#include <moe/storage/ring.hpp>
#include <moe/storage/subset.hpp>

#include "model_file.hpp"

namespace offload {

class Model {
 public:
  Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  virtual ~Model() = default;
  virtual void forward(int layer, const moe::Call<>& call) = 0;
  /// How many of the guesses were neither here nor coming.
  virtual int prefetch(int layer, const moe::Call<>& call) = 0;
  virtual moe::CacheStatistics statistics() const { return {}; }
  virtual void begin_sequence() {}
  virtual void plan(std::span<const moe::PlannedExpert>) {}
};

/// What is the same for every model of a run. A trace may have fewer layers and experts than the file: then the first
/// ones are used.
struct Setup {
  const ModelFile* file = nullptr;
  moe::Cpu cpu;
  int readers = 1;
  int layers = 0, experts = 0, k = 0, rows = 0;

  std::size_t record_bytes() const {
    return moe::round_up(moe::PanelLayout::record_bytes<High>({file->sizes().hidden, file->sizes().ffn}),
                         moe::page_alignment);
  }
  std::size_t expert_bytes() const { return record_bytes() * static_cast<std::size_t>(layers * experts); }
};

/// The records of each layer that the run uses, over one descriptor and one set of threads.
template <class Formats>
std::vector<moe::SubsetSource<moe::File<Formats>>> layer_sources(const Setup& setup,
                                                                 moe::Access access = moe::Access::direct) {
  const moe::File<Formats> file{setup.file->path(), {.readers = setup.readers, .access = access}};
  std::vector<moe::ExpertId> experts(static_cast<std::size_t>(setup.experts));
  std::iota(experts.begin(), experts.end(), 0);
  std::vector<moe::SubsetSource<moe::File<Formats>>> sources;
  for (int l = 0; l < setup.layers; ++l) sources.emplace_back(file.layer(l), experts);
  return sources;
}

template <class Storage>
class LayersOver : public Model {
 public:
  LayersOver(const Setup& setup, std::vector<Storage> storages) {
    for (Storage& storage : storages)
      layers_.emplace_back(moe::NoGate{}, moe::TopK{.experts = setup.experts, .k = setup.k}, std::move(storage),
                           setup.cpu);
    workspace_ = std::make_unique<moe::Workspace<>>(layers_[0].workspace(setup.rows));
  }
  void forward(int layer, const moe::Call<>& call) override { at(layer).forward(call, *workspace_); }
  int prefetch(int layer, const moe::Call<>& call) override {
    if constexpr (requires(std::span<const moe::ExpertNeed> n, const Storage s) { s.expect(n); })
      return at(layer).prefetch(call, *workspace_);
    else
      return 0;
  }

 private:
  using Layer = moe::MoELayer<moe::TopK, Storage, moe::Cpu, moe::ExpertForm<moe::SwiGlu>, moe::NoGate>;
  const Layer& at(int layer) const { return layers_[static_cast<std::size_t>(layer)]; }
  std::vector<Layer> layers_;
  std::unique_ptr<moe::Workspace<>> workspace_;
};

template <class Storage>
class CachedModel final : public LayersOver<Storage> {
 public:
  CachedModel(const Setup& setup, std::vector<Storage> storages)
      : LayersOver<Storage>(setup, storages), cache_(storages[0].cache()) {}
  moe::CacheStatistics statistics() const override { return cache_.statistics(); }
  void begin_sequence() override { cache_.begin_sequence(); }
  void plan(std::span<const moe::PlannedExpert> uses) override { cache_.plan(uses); }

 private:
  moe::ExpertCache cache_;
};

template <class Storage>
class RingModel final : public LayersOver<Storage> {
 public:
  RingModel(const Setup& setup, std::vector<Storage> storages, moe::RingSections ring)
      : LayersOver<Storage>(setup, std::move(storages)), ring_(std::move(ring)) {}
  moe::CacheStatistics statistics() const override {
    const moe::RingStatistics s = ring_.statistics();
    moe::CacheStatistics out;
    out.bytes_read = s.bytes_read;
    out.stalls = s.stalls;
    out.stall_ns = s.stall_ns;
    return out;
  }

 private:
  moe::RingSections ring_;
};

inline std::unique_ptr<Model> resident_model(const Setup& setup) {
  using Storage = moe::Resident<moe::PanelLayout, moe::formats<High>>;
  std::vector<Storage> storages;
  for (const auto& source : layer_sources<High>(setup)) storages.emplace_back(source);
  return std::make_unique<LayersOver<Storage>>(setup, std::move(storages));
}

inline std::unique_ptr<Model> cached_model(const Setup& setup, const moe::ExpertCache& cache, moe::Access access) {
  using Storage = moe::Cached<moe::SubsetSource<moe::File<High>>>;
  std::vector<Storage> storages;
  for (auto& source : layer_sources<High>(setup, access)) storages.emplace_back(cache, std::move(source));
  return std::make_unique<CachedModel<Storage>>(setup, std::move(storages));
}

inline std::unique_ptr<Model> mixed_model(const Setup& setup, const moe::ExpertCache& cache) {
  using Source = moe::Mixed<moe::ByImportance, moe::SubsetSource<moe::File<BothFormats>>>;
  std::vector<moe::Cached<Source>> storages;
  for (auto& source : layer_sources<BothFormats>(setup))
    storages.emplace_back(cache, Source{moe::ByImportance{}, std::move(source)});
  return std::make_unique<CachedModel<moe::Cached<Source>>>(setup, std::move(storages));
}

inline std::unique_ptr<Model> ring_model(const Setup& setup, int sections) {
  using Storage = moe::Ring<moe::SubsetSource<moe::File<High>>>;
  const moe::RingSections ring{{.sections = sections}};
  std::vector<Storage> storages;
  for (auto& source : layer_sources<High>(setup)) storages.emplace_back(ring, std::move(source));
  return std::make_unique<RingModel<Storage>>(setup, std::move(storages), ring);
}

}  // namespace offload

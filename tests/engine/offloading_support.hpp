// What the tests of offloading over the shipped model share: its text, its settings, its logits.
#pragma once

#include <moe/io/xxh3.hpp>
#include <moe/storage/file.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../temporary_folder.hpp"
#include "damage.hpp"
#include "support.hpp"

namespace engine_test {

inline const std::filesystem::path kjv = MOE_MODEL_DIR;
inline constexpr int kjv_layers = 6, kjv_experts = 8;

/// Bytes of `count` records of the model's experts as slots hold them.
inline std::size_t record_bytes(int count) {
  const std::size_t record = moe::PanelLayout::record_bytes<moe::bf16>({192, 160});
  return static_cast<std::size_t>(count) * moe::round_up(record, moe::page_alignment);
}

/// One way to hold the experts.
struct Setting {
  enum class Source { checkpoint, file, lower_cache };

  Source source = Source::checkpoint;
  int slots = 0;        // of a cache
  int ring_layers = 0;  // of a ring
  std::string eviction = "lru";
  moe::Prefetch prefetch = moe::Prefetch::off;
  std::string predictor = "next-gate";
  int threads = 1;
  int staging = 0;
  bool per_layer = false;
  std::vector<int> allocation{};

  std::string text() const {
    return moe::concat("source ", static_cast<int>(source), ", ", slots, " slots, ring of ", ring_layers, ", ",
                       eviction, ", prefetch ", static_cast<int>(prefetch), " by ", predictor, ", ", threads,
                       " threads, staging ", staging, per_layer ? ", per layer" : "",
                       allocation.empty() ? "" : ", allocation");
  }
};

/// The shipped model, its experts as a record file too, and what its logits are with all experts in memory.
class Offloaded {
 public:
  Offloaded() {
    const auto checkpoint = std::make_shared<const moe::io::Checkpoint>(kjv);
    std::vector<moe::io::CheckpointExperts<moe::bf16>> layers;
    for (int layer = 0; layer < kjv_layers; ++layer) layers.emplace_back(checkpoint, layer);
    moe::write_records<moe::io::CheckpointExperts<moe::bf16>>(file(), layers, moe::io::Xxh3{});
    write_path_predictor();
    const std::string text = read_file(kjv / "validation.txt");
    for (const char c : text.substr(1000, prompt + steps)) tokens.push_back(static_cast<unsigned char>(c));
    resident = logits(engine::Model(kjv, {{}, engine::Format::bf16, moe::Cpu{.threads = 1}}));
  }

  std::string file() const { return (folder_.path() / "experts.moe").string(); }

  /// A predictor of paths that knows nothing.
  std::string path_predictor() const { return (folder_.path() / "paths.safetensors").string(); }

  engine::Options options(const Setting& s) const {
    using Kind = engine::StorageChoice::Kind;
    engine::StorageChoice c;
    c.kind = s.ring_layers > 0 ? Kind::ring : s.slots > 0 ? Kind::cached : Kind::resident;
    c.bytes = s.ring_layers > 0 ? 0 : record_bytes(s.slots);
    c.ring_layers = s.ring_layers;
    if (s.source == Setting::Source::file) c.experts_file = file();
    if (s.source == Setting::Source::lower_cache) c.lower_bytes = record_bytes(2 * s.slots);
    c.eviction = engine::eviction_from_text(s.eviction);
    c.prefetch = s.prefetch;
    engine::set_predictor(c, predictor_text(s.predictor));
    c.staging_slots = s.staging;
    c.per_layer = s.per_layer;
    c.allocation = s.allocation;
    return {c, engine::Format::bf16, moe::Cpu{.threads = s.threads}};
  }

  /// Of the prompt in one call, and of every step after it.
  std::vector<float> logits(const engine::Model& model) const {
    engine::Sequence sequence(model);
    const std::span<const int> all(tokens);
    std::vector<float> found = copy(sequence.append(all.first(prompt), engine::LogitsOf::every_token));
    for (std::size_t t = prompt; t < all.size(); ++t) {
      const std::vector<float> step = copy(sequence.append(all.subspan(t, 1), engine::LogitsOf::every_token));
      found.insert(found.end(), step.begin(), step.end());
    }
    return found;
  }

  static constexpr std::size_t prompt = 16, steps = 8;
  std::vector<int> tokens;
  std::vector<float> resident;

 private:
  std::string predictor_text(const std::string& name) const {
    if (name == "path") return "path:" + path_predictor();
    return name == "first-gate" ? "first-gate:" + (kjv / "first_gate.safetensors").string() : name;
  }
  void write_path_predictor() const {
    constexpr std::uint64_t width = 4, hidden = 6;
    std::vector<std::vector<float>> values;
    std::vector<moe::io::TensorData> tensors;
    engine::SplitMix64 random(3);
    values.reserve(6);
    const auto add = [&](const char* name, std::vector<std::uint64_t> shape) {
      std::uint64_t size = 1;
      for (const std::uint64_t n : shape) size *= n;
      values.emplace_back();
      while (values.back().size() < size) values.back().push_back(static_cast<float>(random.uniform()));
      tensors.push_back({name, moe::io::Dtype::F32, std::move(shape), std::as_bytes(std::span(values.back()))});
    };
    add("decays", {1});
    add("embedding", {256, width});
    add("enter.weight", {hidden, 2, width});
    add("enter.bias", {hidden});
    add("leave.weight", {kjv_layers, kjv_experts, hidden});
    add("leave.bias", {kjv_layers, kjv_experts});
    moe::io::write_safetensors(path_predictor(), tensors);
  }

  TemporaryFolder folder_;
};

/// Whether the setting gives the bits of the resident run; the model's figures go to `figures`.
inline bool exact(const Offloaded& offloaded, const Setting& setting, engine::StorageFigures* figures = nullptr) {
  const engine::Model model(kjv, offloaded.options(setting));
  const bool equal = same(offloaded.logits(model), offloaded.resident);
  if (figures != nullptr) *figures = model.experts().storage_figures();
  return equal;
}

}  // namespace engine_test

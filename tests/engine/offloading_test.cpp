// Offloading over the shipped model: what only moves bytes changes no bit; accounts agree with a replay.
#include <array>
#include <moe/offline/replay.hpp>

#include "offloading_support.hpp"

using namespace engine_test;
using Source = Setting::Source;

namespace {

const Offloaded& offloaded() {
  static const Offloaded made;
  return made;
}

/// Every value of every factor with every value of its neighbours, in few settings.
std::vector<Setting> sampled_settings() {
  constexpr std::array sources{Source::checkpoint, Source::file, Source::lower_cache};
  constexpr std::array slots{1, 4, 12, 24, 48};
  const std::array evictions{"lru", "lfu", "lfu:0.5", "hobbit", "apex", "fld", "plan"};
  const std::array<std::pair<moe::Prefetch, const char*>, 6> guesses{{{moe::Prefetch::off, "none"},
                                                                      {moe::Prefetch::observe, "next-gate"},
                                                                      {moe::Prefetch::enforce, "next-gate"},
                                                                      {moe::Prefetch::enforce, "token-table"},
                                                                      {moe::Prefetch::enforce, "path"},
                                                                      {moe::Prefetch::enforce, "first-gate"}}};
  std::vector<Setting> all;
  engine::SplitMix64 random(7);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random.next() % n); };
  for (std::size_t i = 0; i < 35; ++i) {
    Setting s;
    s.slots = slots[i % slots.size()];
    s.eviction = evictions[i % evictions.size()];  // every pair with the slots
    s.source = sources[below(sources.size())];
    std::tie(s.prefetch, s.predictor) = guesses[below(guesses.size())];
    s.threads = 1 + static_cast<int>(below(2));
    if (s.slots >= 12) s.per_layer = below(3) == 0;
    if (s.slots >= 4 && s.slots < 48) s.staging = static_cast<int>(below(3));
    all.push_back(s);
  }
  return all;
}

Setting cached(int slots, std::string eviction = "lru") {
  Setting s;
  s.slots = slots;
  s.eviction = std::move(eviction);
  return s;
}

moe::CacheStatistics figures_of(const Setting& setting) {
  engine::StorageFigures figures;
  CHECK(exact(offloaded(), setting, &figures));
  return figures.cache;
}

}  // namespace

TEST_CASE("a cache of any size, rule, source and prefetch gives the bits of the resident run") {
  for (const Setting& setting : sampled_settings()) {
    CAPTURE(setting.text());
    CHECK(exact(offloaded(), setting));
  }
}

TEST_CASE("a ring of any number of sections gives the bits of the resident run") {
  for (const Source source : {Source::checkpoint, Source::file}) {
    for (const int sections : {1, 2, 3, kjv_layers}) {
      Setting setting;
      setting.source = source;
      setting.ring_layers = sections;
      setting.threads = 1 + sections % 2;
      CAPTURE(setting.text());
      engine::StorageFigures figures;
      CHECK(exact(offloaded(), setting, &figures));
      CHECK(figures.bytes_held == record_bytes(sections * kjv_experts));
      const std::uint64_t least = static_cast<std::uint64_t>(kjv_layers) * record_bytes(kjv_experts);
      CHECK((sections == kjv_layers ? figures.bytes_read == least : figures.bytes_read >= 9 * least));
    }
  }
}

TEST_CASE("layers that keep nothing compute through staging slots") {
  Setting setting = cached(13);
  setting.staging = 3;
  setting.allocation = {0, 2, 4, 0, 1, 3};
  for (const moe::Prefetch prefetch : {moe::Prefetch::off, moe::Prefetch::enforce}) {
    setting.prefetch = prefetch;
    CHECK(figures_of(setting).streamed > 0);
  }
}

TEST_CASE("experts in memory come from a record file too") {
  Setting setting;
  setting.source = Source::file;
  CHECK(exact(offloaded(), setting));
}

TEST_CASE("a second sequence on warm caches gives the same bits") {
  for (const char* eviction : {"lfu", "hobbit"}) {
    Setting setting = cached(12, eviction);
    setting.prefetch = moe::Prefetch::enforce;
    setting.predictor = "token-table";
    const engine::Model model(kjv, offloaded().options(setting));
    for (int i = 0; i < 3; ++i) CHECK(same(offloaded().logits(model), offloaded().resident));
  }
}

TEST_CASE("loads are those of a replay of the model's own trace") {
  const std::span<const int> tokens(offloaded().tokens);
  const auto compare = [&]<class E>(const char* name, const E& eviction, int slots, bool per_layer) {
    CAPTURE(name);
    CAPTURE(slots);
    CAPTURE(per_layer);
    Setting setting = cached(slots, name);
    setting.source = Source::file;
    setting.per_layer = per_layer;
    engine::Model model(kjv, offloaded().options(setting));
    moe::RoutingTrace trace(kjv_layers, kjv_experts);
    moe::TraceObserver observer{&trace};
    model.experts().observe([&](int layer, const moe::Frame<>& frame) {
      observer.layer = layer;
      observer.done(frame);
    });
    for (observer.sequence = 0; observer.sequence < 2; ++observer.sequence) {
      engine::Sequence sequence(model);
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        observer.first_token = static_cast<int>(t);
        const int token = tokens[(t * static_cast<std::size_t>(observer.sequence + 1)) % tokens.size()];
        sequence.append(std::span(&token, 1), engine::LogitsOf::last_token);
      }
    }
    const moe::ReplaySlots memory{.scope = per_layer ? moe::CacheScope::layer : moe::CacheScope::global,
                                  .slots = per_layer ? slots / kjv_layers : slots};
    const moe::ReplayCounts expected = moe::replay(trace, memory, eviction);
    const moe::CacheStatistics found = model.experts().storage_figures().cache;
    CHECK(found.loads == expected.loads);
    CHECK(found.hits == expected.hits);
    CHECK(found.misses == expected.loads);
    CHECK(found.evictions == expected.evictions);
    CHECK(expected.picks == 2 * kjv_layers * 2 * tokens.size());
  };
  for (const int slots : {4, 12, 30}) {
    for (const bool per_layer : {false, true}) {
      if (per_layer && slots < 2 * kjv_layers) continue;
      compare("lru", moe::Lru{}, slots, per_layer);
      compare("lfu", moe::Lfu{}, slots, per_layer);
      compare("lfu:0.5", moe::Lfu{.decay = 0.5}, slots, per_layer);
      compare("hobbit", moe::Multidimensional{}, slots, per_layer);
      compare("fld", moe::FurthestLayer{}, slots, per_layer);
    }
  }
}

TEST_CASE("a predictor that is only observed is measured and loads nothing") {
  Setting setting = cached(24);
  const moe::CacheStatistics without = figures_of(setting);
  CHECK(without.needed == 0);
  setting.prefetch = moe::Prefetch::observe;
  const moe::CacheStatistics observed = figures_of(setting);
  CHECK(observed.loads == without.loads);
  CHECK(observed.prefetched == 0);
  CHECK(observed.predicted > 0);
  CHECK(observed.predicted_right <= observed.predicted);
  CHECK(2 * observed.predicted_right > observed.needed);  // two of eight at random would be a quarter
}

TEST_CASE("what is prefetched is used, or counted as wasted, or still there") {
  for (const char* predictor : {"next-gate", "token-table", "path", "first-gate"}) {
    Setting setting = cached(24);
    setting.prefetch = moe::Prefetch::enforce;
    setting.predictor = predictor;
    const moe::CacheStatistics c = figures_of(setting);
    CHECK(c.prefetched_used > 0);
    CHECK(c.prefetched_used + c.prefetched_wasted <= c.prefetched);
    CHECK(c.prefetched <= c.prefetched_used + c.prefetched_wasted + 24);
    CHECK(c.loads == c.misses + c.prefetched);
  }
}

TEST_CASE("experts of less importance are read with fewer bytes, and all others are exact") {
  engine::Options options = offloaded().options(cached(12));
  const auto run = [&](std::array<float, 2> thresholds) {
    options.storage.mixed = true;
    options.storage.thresholds = thresholds;
    options.storage.bytes = record_bytes(18);
    const engine::Model model(kjv, options);
    const std::vector<float> logits = offloaded().logits(model);
    return std::pair{difference(logits, offloaded().resident), model.experts().storage_figures().cache};
  };
  const auto [exact_error, high] = run({1, 1});
  CHECK(exact_error == 0);
  CHECK(high.loads_by_format[1] == 0);
  const auto [error, mixed] = run({0.6f, 1});
  CHECK(mixed.loads_by_format[1] > 0);
  CHECK(mixed.skipped == 0);
  CHECK(mixed.bytes_read < high.bytes_read);
  CHECK(error > 0);
  CHECK(error < 0.2);
  const auto [skip_error, skipped] = run({0.6f, 0.7f});
  CHECK(skipped.skipped > 0);
  CHECK(skipped.bytes_read < mixed.bytes_read);
  CHECK(skip_error > 0);
}

TEST_CASE("choices that contradict each other or the model are refused") {
  using Choice = engine::StorageChoice;
  const auto refuses = [&](const Setting& setting, const char* part, auto change) {
    engine::Options options = offloaded().options(setting);
    change(options.storage);
    CHECK_THROWS_WITH_AS(engine::Model(kjv, options), doctest::Contains(part), moe::Error);
  };
  const Setting resident;
  refuses(resident, "--prefetch", [](Choice& c) { c.prefetch = moe::Prefetch::enforce; });
  refuses(resident, "--low-precision", [](Choice& c) { c.mixed = true; });
  refuses(resident, "--allocation", [](Choice& c) { c.per_layer = true; });
  refuses(cached(12), "expected 6, found 2", [](Choice& c) { c.allocation = {1, 2}; });
  refuses(cached(4), "--per-layer", [](Choice& c) { c.per_layer = true; });
  refuses(cached(4), "--thresholds", [](Choice& c) { c.thresholds = {0.9f, 0.5f}; });
  refuses(cached(4), "config.json", [](Choice& c) { c.experts_file = kjv / "config.json"; });
  refuses(cached(4), "nowhere", [](Choice& c) { c.experts_file = "nowhere"; });
  refuses(cached(4), "nowhere", [](Choice& c) {
    c.prefetch = moe::Prefetch::enforce;
    engine::set_predictor(c, "path:nowhere");
  });
}

TEST_CASE("a record file of another model is refused") {
  const TemporaryFolder folder;
  const RandomModel written(folder.path(), small_config("mixtral"));
  const auto checkpoint = std::make_shared<const moe::io::Checkpoint>(folder.path());
  const std::string file = (folder.path() / "experts.moe").string();
  std::vector<moe::io::CheckpointExperts<moe::bf16>> layers;
  for (int layer = 0; layer < 2; ++layer) layers.emplace_back(checkpoint, layer);
  moe::write_records<moe::io::CheckpointExperts<moe::bf16>>(file, layers, moe::io::Xxh3{});
  engine::Options options = offloaded().options(cached(4));
  options.storage.experts_file = file;
  const std::string message = io_test::message_of([&] { const engine::Model model(kjv, options); });
  CHECK(io_test::contains(message, file));
  CHECK(io_test::contains(message, "layers with experts, of this model: expected 6, found 2"));
}

TEST_CASE("a record file without checksums is refused") {
  const TemporaryFolder folder;
  const std::string file = (folder.path() / "experts.moe").string();
  const auto checkpoint = std::make_shared<const moe::io::Checkpoint>(kjv);
  moe::write_records(file, moe::io::CheckpointExperts<moe::bf16>(checkpoint, 0));
  engine::Options options = offloaded().options(cached(4));
  options.storage.experts_file = file;
  CHECK_THROWS_WITH_AS(engine::Model(kjv, options), (file + ": checksums: expected xxh3_64, found none").c_str(),
                       moe::IoError);
}

TEST_CASE("a damaged record ends the run with its file, expert and layer, wherever it is read to") {
  const TemporaryFolder folder;
  const std::string file = (folder.path() / "experts.moe").string();
  std::filesystem::copy(offloaded().file(), file);
  damage(file, 3, 5);
  Setting resident, ring, lower = cached(12), prefetched = cached(12);
  ring.ring_layers = 2;
  lower.source = Source::lower_cache;
  prefetched.prefetch = moe::Prefetch::enforce;
  for (const Setting& setting : {resident, ring, lower, prefetched, cached(48)}) {
    CAPTURE(setting.text());
    engine::Options options = offloaded().options(setting);
    options.storage.experts_file = file;
    const std::string message = io_test::message_of([&] { offloaded().logits(engine::Model(kjv, options)); });
    CHECK(io_test::contains(message, file));
    CHECK(io_test::contains(message, "checksum of expert 5 of layer 3 in bf16: expected 0x"));
  }
}

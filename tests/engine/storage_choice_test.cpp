// Storages, evictions and predictors as text.
#include "storage_choice.hpp"

#include <doctest/doctest.h>

#include <moe/error.hpp>
#include <string>
#include <vector>

using Kind = engine::StorageChoice::Kind;

TEST_CASE("storages as text") {
  const auto cached = [](std::string_view text) {
    const engine::StorageChoice choice = engine::storage_from_text(text);
    CHECK(choice.kind == Kind::cached);
    return choice.bytes;
  };
  CHECK(engine::storage_from_text("resident").kind == Kind::resident);
  CHECK(cached("cached:1") == 1u);
  CHECK(cached("cached:4096") == 4096u);
  CHECK(cached("cached:3K") == 3072u);
  CHECK(cached("cached:64M") == 64u << 20);
  CHECK(cached("cached:5G") == std::size_t{5} << 30);
  CHECK(cached("cached:2M/3M") == 2u << 20);
  CHECK(engine::storage_from_text("cached:2M/3M").lower_bytes == 3u << 20);
  CHECK(engine::storage_from_text("cached:2M").lower_bytes == 0u);
  CHECK(engine::storage_from_text("ring:3M").kind == Kind::ring);
  CHECK(engine::storage_from_text("ring:3M").bytes == 3u << 20);
  CHECK(engine::storage_from_text("ring:layers=2").ring_layers == 2);
  CHECK(engine::storage_from_text("ring:layers=2").bytes == 0u);
  for (const char* wrong : {"",
                            "Resident",
                            "cached",
                            "cached:",
                            "cached:0",
                            "cached:M",
                            "cached:-1",
                            "cached:1.5M",
                            "cached:1KB",
                            "cached: 1K",
                            "cached:99999999999999999999",
                            "cached:9999999999G",
                            "cached:1M/",
                            "cached:1M/2M/3M",
                            "cached:/1M",
                            "ring",
                            "ring:layers=0",
                            "ring:layers=x",
                            "ring:2layers",
                            "disk"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH_AS(engine::storage_from_text(wrong), doctest::Contains("resident or cached:BYTES"), moe::Error);
  }
}

TEST_CASE("evictions as text") {
  moe::CacheEntry entry;
  entry.layer = 1;
  entry.last_use = 40;
  entry.last_token = 2;
  entry.uses = 3;
  entry.high_uses = 1;
  const moe::CacheClock clock{.use = 50, .token = 4, .layer = 0, .layers = 4};
  const auto score = [&](std::string_view text) { return engine::eviction_from_text(text).keep_score(entry, clock); };
  CHECK(score("lru") == 40);
  CHECK(score("lfu") == 3);
  CHECK(score("fld") == -1);
  CHECK(score("plan") == moe::ByPlan{}.keep_score(entry, clock));
  CHECK(score("hobbit") == moe::Multidimensional{}.keep_score(entry, clock));
  CHECK(score("hobbit:0,1,0,0") == 0.75);
  CHECK(score("hobbit:0,0,0,1") == 0.75);
  CHECK(score("apex") == moe::MissCost{}.keep_score(entry, clock));
  CHECK(score("apex:1") - score("apex:0") == doctest::Approx(2.0 / 4));
  entry.heat = 2;
  entry.last_use = 0;
  const moe::CacheClock later{.use = 1024, .token = 4, .layer = 0, .layers = 4};
  CHECK(engine::eviction_from_text("lfu:0.5").keep_score(entry, later) == 1.0);
  for (const char* wrong :
       {"", "LRU", "lru:1", "lfu:", "lfux", "hobbit:1,2", "hobbit:1,0,0,x", "apex:0.1,0.2", "min"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH_AS(engine::eviction_from_text(wrong), doctest::Contains("--eviction"), moe::Error);
  }
}

TEST_CASE("predictors and modes as text") {
  engine::StorageChoice choice;
  engine::set_predictor(choice, "token-table");
  CHECK(choice.predictor == engine::Predictor::token_table);
  engine::set_predictor(choice, "none");
  CHECK(choice.predictor == engine::Predictor::none);
  engine::set_predictor(choice, "path:a/file");
  CHECK(choice.predictor == engine::Predictor::paths);
  CHECK(choice.predictor_file == "a/file");
  engine::set_predictor(choice, "first-gate:b");
  CHECK(choice.predictor == engine::Predictor::first_gate);
  CHECK(choice.predictor_file == "b");
  engine::set_predictor(choice, "next-gate");
  CHECK(choice.predictor == engine::Predictor::next_gate);
  for (const char* wrong : {"", "path", "path:", "gate", "first-gate", "first-gate:", "next-gate:a", "pathx:a"})
    CHECK_THROWS_WITH_AS(engine::set_predictor(choice, wrong), doctest::Contains("--predictor"), moe::Error);
  CHECK(engine::prefetch_from_text("off") == moe::Prefetch::off);
  CHECK(engine::prefetch_from_text("observe") == moe::Prefetch::observe);
  CHECK(engine::prefetch_from_text("enforce") == moe::Prefetch::enforce);
  CHECK_THROWS_WITH_AS(engine::prefetch_from_text("on"), doctest::Contains("off, observe or enforce"), moe::Error);
}

TEST_CASE("lists of numbers as text") {
  CHECK(engine::numbers_from_text("--x", "0.5") == std::vector<double>{0.5});
  CHECK(engine::numbers_from_text("--x", "4,2,0") == std::vector<double>{4, 2, 0});
  for (const char* wrong : {"", ",", "1,", "1,,2", "a", "1 2", "inf", "nan"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH_AS(engine::numbers_from_text("--x", wrong), doctest::Contains("--x"), moe::Error);
  }
}

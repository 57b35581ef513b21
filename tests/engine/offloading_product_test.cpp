// Offloading over the shipped model: every storage with every eviction, prefetch, budget and number of threads.
#include <array>

#include "offloading_support.hpp"

using namespace engine_test;
using Source = Setting::Source;

TEST_CASE("every combination gives the bits of the resident run") {
  const Offloaded offloaded;
  constexpr std::array<std::pair<moe::Prefetch, const char*>, 6> guesses{{{moe::Prefetch::off, "none"},
                                                                          {moe::Prefetch::observe, "next-gate"},
                                                                          {moe::Prefetch::enforce, "next-gate"},
                                                                          {moe::Prefetch::enforce, "token-table"},
                                                                          {moe::Prefetch::enforce, "path"},
                                                                          {moe::Prefetch::enforce, "first-gate"}}};
  int tried = 0;
  for (const Source source : {Source::checkpoint, Source::file, Source::lower_cache})
    for (const char* eviction : {"lru", "lfu", "lfu:0.5", "hobbit", "apex", "fld", "plan"})
      for (const auto& [prefetch, predictor] : guesses)
        for (const int slots : {1, 4, 12, 24, 48})
          for (const int threads : {1, 2}) {
            Setting setting;
            setting.source = source;
            setting.eviction = eviction;
            setting.prefetch = prefetch;
            setting.predictor = predictor;
            setting.slots = slots;
            setting.threads = threads;
            CAPTURE(setting.text());
            CHECK(exact(offloaded, setting));
            ++tried;
          }
  CHECK(tried == 3 * 7 * 6 * 5 * 2);
}

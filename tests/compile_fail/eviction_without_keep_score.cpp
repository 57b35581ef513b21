// expect: moe::Eviction: needs `double keep_score\(const CacheEntry&, const CacheClock&\) const noexcept`
#include <moe/moe.hpp>

struct Random {
#ifndef MOE_FAULT
  double keep_score(const moe::CacheEntry&, const moe::CacheClock&) const noexcept { return 0; }
#endif
};

int main() { return moe::ExpertCache{{.bytes = 1}, Random{}}.slots(); }

// expect: moe::PreferResident: there is one inside already
#include <moe/routers/residency.hpp>

#include "parts.hpp"

#ifdef MOE_FAULT
using Inner = moe::SkipAbsent<moe::PreferResident<moe::TopK>>;
#else
using Inner = moe::SkipAbsent<moe::TopK>;
#endif

int main() {
  moe::PreferResident<Inner> router{};
  return moe::max_slots(router);
}

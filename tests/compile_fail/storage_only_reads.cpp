// expect: moe::ExpertStorage: this type only reads records; put moe::Resident or moe::Cached around it
#include "parts.hpp"

using Source = moe::Packed<moe::bf16>;
#ifdef MOE_FAULT
using Storage = Source;
#else
using Storage = decltype(moe::Resident(std::declval<Source>()));
#endif

int run(const Source& source) {
  return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Storage(source), parts::Executor{}));
}
int main() { return 0; }

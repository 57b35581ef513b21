// expect: moe::MoELayer: storage and executor work in different memories
#include "parts.hpp"

#ifdef MOE_FAULT
using Storage = parts::Storage<parts::device_memory>;
#else
using Storage = parts::Storage<>;
#endif

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Storage{}, parts::Executor{})); }

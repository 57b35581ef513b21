// expect: moe::MoELayer: storage and executor name different layouts; pack the weights with the executor's layout
#include "parts.hpp"

#ifdef MOE_FAULT
using Storage = parts::Storage<moe::host_memory, parts::OtherLayout>;
#else
using Storage = parts::Storage<>;
#endif

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Storage{}, parts::Executor{})); }

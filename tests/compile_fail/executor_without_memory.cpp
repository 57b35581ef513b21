// expect: moe::Executor: needs `using memory`, e.g. moe::host_memory
#include "parts.hpp"

struct Mine : parts::Carve, parts::Steps, parts::Experts, parts::Combine {
  using layout = moe::PanelLayout;
#ifndef MOE_FAULT
  using memory = moe::host_memory;
#endif
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, Mine{})); }

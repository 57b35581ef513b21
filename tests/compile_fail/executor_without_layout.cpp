// expect: moe::Executor: needs `using layout`, e.g. moe::PanelLayout
#include "parts.hpp"

struct Mine : parts::Carve, parts::Steps, parts::Experts, parts::Combine {
  using memory = moe::host_memory;
#ifndef MOE_FAULT
  using layout = moe::PanelLayout;
#endif
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, Mine{})); }

// expect: moe::ExpertStorage: needs `using memory`, e.g. moe::host_memory
#include "parts.hpp"

struct Mine {
#ifndef MOE_FAULT
  using memory = moe::host_memory;
#endif
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16>;
  moe::ExpertShape shape() const noexcept { return {8, 8, true, false}; }
  int num_experts() const noexcept { return 4; }
  moe::Row<const moe::ExpertRef> table() const noexcept { return {}; }
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Mine{}, parts::Executor{})); }

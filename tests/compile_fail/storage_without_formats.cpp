// expect: moe::ExpertStorage: needs `using formats`, e.g. moe::formats<moe::bf16>
#include "parts.hpp"

struct Mine {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
#ifndef MOE_FAULT
  using formats = moe::formats<moe::bf16>;
#endif
  moe::ExpertShape shape() const noexcept { return {8, 8, true, false}; }
  int num_experts() const noexcept { return 4; }
  moe::Row<const moe::ExpertRef> table() const noexcept { return {}; }
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Mine{}, parts::Executor{})); }

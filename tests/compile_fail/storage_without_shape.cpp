// expect: moe::ExpertStorage: needs `ExpertShape shape() const noexcept`
#include "parts.hpp"

struct Mine {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16>;
#ifndef MOE_FAULT
  moe::ExpertShape shape() const noexcept { return {8, 8, true, false}; }
#endif
  int num_experts() const noexcept { return 4; }
  moe::Row<const moe::ExpertRef> table() const noexcept { return {}; }
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Mine{}, parts::Executor{})); }

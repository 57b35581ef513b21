// expect: moe::ExpertStorage: needs `int num_experts() const noexcept`
#include "parts.hpp"

struct Mine {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16>;
  moe::ExpertShape shape() const noexcept { return {8, 8, true, false}; }
#ifndef MOE_FAULT
  int num_experts() const noexcept { return 4; }
#endif
  moe::Row<const moe::ExpertRef> table() const noexcept { return {}; }
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Mine{}, parts::Executor{})); }

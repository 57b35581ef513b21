// expect: moe::ExpertStorage: needs `Row<const ExpertRef> table() const noexcept`, or `using pin`
#include "parts.hpp"

struct Mine {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16>;
  moe::ExpertShape shape() const noexcept { return {8, 8, true, false}; }
  int num_experts() const noexcept { return 4; }
#ifndef MOE_FAULT
  moe::Row<const moe::ExpertRef> table() const noexcept { return {}; }
#endif
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Mine{}, parts::Executor{})); }

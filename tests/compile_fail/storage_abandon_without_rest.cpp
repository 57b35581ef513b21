// expect: moe::ExpertStorage: needs `void abandon(std::span<const ExpertNeed> rest, const Wave<pin>&) const noexcept`
#include "parts.hpp"

struct Mine {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16>;
  using pin = int;
  moe::ExpertShape shape() const noexcept { return {8, 8, true, false}; }
  int num_experts() const noexcept { return 4; }
  std::span<moe::ExpertNeed> acquire(std::span<moe::ExpertNeed>, moe::Wave<pin>&, moe::host_queue&) const { return {}; }
#ifdef MOE_FAULT
  void abandon(const moe::Wave<pin>&) const noexcept {}
#else
  void abandon(std::span<const moe::ExpertNeed>, const moe::Wave<pin>&) const noexcept {}
#endif
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, Mine{}, parts::Executor{})); }

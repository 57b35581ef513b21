// expect: moe::Router: `select` must be noexcept and return int
#include "parts.hpp"

struct Mine {
#ifdef MOE_FAULT
  int select(const moe::RowContext&, moe::Row<moe::Slot>) const { return 0; }
#else
  int select(const moe::RowContext&, moe::Row<moe::Slot>) const noexcept { return 0; }
#endif
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
  int max_slots() const noexcept { return 2; }
};

int main() { return parts::use(moe::MoELayer(parts::gate(), Mine{}, parts::Storage<>{}, parts::Executor{})); }

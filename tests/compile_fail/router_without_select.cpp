// expect: moe::Router: needs `int select(Row<const float> logits, Row<Slot> out) const noexcept`
#include "parts.hpp"

struct Mine {
#ifndef MOE_FAULT
  int select(moe::Row<const float>, moe::Row<moe::Slot>) const noexcept { return 0; }
#endif
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
  int max_slots() const noexcept { return 2; }
};

int main() { return parts::use(moe::MoELayer(parts::gate(), Mine{}, parts::Storage<>{}, parts::Executor{})); }

// expect: moe::PreferResident: the router inside must read logits from its row
#include <moe/routers/residency.hpp>

#include "parts.hpp"

struct Weighing : parts::Router {
#ifndef MOE_FAULT
  int select(const moe::RowContext&, moe::Row<moe::Slot>) const noexcept { return 0; }
#else
  using parts::Router::select;
#endif
  void weigh(const moe::RowContext&, moe::Row<moe::Slot>) const noexcept {}
};

int main() { return moe::max_slots(moe::PreferResident<Weighing>{}) == 2 ? 0 : 1; }

// expect: moe::Router: needs `int max_slots() const noexcept`
#include "parts.hpp"

struct Broken {
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
#ifndef MOE_FAULT
  int max_slots() const noexcept { return 2; }
#endif
  int select(moe::Row<const float>, moe::Row<moe::Slot>) const noexcept { return 0; }
};
template <class R>
struct Decorated {
  R inner;
  int num_logits() const noexcept { return 4; }
  int num_experts() const noexcept { return 4; }
  int max_slots() const noexcept { return 2; }
  int select(const moe::RowContext& row, moe::Row<moe::Slot> out) const noexcept {
    return moe::select(inner, row, out);
  }
};

int main() {
  const Decorated<Decorated<Broken>> router{};
  return parts::use(moe::MoELayer(parts::gate(), router, parts::Storage<>{}, parts::Executor{}));
}

// expect: moe::Router: a decorator's `inner` must decide row by row
#include "parts.hpp"

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

#ifdef MOE_FAULT
using Inner = parts::BatchRouter;
#else
using Inner = parts::Router;
#endif

int main() {
  return parts::use(moe::MoELayer(parts::gate(), Decorated<Inner>{}, parts::Storage<>{}, parts::Executor{}));
}

// expect: moe::Gate: needs `int outputs() const noexcept`, `int inputs() const noexcept`
#include "parts.hpp"

struct Mine {
  int outputs() const noexcept { return 4; }
  int inputs() const noexcept { return 8; }
#ifndef MOE_FAULT
  template <class X>
  void logits(const X&, moe::Frame<>&, const moe::GateCall<>&) const {}
#endif
};

int main() { return parts::use(moe::MoELayer(Mine{}, parts::Router{}, parts::Storage<>{}, parts::Executor{})); }

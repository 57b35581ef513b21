// expect: moe::Envelope: needs `int width() const noexcept`, `int outer_width() const noexcept`
#include "parts.hpp"

struct Mine {
  int width() const noexcept { return 8; }
#ifndef MOE_FAULT
  int outer_width() const noexcept { return 8; }
#endif
  template <class X>
  void enter(const X&, moe::Frame<>&, moe::View<const float>, moe::View<float>) const {}
  template <class X>
  void leave(const X&, moe::Frame<>&, moe::View<const float>, moe::View<float>) const {}
};

int main() {
  const moe::ExpertForm<moe::SwiGlu, Mine> form{};
  return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, parts::Executor{}, form));
}

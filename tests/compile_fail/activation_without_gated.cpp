// expect: moe::Activation: needs `static constexpr bool gated`
#include "parts.hpp"

struct Mine {
#ifndef MOE_FAULT
  static constexpr bool gated = true;
#endif
  float operator()(float gate, float up) const noexcept { return gate * up; }
};

int main() {
  return parts::use(
      moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, parts::Executor{}, moe::ExpertForm<Mine>{}));
}

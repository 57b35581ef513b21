// expect: moe::Activation: needs `float operator()(float gate, float up) const noexcept`
#include "parts.hpp"

struct Mine {
  static constexpr bool gated = true;
#ifdef MOE_FAULT
  float operator()(float gate) const noexcept { return gate; }
#else
  float operator()(float gate, float up) const noexcept { return gate * up; }
#endif
};

int main() {
  return parts::use(
      moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, parts::Executor{}, moe::ExpertForm<Mine>{}));
}

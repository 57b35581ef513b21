// expect: moe::Activation: must be trivially copyable, kernels take it by value
#include <vector>

#include "parts.hpp"

struct Mine {
  static constexpr bool gated = true;
  float operator()(float gate, float up) const noexcept { return gate * up; }
#ifdef MOE_FAULT
  std::vector<float> table;
#endif
};

int main() {
  return parts::use(
      moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, parts::Executor{}, moe::ExpertForm<Mine>{}));
}

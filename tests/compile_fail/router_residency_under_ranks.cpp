// expect: moe::MoELayer: this router looks at residency, but the executor sends rows to other ranks
#include "parts.hpp"

struct Ranks : parts::Executor {
  void send(moe::Frame<>&, moe::View<const float>, bool) const {}
  const parts::Executor& local() const { return *this; }
  void refuse() const noexcept {}
};
struct Router : parts::Router {
#ifdef MOE_FAULT
  static constexpr moe::Uses uses = moe::Uses::residency;
#endif
};
struct Storage : parts::Storage<> {
  void residency(std::uint32_t*) const {}
};

int main() { return parts::use(moe::MoELayer(parts::gate(), Router{}, Storage{}, Ranks{})); }

// expect: the storage needs `void residency(std::uint32_t* bits) const`
#include "parts.hpp"

struct Mine : parts::Router {
  static constexpr moe::Uses uses = moe::Uses::residency;
};
struct Storage : parts::Storage<> {
#ifndef MOE_FAULT
  void residency(std::uint32_t*) const {}
#endif
};

int main() { return parts::use(moe::MoELayer(parts::gate(), Mine{}, Storage{}, parts::Executor{})); }

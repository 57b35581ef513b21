// expect: moe::ReuseOutputs: this layer's router looks at the whole batch
#include <moe/reuse.hpp>

#include "parts.hpp"

#ifdef MOE_FAULT
using Router = parts::BatchRouter;
#else
using Router = parts::Router;
#endif

int main() {
  moe::MoELayer layer(parts::gate(), Router{}, parts::Storage<>{}, parts::Executor{});
  moe::ReuseOutputs<decltype(layer)> reuse(std::move(layer), {});
  return reuse.hidden() == 8 ? 0 : 1;
}

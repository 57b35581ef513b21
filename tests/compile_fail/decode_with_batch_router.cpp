// expect: moe::MoELayer::decode: this router is not causal
#include "parts.hpp"

#ifdef MOE_FAULT
using Router = parts::BatchRouter;
#else
using Router = parts::Router;
#endif

int main() {
  const moe::MoELayer layer(parts::gate(), Router{}, parts::Storage<>{}, parts::Executor{});
  moe::Workspace workspace(layer.workspace(1));
  layer.decode({}, workspace);
}

// expect: moe::MoELayer: this router looks at the whole batch, but the executor is token_only
#include "parts.hpp"

struct Pipelined : parts::Executor {
  static constexpr bool token_only = true;
};

#ifdef MOE_FAULT
using Router = parts::BatchRouter;
#else
using Router = parts::Router;
#endif

int main() { return parts::use(moe::MoELayer(parts::gate(), Router{}, parts::Storage<>{}, Pipelined{})); }

// expect: a gate on another memory than the executor's does not fit
#include "parts.hpp"

#ifdef MOE_FAULT
using Memory = parts::device_memory;
#else
using Memory = moe::host_memory;
#endif

int main() {
  const moe::Linear gate(moe::View<const float, Memory>(parts::gate_weights, 4, 8));
  return parts::use(moe::MoELayer(gate, parts::Router{}, parts::Storage<>{}, parts::Executor{}));
}

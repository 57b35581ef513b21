// expect: moe::SoftMoE: works on the host; this layer's memory is another
#include <moe/soft_moe.hpp>

#include "parts.hpp"

#ifdef MOE_FAULT
using Memory = parts::device_memory;
#else
using Memory = moe::host_memory;
#endif

/// As much of a layer as SoftMoE's type needs.
struct Layer {
  using memory = Memory;
};

int main() { return sizeof(moe::SoftMoE<Layer>) > 0 ? 0 : 1; }

// The instruction sets of this machine, for tests that run over all of them.
#pragma once

#include <moe/cpu/targets.hpp>
#include <vector>

inline std::vector<moe::Isa> available_isas() {
  std::vector<moe::Isa> isas;
  for (const moe::Isa isa : {moe::Isa::scalar, moe::Isa::avx2, moe::Isa::avx512})
    if (moe::cpu::supports(isa)) isas.push_back(isa);
  return isas;
}

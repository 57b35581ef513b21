// The instruction sets of this machine, for tests that run over all of them.
#pragma once

#include <moe/cpu/targets.hpp>
#include <vector>

inline std::vector<moe::Isa> available_isas() {
  std::vector<moe::Isa> isas;
  moe::cpu::for_each_isa([&](const auto& row) {
    if (row.here()) isas.push_back(row.isa);
  });
  return isas;
}

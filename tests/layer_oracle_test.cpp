// Cpu layers of random configurations against the oracle.
#include <moe/executors/cpu.hpp>

#include "cpu/isas.hpp"
#include "laws/layer_laws.hpp"

namespace {

using Mixed = moe::expert_format<moe::q8_0, moe::f16>;

/// Executors are costly to make (threads), so every combination exists once.
moe::Cpu any_cpu(oracle::Random& random) {
  static const std::vector<moe::Cpu> all = [] {
    std::vector<moe::Cpu> cpus;
    for (const moe::Isa isa : available_isas())
      for (const int threads : {1, 2, 3}) cpus.push_back({.threads = threads, .isa = isa});
    return cpus;
  }();
  return all[static_cast<std::size_t>(random.below(static_cast<int>(all.size())))];
}

}  // namespace

TEST_CASE_TEMPLATE("a layer on Cpu agrees with the oracle in 500 random configurations", F, float, moe::bf16, moe::f16,
                   moe::q8_0, Mixed) {
  layer_laws::agrees_with_oracle<F>(500, 1000, any_cpu);
}

// Eigen layers of random configurations against the oracle.
#include <moe/executors/eigen.hpp>

#include "laws/layer_laws.hpp"

TEST_CASE_TEMPLATE("a layer on EigenReference agrees with the oracle in 100 random configurations", F, float, moe::bf16,
                   moe::f16, moe::q8_0) {
  layer_laws::agrees_with_oracle<F>(100, 5000, [](oracle::Random&) { return moe::EigenReference{}; });
}

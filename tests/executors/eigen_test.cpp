// Laws of executors, for EigenReference.
#include <moe/executors/eigen.hpp>

#include "../laws/executor_laws.hpp"

TEST_CASE("EigenReference keeps the laws of executors") { executor_laws::all(moe::EigenReference{}); }

// expect: moe: elements are float, moe::bf16 or moe::f16
#include <moe/tensor.hpp>

#ifdef MOE_FAULT
using Element = double;
#else
using Element = float;
#endif

int main() {
  const Element weights[4] = {};
  return moe::Matrix(weights, 2, 2).rows - 2;
}

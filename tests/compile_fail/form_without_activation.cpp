// expect: moe::Form: use moe::ExpertForm<Activation>; it needs `using activation`
#include "parts.hpp"

struct Mine {
#ifndef MOE_FAULT
  using activation = moe::SwiGlu;
#endif
  moe::SwiGlu act;
  moe::WeightOn weight_on = moe::WeightOn::output;
  moe::NoEnvelope envelope;
};

int main() {
  return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, parts::Executor{}, Mine{}));
}

// expect: moe::Form: use moe::ExpertForm<Activation, Envelope, Output>
#include "parts.hpp"

#ifdef MOE_FAULT
struct Mine {
  using activation = moe::SwiGlu;
  moe::SwiGlu act;
};
#else
using Mine = moe::ExpertForm<moe::SwiGlu>;
#endif

int main() {
  return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, parts::Executor{}, Mine{}));
}

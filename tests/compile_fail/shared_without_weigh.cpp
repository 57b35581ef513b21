// expect: moe::Shared: needs a resident `storage`, a `form` and `void weigh(const X&, Frame&, View<const float>, Frame& routed) const`
#include "parts.hpp"

struct Mine {
  parts::Storage<> storage;
  moe::ExpertForm<moe::SwiGlu> form;
#ifndef MOE_FAULT
  template <class X>
  void weigh(const X&, moe::Frame<>&, moe::View<const float>, moe::Frame<>&) const {}
#endif
};

int main() {
  return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, parts::Executor{},
                                  moe::ExpertForm<moe::SwiGlu>{}, Mine{}));
}

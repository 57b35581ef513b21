// expect: `combine(frame, in, form, y, add) const`
#include "parts.hpp"

struct Mine : parts::Names,
              parts::Carve,
              parts::Steps,
              parts::Experts
#ifndef MOE_FAULT
    ,
              parts::Combine
#endif
{
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, Mine{})); }

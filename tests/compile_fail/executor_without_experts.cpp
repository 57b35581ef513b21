// expect: moe::Executor: needs `experts(frame, in, refs, formats, shape, form, position) const` and
#include "parts.hpp"

struct Mine : parts::Names,
              parts::Carve,
              parts::Steps,
              parts::Combine
#ifndef MOE_FAULT
    ,
              parts::Experts
#endif
{
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, Mine{})); }

// expect: moe::Executor: needs carve, rows and linear
#include "parts.hpp"

struct Mine : parts::Names,
              parts::Steps,
              parts::Experts,
              parts::Combine
#ifndef MOE_FAULT
    ,
              parts::Carve
#endif
{
};

int main() { return parts::use(moe::MoELayer(parts::gate(), parts::Router{}, parts::Storage<>{}, Mine{})); }

// expect: this_spec_picks_more_experts_than_there_are
#include <moe/models.hpp>

#ifdef MOE_FAULT
constexpr int picks = 9;
#else
constexpr int picks = 8;
#endif

constexpr moe::models::Spec spec = moe::models::mixtral(64, 128, 8, picks);

int main() { return spec.k == 0; }

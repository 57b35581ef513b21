// expect: moe::top_k<Experts, K>: more picks than experts
#include <moe/routers/top_k.hpp>

#ifdef MOE_FAULT
constexpr int picks = 9;
#else
constexpr int picks = 8;
#endif

constexpr moe::TopK router = moe::top_k<8, picks>({.score = moe::Score::softmax});

int main() { return router.k == 0; }

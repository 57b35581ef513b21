// expect: (could not convert|no viable conversion|no matching function|no known conversion)
#include "parts.hpp"

#ifdef MOE_FAULT
using Memory = moe::host_memory;
#else
using Memory = parts::device_memory;
#endif

void take(moe::View<const float, parts::device_memory>) {}

int main() { take(moe::View<float, Memory>()); }

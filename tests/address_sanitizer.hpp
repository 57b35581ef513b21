// Whether this is a build with the address sanitizer, which holds memory and opens descriptors of its own.
#pragma once

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOE_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(MOE_ADDRESS_SANITIZER) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool address_sanitizer = true;
#else
inline constexpr bool address_sanitizer = false;
#endif

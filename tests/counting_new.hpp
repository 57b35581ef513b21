// Replaces this program's operator new by one that counts: for one source file of a test that looks at memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace heap {

inline std::atomic<long> allocations{0};
inline std::atomic<std::size_t> bytes{0}, peak{0};  // taken now, and at most since `peak` was set

/// What was asked for, in front of what is given out: what the system rounds it up to depends on addresses.
struct Header {
  std::size_t size, align;
};

inline void* take(std::size_t size, std::size_t align) {
  ++allocations;
  static_assert(sizeof(Header) <= alignof(std::max_align_t));
  void* block = nullptr;
  if (::posix_memalign(&block, align, align + size) != 0) throw std::bad_alloc();
  void* const p = static_cast<std::byte*>(block) + align;
  new (static_cast<std::byte*>(p) - sizeof(Header)) Header{size, align};
  const std::size_t now = bytes += size;
  std::size_t highest = peak;
  while (now > highest && !peak.compare_exchange_weak(highest, now)) {
  }
  return p;
}
inline void give_back(void* p) noexcept {
  if (p == nullptr) return;
  const Header header = *std::launder(reinterpret_cast<Header*>(static_cast<std::byte*>(p) - sizeof(Header)));
  bytes -= header.size;
  std::free(static_cast<std::byte*>(p) - header.align);
}

}  // namespace heap

void* operator new(std::size_t size) { return heap::take(size, alignof(std::max_align_t)); }
void* operator new[](std::size_t size) { return heap::take(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t a) { return heap::take(size, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t size, std::align_val_t a) { return heap::take(size, static_cast<std::size_t>(a)); }
void operator delete(void* p) noexcept { heap::give_back(p); }
void operator delete[](void* p) noexcept { heap::give_back(p); }
void operator delete(void* p, std::size_t) noexcept { heap::give_back(p); }
void operator delete[](void* p, std::size_t) noexcept { heap::give_back(p); }
void operator delete(void* p, std::align_val_t) noexcept { heap::give_back(p); }
void operator delete[](void* p, std::align_val_t) noexcept { heap::give_back(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { heap::give_back(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { heap::give_back(p); }

// Replaces this program's operator new by one that counts: for one source file of a test that looks at memory.
#pragma once

#include <malloc.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace heap {

inline std::atomic<long> allocations{0};
inline std::atomic<std::size_t> bytes{0}, peak{0};  // taken now, and at most since `peak` was set

inline void* take(std::size_t size, std::size_t align) {
  ++allocations;
  if (size == 0) size = 1;
  void* const p = std::aligned_alloc(align, (size + align - 1) / align * align);
  if (p == nullptr) throw std::bad_alloc();
  const std::size_t now = bytes += ::malloc_usable_size(p);
  std::size_t highest = peak;
  while (now > highest && !peak.compare_exchange_weak(highest, now)) {
  }
  return p;
}
inline void give_back(void* p) noexcept {
  if (p != nullptr) bytes -= ::malloc_usable_size(p);
  std::free(p);
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

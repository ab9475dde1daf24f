// Counts what a thread allocates, for rules that say "allocates nothing".

#include "allocations.hpp"

#include <cstdlib>
#include <new>

namespace {
constinit thread_local std::size_t count = 0;

void* counted(std::size_t bytes) {
  ++count;
  if (void* const made = std::malloc(bytes == 0 ? 1 : bytes)) return made;
  throw std::bad_alloc();
}
}  // namespace

namespace support {
std::size_t allocations() noexcept { return count; }
}  // namespace support

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, std::size_t) noexcept { std::free(data); }
void operator delete[](void* data, std::size_t) noexcept { std::free(data); }

#pragma once

#include <cstddef>

namespace support {

/// How often the calling thread has called operator new; the program of a suite that asks lists allocations.cpp.
std::size_t allocations() noexcept;

/// How many allocations of operator new, by all threads, are not deleted; 0 under a sanitizer.
std::size_t live_allocations() noexcept;

/// While it lives, operator new fails on this thread; under a sanitizer it does not.
class NoMemory {
 public:
  NoMemory() noexcept;
  ~NoMemory();
  NoMemory(const NoMemory&) = delete;
  NoMemory& operator=(const NoMemory&) = delete;
};

}  // namespace support

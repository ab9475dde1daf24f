#pragma once

#include <cstddef>

namespace support {

/// How often the calling thread has called operator new; the program of a suite that asks lists allocations.cpp.
std::size_t allocations() noexcept;

/// How many allocations of operator new, by all threads, are not deleted; 0 under a sanitizer.
std::size_t live_allocations() noexcept;

/// While it lives, operator new fails on this thread, but for so many times at first; under a sanitizer it does not.
class NoMemory {
 public:
  explicit NoMemory(std::size_t but_for = 0) noexcept;
  ~NoMemory();
  NoMemory(const NoMemory&) = delete;
  NoMemory& operator=(const NoMemory&) = delete;
};

}  // namespace support

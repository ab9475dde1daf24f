#pragma once

#include <cstddef>
#include <functional>

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

/// While it lives, `run` runs before each operator new of this thread, but for those in it; under a sanitizer it does
/// not.
class OnAllocation {
 public:
  explicit OnAllocation(std::function<void()> run) noexcept;
  ~OnAllocation();
  OnAllocation(const OnAllocation&) = delete;
  OnAllocation& operator=(const OnAllocation&) = delete;

 private:
  std::function<void()> run_;
};

}  // namespace support

#pragma once

#include <cstddef>

namespace support {

/// How often the calling thread has called operator new; the program of a suite that asks lists allocations.cpp.
std::size_t allocations() noexcept;

}  // namespace support

#pragma once

// Defined in: mapping.cpp

// Memory of the program's that it has asked for and never touched.

#include <cstddef>

namespace thole::inline v0_1::detail {

/// How many of these bytes lie in pages that have no memory yet, and get some where they are pinned: neither touched,
/// nor in the page cache. 0 where the system does not say. Takes about 50 ms for a million pages of a file.
std::size_t bytes_without_memory(std::byte* data, std::size_t bytes) noexcept;

}  // namespace thole::inline v0_1::detail

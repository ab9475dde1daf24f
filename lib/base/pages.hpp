#pragma once

// Ordinary memory, which nobody pins, by the page.

#include <cstddef>

namespace thole::inline v0_1::detail {

/// The pages go back to the system, and read as zeros from now on. Returns false, and has done nothing, where the
/// system does not take them, as where the program has locked its memory.
bool give_pages_back(std::byte* data, std::size_t bytes) noexcept;

}  // namespace thole::inline v0_1::detail

#pragma once

// On which NUMA node memory lies.

#include <cstddef>

#include <thole/error.hpp>

namespace thole::detail {

/// The pages that [data, data + bytes) will get come from this node only. Errors: invalid_argument (there is no such
/// node, or thole was built without NUMA support), limit.
Result<void> bind_to_node(std::byte* data, std::size_t bytes, int node);

/// Undoes it for pages that are still to come.
void unbind(std::byte* data, std::size_t bytes) noexcept;

}  // namespace thole::detail

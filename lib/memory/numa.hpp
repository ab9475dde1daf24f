#pragma once

// On which NUMA node memory lies.

#include <cstddef>

#include <thole/error.hpp>

namespace thole::inline v0_1::detail {

/// The pages that [data, data + bytes) will get come from this node only. Errors: invalid_argument (there is no such
/// node, or thole was built without NUMA support), limit.
Result<void> bind_to_node(std::byte* data, std::size_t bytes, int node);

/// They come from this node while it has some, else from any other. A wish, that a system without such a node does not
/// hear; and where the program, or numactl for it, has said itself where its memory is to lie, that holds.
void prefer_node(std::byte* data, std::size_t bytes, int node) noexcept;

/// Undoes both for pages that are still to come.
void unbind(std::byte* data, std::size_t bytes) noexcept;

}  // namespace thole::inline v0_1::detail

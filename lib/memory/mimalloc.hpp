#pragma once

// What thole asks of mimalloc; mimalloc.cpp is the only file that knows it and its versions. Calls on one chunk are
// made by one thread at a time (the store's lock); calls on different chunks are independent.

#include <cstddef>
#include <string_view>

#include <thole/error.hpp>

namespace thole::detail {

struct Chunk;

/// Loads mimalloc, once, and sets what it must be set to. Errors: invalid_argument when the library is missing or is
/// not the one that thole was compiled for.
Result<void> start_mimalloc();

/// Makes mimalloc know the chunk's [data, bytes), which must lie at config::region_alignment, be pinned, and be
/// unmapped never again. Sets its heap and own_bytes. False when mimalloc has no slot left, or serves nothing
/// (mimalloc_trouble()).
bool introduce_chunk(Chunk& chunk) noexcept;

/// Why mimalloc serves nothing although it took the memory (an environment setting, such as MIMALLOC_LIMIT_OS_ALLOC),
/// in a sentence for users; empty when all is well.
std::string_view mimalloc_trouble() noexcept;

/// Memory of the chunk, or nullptr. `alignment` is at most a page.
void* allocate_in_chunk(Chunk& chunk, std::size_t bytes, std::size_t alignment) noexcept;
void free_in_chunk(void* data) noexcept;
/// Called when no block is out: from then until the next allocation mimalloc touches nothing but its own_bytes.
void rest_chunk(Chunk& chunk) noexcept;

}  // namespace thole::detail

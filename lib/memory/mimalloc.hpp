#pragma once

// What thole asks of mimalloc; mimalloc.cpp is the only file that knows it and its versions. Calls on one chunk are
// made by one thread at a time (the store's lock); calls on different chunks are independent.

#include <cstddef>
#include <string_view>

#include <thole/error.hpp>

namespace thole::inline v0_1::detail {

struct Chunk;
struct ChunkTable;

/// Loads mimalloc, once, and sets what it must be set to. Errors: invalid_argument when the library is missing or is
/// not the one that thole was compiled for.
Result<void> start_mimalloc();

/// Makes memory that others had, and that no block of mimalloc's is in, fit to be mimalloc's again: called before the
/// chunk is used again.
void clear_headers(const Chunk& chunk) noexcept;

/// Makes mimalloc know the chunk's [data, bytes), which must lie at config::region_alignment, be pinned, and be
/// unmapped never again. False when mimalloc has no slot left, or serves nothing (mimalloc_trouble()). Slots are never
/// given back: a table that has many chunks gets no more when they run short.
bool introduce_chunk(Chunk& chunk, ChunkTable& table) noexcept;
/// Gives a chunk that mimalloc knows its heap, and sets own_bytes. False when there is no thread to be had now, or when
/// mimalloc serves nothing: the chunk is `useless` then.
bool give_heap(Chunk& chunk, ChunkTable& table) noexcept;

/// Why mimalloc serves nothing although it took the memory (an environment setting, such as MIMALLOC_LIMIT_OS_ALLOC),
/// or takes no more, in a sentence for users; empty when all is well.
std::string_view mimalloc_trouble() noexcept;

/// What mimalloc takes for so many bytes: the next of its own sizes.
std::size_t good_size(std::size_t bytes) noexcept;
/// Memory of the chunk, or nullptr. `alignment` is at most a page. Sets `bytes` to what can be used of it.
void* allocate_in_chunk(Chunk& chunk, std::size_t& bytes, std::size_t alignment) noexcept;
void free_in_chunk(void* data) noexcept;
/// Called when no block is out: from then until the next allocation mimalloc touches nothing but its own_bytes.
void rest_chunk(Chunk& chunk) noexcept;

}  // namespace thole::inline v0_1::detail

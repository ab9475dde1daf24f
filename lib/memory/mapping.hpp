#pragma once

// The only place where pinned memory is mapped: ranges of addresses, the pages in them, and what the kernel is told of
// them.
//
// mimalloc cannot forget an address range that it has been told of, so a range that is large enough for it is never
// unmapped. When its arena ends, its pages go back to the system and the range is parked: the next arena that fits into
// it uses it again. Such ranges come in powers of two, so that arenas which grow a little each time find the range of
// the one before. Twice what was in use may stay pinned, but not at the price of ever more addresses: who makes a
// region sees to it, where he may wait, that there is one range of each power of two (pinned_pool.cpp), and all of them
// are less than four times as large as the largest arena.
//
// A forked child gets none of these pages: the kernel would copy every pinned page at the fork, and what a device
// writes would go to one of the two only.

#include <cstddef>
#include <string>

#include <thole/config.hpp>
#include <thole/error.hpp>

namespace thole::inline v0_1::detail {

class MemoryReservation;

struct ChunkTable;

/// One range of addresses that the library has mapped.
struct Mapping {
  std::byte* data = nullptr;     ///< where it starts
  std::size_t bytes = 0;         ///< its length, whole pages
  std::size_t kept_bytes = 0;    ///< at its start: they keep their contents when the pages go back to the system
  ChunkTable* chunks = nullptr;  ///< what mimalloc has been told of it (chunk.hpp); stays with it for good
  Mapping* next = nullptr;       ///< link of the parked ranges
};

/// Ranges from here on are parked instead of unmapped, and mimalloc may be told of them.
inline constexpr std::size_t least_parked = 8 * config::smallest_region;

/// A range of which the first `bytes` (whole pages) can be read and written, and no page has been touched. From
/// least_parked on it lies at config::region_alignment. Errors: limit, out_of_memory.
Result<Mapping*> map_memory(std::size_t bytes, bool in_core_dumps);

/// Gives the pages back to the system, but for the first `kept_bytes`; the range is unmapped or parked.
void unmap_memory(Mapping* mapping) noexcept;

/// Whether there is a parked range for so many bytes.
bool has_parked(std::size_t bytes) noexcept;
/// The length of a new range for so many bytes.
std::size_t range_for(std::size_t bytes) noexcept;
/// Whether a range of this length serves so many bytes, and is not far too large for them.
bool serves(std::size_t range, std::size_t bytes) noexcept;
/// The bytes of all ranges that are never unmapped.
std::size_t addresses_taken() noexcept;

/// Whether forked children get a copy of these pages.
void copy_to_children(std::byte* data, std::size_t bytes, bool copied) noexcept;

/// Gives each page its memory now, from several threads, since registering would do it with one. What the pages hold
/// stays. `room` is told as it goes.
void touch(std::byte* data, std::size_t bytes, MemoryReservation& room) noexcept;

/// The error of an arena that cannot have `bytes` of pinned memory.
tl::unexpected<Error> cannot_pin(Errc code, std::size_t bytes, const std::string& why);

}  // namespace thole::inline v0_1::detail

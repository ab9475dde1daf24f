#pragma once

// Where the records of blocks and of their uses come from: ordinary memory, a slab at a time, touched page by page as
// it is needed. Before it is, the limits of the machine and the container are asked (base/limits.hpp), once for the
// sixteenth part of what they leave: where they leave nothing there is no record, and so no block.
//
// Slabs are never unmapped, so that a thread which is late, and a report, which looks at all blocks without a lock that
// others wait for, may still read a record that is not the block's any more. Their pages go back to the system while
// nobody has a record there and no report is being made; they read as zeros then, which is a record of nothing. That
// happens where more than half of the slabs, and some more, are idle, and when an arena is trimmed.

#include <cstddef>
#include <cstdint>
#include <shared_mutex>
#include <string>

#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

/// A record with empty uses; nullptr when the system has no memory, or a limit leaves none (records_refused()).
Block* acquire_block() noexcept;
/// Nobody holds the block, no queue or cache knows it, and no stream uses it.
void release_block(Block* block) noexcept;
/// A vacant slot for uses; nullptr as with acquire_block(). It goes back with the record that it is put into.
/// `at_any_cost`: no limit is asked.
Use* acquire_slot(bool at_any_cost) noexcept;
void release_slot(Use* slot) noexcept;

/// Why there is no record to be had now: the limit, in words. Empty: there is.
std::string records_refused() noexcept;
/// Gives the pages of idle slabs back to the system.
void trim_records() noexcept;
/// Bytes of pages that records lie in, of all arenas of the process.
std::size_t record_bytes() noexcept;
/// The limits are asked before any further page is touched, however short ago they were.
void ask_limits_again() noexcept;

/// Whether so many more bytes may be taken for what goes with records. They count as those do.
bool may_keep_records(std::size_t bytes) noexcept;
/// They have been given back.
void no_more_records(std::size_t bytes) noexcept;
/// While it is held no pages of blocks' records go back, as while records are visited: for whoever looks at a block
/// that may come to its end meanwhile. What is read is as below. Not on a thread that holds it, or visits records.
[[nodiscard]] std::shared_lock<std::shared_mutex> keep_records() noexcept;

/// Calls `f(context, block)` with every record of a block that there is in the process, whatever it is used for now, or
/// not. Others go on meanwhile: what is read of a record must be atomic, or guarded by the record's own lock.
void visit_records(void (*f)(void* context, Block& block), void* context);

/// The same for any function.
template <class F>
void for_each_record(F&& f) {
  visit_records([](void* context, Block& block) { (*static_cast<std::remove_reference_t<F>*>(context))(block); }, &f);
}

}  // namespace thole::inline v0_1::detail

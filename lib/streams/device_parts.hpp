#pragma once

// Parts of a piece of device memory, each a record of its own as far as holders, spans and uses go: a stream that uses
// one waits for what uses that part alone. The whole is held by its parts, and its handle is that of all of them: it is
// freed as it would have been without them. When a part ends, its open uses become the whole's.

#include <cstddef>

#include "streams/device_block.hpp"

namespace thole::inline v0_1::detail {

/// A new part of what `of` is, or is a part of; its uses are those of `of`. nullptr: the system has no memory. The
/// caller has the handle of `of`.
DeviceBlock* make_device_part(DeviceBlock& of, void* data, std::size_t bytes) noexcept;
/// It was made in vain.
void discard_device_part(DeviceBlock* part) noexcept;
/// So many parts were made of it that will be the program's.
void count_part_handles(DeviceBlock& of, std::size_t parts) noexcept;
/// It has become such parts, which have its uses: its handle is theirs. The caller alone holds it.
void end_as_parts(DeviceBlock* block) noexcept;

}  // namespace thole::inline v0_1::detail

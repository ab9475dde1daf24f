#pragma once

// Joining parts of one buffer: `join(std::move(a), std::move(b))`. Buffers of pinned memory and of the device's can be
// split (`std::move(buffer).split({n, m})`, `split_at(n)`), so that several streams, or several threads, work on parts
// of it at once without waiting for each other.

#include <type_traits>
#include <utility>
#include <vector>

#include <thole/detail/parts.hpp>
#include <thole/error.hpp>

namespace thole::inline v0_1 {

/// One buffer of parts that are neighbours in one allocation (`PinnedBuffer::split`, `DeviceBuffer::split`), in their
/// order; they are moved from. What uses a part uses the buffer. Parts of 0 elements are left out. Does not wait.
/// Throws `Error`, and nothing has changed then: `invalid_argument` for no neighbours, `borrowed` as `split_at`,
/// `out_of_memory`, `moved_from`.
///
/// Thread safety: needs exclusive access to the parts.
template <detail::Parted Buffer>
[[nodiscard]] Result<Buffer> try_join(std::vector<Buffer>&& parts) noexcept {
  return detail::PartAccess::join(parts);
}
/// As `try_join`, but throws.
template <detail::Parted Buffer>
Buffer join(std::vector<Buffer>&& parts) {
  return detail::unwrap(try_join(std::move(parts)));
}
/// `join(std::move(a), std::move(b), ...)`.
template <detail::Parted Buffer, class... Others>
Buffer join(Buffer&& first, Others&&... others) {
  static_assert((std::is_same_v<Others, Buffer> && ...), "join(std::move(a), std::move(b), ...)");
  Buffer* const parts[] = {&first, &others...};
  return detail::unwrap(detail::PartAccess::join(parts));
}

}  // namespace thole::inline v0_1

#pragma once

// Splitting buffers into parts and joining them, of pinned and of device memory. Public: <thole/parts.hpp>.

// Defined in: parts.cpp, device_parts.cpp

#include <cstddef>
#include <utility>
#include <vector>

#include <gsl/span>

#include <thole/detail/block_head.hpp>
#include <thole/detail/kept.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole::inline v0_1 {

template <class T>
class PinnedBuffer;
template <class T>
class DeviceBuffer;

namespace detail {

struct DeviceBlock;

/// Makes parts of `sizes[i]` elements each, one behind the other, which are all of the block; nullptr where it is 0. On
/// success the block's handle is gone; on failure nothing has changed.
THOLE_EXPORT Result<void> split_block(BlockHead* block, const std::size_t* sizes, std::size_t count,
                                      std::size_t element_bytes, BlockHead** parts, const char* call) noexcept;
THOLE_EXPORT Result<void> split_block(DeviceBlock* block, const std::size_t* sizes, std::size_t count,
                                      std::size_t element_bytes, DeviceBlock** parts, const char* call) noexcept;
/// One part of neighbours, in their order: some blocks may be nullptr, nothing. On success their handles are gone; on
/// failure nothing has changed.
THOLE_EXPORT Result<BlockHead*> join_blocks(BlockHead* const* blocks, std::size_t count, const char* call) noexcept;
THOLE_EXPORT Result<DeviceBlock*> join_blocks(DeviceBlock* const* blocks, std::size_t count, const char* call) noexcept;
/// Its memory; nullptr for none.
THOLE_EXPORT void* block_data(const BlockHead* block) noexcept;

THOLE_EXPORT Error outside_error(const char* call, std::size_t offset, std::size_t count, std::size_t size);

/// Memory for so many pointers; nullptr where there is none.
THOLE_EXPORT void* allocate_pointers(std::size_t count) noexcept;
THOLE_EXPORT void free_pointers(void* pointers) noexcept;
/// Room for so many parts; nullptr where there is no memory for that.
template <class Block>
struct PartBlocks {
  explicit PartBlocks(std::size_t count) noexcept : list(static_cast<Block**>(allocate_pointers(count))) {}
  ~PartBlocks() { free_pointers(list); }
  PartBlocks(const PartBlocks&) = delete;
  PartBlocks& operator=(const PartBlocks&) = delete;
  Block** const list;
};
/// `count` empty elements. False: there is no memory for that.
template <class T>
bool try_resize(std::vector<T>& elements, std::size_t count) noexcept {
#ifdef __cpp_exceptions
  try {
    elements.resize(count);
    return true;
  } catch (...) {
    return false;
  }
#else
  elements.resize(count);
  return true;
#endif
}

/// Whether it can be split: a buffer of either kind.
template <class Buffer>
inline constexpr bool is_parted = false;
template <class T>
inline constexpr bool is_parted<PinnedBuffer<T>> = true;
template <class T>
inline constexpr bool is_parted<DeviceBuffer<T>> = true;
template <class Buffer>
concept Parted = is_parted<Buffer>;

/// What buffers let nobody else do.
struct PartAccess {
  /// Gives parts of these sizes, all of the buffer, to `parts`; `blocks` is room for as many.
  template <class Buffer>
  static Result<void> split_into(Buffer& buffer, const std::size_t* sizes, std::size_t count,
                                 typename Buffer::PartBlock** blocks, Buffer* parts, const char* call) noexcept {
    if (buffer.block_ != nullptr) {
      if (auto split = split_block(buffer.block_, sizes, count, Buffer::element_bytes, blocks, call); !split)
        return split;
      for (std::size_t i = 0; i != count; ++i)
        if (blocks[i] != nullptr) parts[i] = Buffer::of_part(blocks[i], sizes[i]);
    }
    buffer.be_moved_from();
    return {};
  }

  template <class Buffer>
  static Result<std::pair<Buffer, Buffer>> split_at(Buffer& buffer, std::size_t n, const char* call) noexcept {
    if (!buffer.valid_) return tl::unexpected(moved_from(call, "the buffer"));
    if (n > buffer.size()) return tl::unexpected(outside_error(call, 0, n, buffer.size()));
    const std::size_t sizes[] = {n, buffer.size() - n};
    typename Buffer::PartBlock* blocks[2];
    Buffer parts[2];
    if (auto split = split_into(buffer, sizes, 2, blocks, parts, call); !split)
      return tl::unexpected(std::move(split.error()));
    return std::pair(std::move(parts[0]), std::move(parts[1]));
  }

  template <class Buffer>
  static Result<std::vector<Buffer>> split(Buffer& buffer, gsl::span<const std::size_t> sizes,
                                           const char* call) noexcept {
    if (!buffer.valid_) return tl::unexpected(moved_from(call, "the buffer"));
    std::size_t sum = 0;
    for (const std::size_t part : sizes) {
      if (part > buffer.size() - sum) return tl::unexpected(outside_error(call, sum, part, buffer.size()));
      sum += part;
    }
    if (sum != buffer.size()) return tl::unexpected(outside_error(call, 0, sum, buffer.size()));
    const PartBlocks<typename Buffer::PartBlock> blocks(sizes.size());
    std::vector<Buffer> parts;
    if (blocks.list == nullptr || !try_resize(parts, sizes.size())) return tl::unexpected(no_system_memory(call));
    if (auto split = split_into(buffer, sizes.data(), sizes.size(), blocks.list, parts.data(), call); !split)
      return tl::unexpected(std::move(split.error()));
    return parts;
  }

  /// One buffer of the parts `part_at(0)` and so on, which are moved from; where that fails nothing has changed.
  /// `blocks` is room for as many.
  template <class Buffer, class PartAt>
  static Result<Buffer> join(std::size_t count, typename Buffer::PartBlock** blocks, PartAt part_at) noexcept {
    std::size_t size = 0;
    for (std::size_t i = 0; i != count; ++i) {
      const Buffer& part = part_at(i);
      if (!part.valid_) return tl::unexpected(moved_from("join", "a part"));
      blocks[i] = part.block_;
      size += part.size();
    }
    auto joined = join_blocks(blocks, count, "join");
    if (!joined) return tl::unexpected(std::move(joined.error()));
    for (std::size_t i = 0; i != count; ++i) part_at(i).be_moved_from();
    return Buffer::of_part(*joined, size);
  }

  template <class Buffer>
  static Result<Buffer> join(std::vector<Buffer>& parts) noexcept {
    const PartBlocks<typename Buffer::PartBlock> blocks(parts.size());
    if (blocks.list == nullptr) return tl::unexpected(no_system_memory("join"));
    return join<Buffer>(parts.size(), blocks.list, [&](std::size_t i) -> Buffer& { return parts[i]; });
  }

  template <class Buffer, std::size_t Count>
  static Result<Buffer> join(Buffer* const (&parts)[Count]) noexcept {
    typename Buffer::PartBlock* blocks[Count];
    return join<Buffer>(Count, blocks, [&](std::size_t i) -> Buffer& { return *parts[i]; });
  }
};

}  // namespace detail
}  // namespace thole::inline v0_1

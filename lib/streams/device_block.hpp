#pragma once

// Device memory of a DeviceBuffer: allocated in the order of one stream, freed in stream order after all its uses. Its
// records are used again and never given back to the system, so that a DeviceSpan which outlives its buffer finds out.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/device_core.hpp"
#include "blocks/use.hpp"
#include "streams/submitting.hpp"
#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {

struct DeviceBlock {
  std::shared_ptr<DeviceCore> core;
  void* data = nullptr;               ///< nullptr: 0 bytes
  std::size_t bytes = 0;              ///< at `data`
  std::shared_ptr<Timeline> made_on;  ///< whose order frees it; nullptr: when all its uses are done, on any stream
  Uses uses;
  Submitting submitting;        ///< the calls that are about to add to the uses
  DeviceBlock* next = nullptr;  ///< of the list in which it waits
  // Of memory that was split (device_parts.hpp).
  DeviceBlock* whole = nullptr;                ///< what it is a part of, which it holds; nullptr: none
  std::atomic<std::uint32_t> part_handles{0};  ///< of parts; the last to go takes the whole's own

  /// The life of the record that is going on, in the upper half: spans remember theirs. In the lower, who holds the
  /// memory: the handle, each graph node, calls that go on. One word, so that no span can hold memory that is gone.
  std::atomic<std::uint64_t> life{0};

  std::uint32_t generation() const noexcept {
    return static_cast<std::uint32_t>(life.load(std::memory_order_relaxed) >> 32);
  }
  /// How many hold it; a guess where the caller does not.
  std::uint32_t holders() const noexcept { return static_cast<std::uint32_t>(life.load(std::memory_order_relaxed)); }
  void hold() noexcept { life.fetch_add(1, std::memory_order_relaxed); }
  /// False: the memory that the span was made for is gone. Acquire: pairs with let_go().
  bool try_hold(std::uint32_t generation) noexcept;
  /// True: the caller, who holds it, was the only one, and does not hold it any more; else nothing has changed.
  /// Acquire: as let_go().
  bool let_go_if_alone() noexcept {
    auto now = life.load(std::memory_order_relaxed);
    do {
      if ((now & 0xffffffff) != 1) return false;
    } while (!life.compare_exchange_weak(now, now - 1, std::memory_order_acq_rel, std::memory_order_relaxed));
    return true;
  }
  /// From now on its spans are of memory that is gone. False, and nothing has changed: another holds it than the
  /// handle, whose owner calls this. Acquire: as let_go().
  bool begin_next_life() noexcept {
    const std::uint64_t alone = std::uint64_t{generation()} << 32 | 1;
    auto now = alone;
    return life.compare_exchange_strong(now, alone + next_life, std::memory_order_acq_rel, std::memory_order_relaxed);
  }
  /// As if begin_next_life() had not been called. In between nobody can have held it.
  void go_back_a_life() noexcept { life.fetch_sub(next_life, std::memory_order_release); }
  static constexpr std::uint64_t next_life = std::uint64_t{1} << 32;
  /// True: nobody holds the memory any more, and the caller alone frees it.
  bool let_go() noexcept {
    return (life.fetch_sub(1, std::memory_order_acq_rel) & 0xffffffff) == 1;  // all that was done is done before
  }
};

/// A record that the caller holds; nullptr when the system has no memory.
DeviceBlock* new_device_block(std::shared_ptr<DeviceCore> core) noexcept;
/// A record whose memory is gone, or was never there.
void recycle(DeviceBlock* block) noexcept;
/// The program's handle is gone, which it alone has; others may hold the memory on.
void drop_device_block_handle(DeviceBlock* block) noexcept;
/// Nobody holds the block any more: frees the memory and the record once nothing uses it: now, in the order of its
/// stream, or later, by the library's own thread.
void free_device_block(DeviceBlock* block) noexcept;
/// Allocates for a graph that is being captured: the memory is there on return.
Status allocate_for_graph(DeviceBlock& block, std::size_t bytes) noexcept;

/// For retain_in_graph: may not call the device, so that the library's own thread frees the memory.
void release_device_block_from_graph(void* block);
/// Frees the device's memory that had to wait and need not any more. Called wherever blocks are reclaimed. Looks at so
/// many blocks at most, at others the next time.
void free_waiting_device_blocks(DeviceCore& device, std::size_t at_most = SIZE_MAX) noexcept;
/// Memory is short: until no other thread has a block in hand that waited, which may be just what is wanted; such a
/// thread makes a few calls. Not for ever, in the face of one that a driver holds up behind a full stream. False: none
/// had one.
bool wait_for_blocks_in_hand(DeviceCore& device) noexcept;
/// Memory is short: frees what has waited longest in the order of that stream, which waits for its uses. False: there
/// is none that can be.
bool free_one_behind_its_uses(Timeline& timeline) noexcept;

}  // namespace thole::inline v0_1::detail

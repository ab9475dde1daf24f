#pragma once

// Pinned memory as PyTorch's host allocator gives it out: by addresses, with figures of PyTorch's kind, and with the
// graph captures that PyTorch announces. Knows nothing of PyTorch itself, so that it is tested where there is none.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <thole/arena.hpp>
#include <thole/heap.hpp>
#include <thole/stream.hpp>

#include "counted.hpp"

namespace thole_torch {

/// A graph pool's number, as PyTorch has it (`c10::MempoolId_t`).
using PoolId = std::pair<std::uint64_t, std::uint64_t>;

/// Memory that PyTorch holds: what goes with a tensor's storage as its context.
struct Given {
  void* data;
  std::size_t bytes;
};

/// As `HostMemory::figures()` says.
struct Figures {
  Count requests;                                   ///< Pieces of memory that tensors hold.
  Count request_bytes;                              ///< Their bytes, as asked for.
  Count segments;                                   ///< Stretches of memory that the arena has pinned.
  Count segment_bytes;                              ///< Their bytes.
  std::array<std::int64_t, 64> segments_by_size{};  ///< How many came of at most 2^i bytes.
};

/// One arena and one heap on it. Thread safety: any thread may call anything.
class HostMemory {
 public:
  /// Pins `bytes`, and grows to `max_bytes` where that is more. Throws `thole::Error` as `PinnedArena` does.
  HostMemory(const thole::Device& device, std::size_t bytes, std::size_t max_bytes);
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  /// At least one byte. Where there is none left, but copies in flight have some, waits for them, `longest_wait` at
  /// most; in a forked child it is `device_lost`.
  [[nodiscard]] thole::Result<Given*> allocate(std::size_t bytes) noexcept;
  static constexpr std::chrono::seconds longest_wait{10};
  /// The memory is reused when the device is done with what was recorded, and no graph keeps it. Never waits.
  void release(Given* given) noexcept;

  /// The stream reads or writes the memory that the address lies in, by work that was enqueued just before; in a
  /// capture the graph keeps that memory as long as it may be replayed. False where it is not in memory that was given
  /// out. Throws `thole::Error` where the use cannot be noted.
  bool record_use(const void* address, const thole::StreamRef& stream) const;
  /// Whether the address is in the arena at all. Takes a lock.
  bool contains(const void* address) const;

  /// PyTorch is about to capture a graph whose host memory is that pool's, or does so no more.
  void begin_capture(PoolId pool);
  void end_capture(PoolId pool);
  bool captures() const noexcept { return captures_.load(std::memory_order_acquire) != 0; }
  /// Of memory that a thread was given whose stream this is, while there are captures: where the stream takes part in
  /// one, the graph has the memory from the beginning, since a kernel in it may use that without a word. The graph
  /// keeps it as long as it may be replayed, and gives it back when its last replay is done. Throws as `record_use`.
  void keep_in_capture(const Given& given, const thole::StreamRef& stream) const;

  /// Takes back what is finished, and unpins what the arena has grown by and nobody uses. Waits as
  /// `PinnedArena::trim` does.
  void empty_cache();

  Figures figures() const noexcept;
  void forget_totals() noexcept;
  void forget_peaks() noexcept;

  const thole::PinnedArena& arena() const noexcept { return arena_; }
  const thole::PinnedHeap& heap() const noexcept { return heap_; }

 private:
  /// Shared with the arena's functions, which may be called after this object's end.
  struct Tally {
    Counted requests, request_bytes;
    Counted segments, segment_bytes;
    std::array<std::atomic<std::int64_t>, 64> segments_by_size{};
  };
  static thole::PinnedArena make_arena(const thole::Device& device, std::size_t bytes, std::size_t max_bytes,
                                       const std::shared_ptr<Tally>& tally);

  std::shared_ptr<Tally> tally_ = std::make_shared<Tally>();
  thole::PinnedArena arena_;
  thole::PinnedHeap heap_;
  std::mutex pools_mutex_;
  std::vector<PoolId> pools_;             // of the captures that go on
  std::atomic<std::size_t> captures_{0};  // how many: looked at by each allocation, without the lock
};

}  // namespace thole_torch

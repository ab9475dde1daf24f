#pragma once

// Device memory that cannot be freed yet, the one that has waited longest first; and the stream in which what has
// waited is freed.

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>

#include "backend/capture_guard.hpp"
#include "backend/device_core.hpp"
#include "base/spin_lock.hpp"
#include "streams/device_block.hpp"

namespace thole::inline v0_1::detail {

/// Linked by the blocks, so that waiting allocates nothing. Thread safety: any thread, at any time.
class DeviceBlockQueue {
 public:
  void push(DeviceBlock* block) noexcept {
    block->next = nullptr;
    const SpinGuard guard(lock_);
    (last_ == nullptr ? first_ : last_->next) = block;
    last_ = block;
    size_.store(size() + 1, std::memory_order_release);
  }
  /// nullptr: there is none.
  DeviceBlock* pop() noexcept {
    const SpinGuard guard(lock_);
    DeviceBlock* const block = first_;
    if (block == nullptr) return nullptr;
    first_ = block->next;
    if (first_ == nullptr) last_ = nullptr;
    size_.store(size() - 1, std::memory_order_release);
    return block;
  }
  std::size_t size() const noexcept { return size_.load(std::memory_order_acquire); }

 private:
  SpinLock lock_;
  DeviceBlock* first_ = nullptr;
  DeviceBlock* last_ = nullptr;
  std::atomic<std::size_t> size_{0};  // written under the lock
};

/// A stream that has only frees in it, so that it never stands still. Made with the device, since making one can block
/// beside a stuck stream, or where that was refused when it is first wanted. Thread safety: any thread, at any time.
class FreeingStream {
 public:
  FreeingStream() = default;
  ~FreeingStream() {
    if (stream_ != nullptr && process_ == this_process()) (void)backend_->destroy_stream(stream_);
  }
  FreeingStream(const FreeingStream&) = delete;
  FreeingStream& operator=(const FreeingStream&) = delete;

  /// Makes it, if it is still to be made.
  Status prepare(DeviceCore& core) noexcept {
    const std::scoped_lock lock(mutex_);
    if (stream_ != nullptr) return {};
    const Status status = core.note(core.backend->create_stream(&stream_));
    if (status.ok()) backend_ = core.backend;
    return status;
  }
  /// Frees memory that nothing uses any more.
  Status free_device(DeviceCore& core, void* data) noexcept {
    const CaptureGuard guard(*core.backend);
    if (const Status status = prepare(core); !status.ok()) return status;
    return core.note(core.backend->free_device(data, stream_));
  }

 private:
  const std::uint32_t process_ = this_process();
  std::mutex mutex_;  // while it is made
  StreamHandle stream_ = nullptr;
  std::shared_ptr<DeviceBackend> backend_;
};

}  // namespace thole::inline v0_1::detail

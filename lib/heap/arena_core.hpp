#pragma once

// What the handles of one arena share: its store, and the heaps that draw from it.

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/device_core.hpp"
#include "memory/store.hpp"

namespace thole::detail {

struct HeapCore;

class ArenaCore {
 public:
  explicit ArenaCore(std::shared_ptr<DeviceCore> device, Store* store) noexcept
      : device_(std::move(device)), store_(store) {}
  /// No handle, heap, buffer, borrow or copy in flight is left.
  ~ArenaCore() {
    if (!device_->of_another_process()) store_->close();
  }
  ArenaCore(const ArenaCore&) = delete;
  ArenaCore& operator=(const ArenaCore&) = delete;

  Store& store() const noexcept { return *store_; }
  const std::shared_ptr<DeviceCore>& device() const noexcept { return device_; }

  /// Throws std::bad_alloc.
  void add(HeapCore* heap);
  void remove(HeapCore* heap) noexcept;
  /// Gives what all heaps' caches keep back to the store; see HeapCore::flush.
  void flush() noexcept;
  /// The heaps' figures, summed.
  struct Sum {
    std::size_t made = 0, in_use = 0, in_flight = 0, cached = 0, waste = 0;
  };
  Sum sum() const;

 private:
  const std::shared_ptr<DeviceCore> device_;
  Store* const store_;
  mutable std::mutex mutex_;
  std::vector<HeapCore*> heaps_;
  std::size_t made_by_ended_heaps_ = 0;
};

}  // namespace thole::detail

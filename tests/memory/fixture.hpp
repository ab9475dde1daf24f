#pragma once

// A store on a simulated device, and what every test of it checks. A device does no more for it than pin: what a store
// does with the memory is the same on each, and pinned_pool_test.cpp, heap_test.cpp and quota_test.cpp ask a GPU, too.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <thole/simulation.hpp>

#include "backend/device_core.hpp"
#include "backend/simulated/backend.hpp"
#include "memory/pinned_pool.hpp"
#include "memory/store.hpp"

namespace memory_test {

using namespace thole;
using namespace thole::detail;

inline constexpr std::size_t KiB = 1024;
inline constexpr std::size_t MiB = 1024 * KiB;
inline constexpr std::size_t GiB = 1024 * MiB;

struct Machine {
  explicit Machine(const SimulationOptions& options = {.loss_is_final = false})
      : backend(std::make_shared<SimulatedBackend>(options)),
        device(std::make_shared<DeviceCore>(backend)),
        controls(backend) {}

  /// What stays pinned although nothing keeps it for a later arena.
  std::size_t pinned() const {
    (void)unpin_kept(*backend);
    return controls.pinned_bytes();
  }

  std::shared_ptr<SimulatedBackend> backend;
  std::shared_ptr<DeviceCore> device;
  Simulation controls;
};

/// A store that is closed at the end; the test gives its blocks back itself.
class OpenStore {
 public:
  OpenStore(const Machine& machine, std::size_t bytes, std::size_t max_bytes = 0,
            PinMethod pin = PinMethod::register_pages)
      : OpenStore(machine.device, bytes, max_bytes, pin) {}
  OpenStore(const std::shared_ptr<DeviceCore>& device, std::size_t bytes, std::size_t max_bytes = 0,
            PinMethod pin = PinMethod::register_pages) {
    auto opened = Store::open(device, {bytes, max_bytes, {pin, -1}});
    if (!opened) FAIL(opened.error().what());
    store_ = *opened;
  }
  OpenStore(const OpenStore&) = delete;
  OpenStore& operator=(const OpenStore&) = delete;
  ~OpenStore() { store_->close(); }

  Store* operator->() const { return store_; }
  Store& operator*() const { return *store_; }

 private:
  Store* store_;
};

using Blocks = std::vector<Block*>;

/// One block, or nullptr.
inline Block* take(Store& store, std::size_t bytes, std::size_t alignment) {
  Block* block = nullptr;
  return store.allocate_batch(bytes, alignment, &block, 1) == 1 ? block : nullptr;
}
inline void give(Store& store, Block* block) { store.free_batch(&block, 1); }

inline bool from_mimalloc(const Block* block) { return block->from_mimalloc; }

inline void free_all(Store& store, Blocks& blocks) {
  store.free_batch(blocks.data(), blocks.size());
  blocks.clear();
}

/// As many blocks as there are.
inline Blocks fill(Store& store, std::size_t bytes, std::size_t alignment = 64) {
  Blocks blocks;
  while (Block* block = take(store, bytes, alignment)) blocks.push_back(block);
  return blocks;
}

/// Every block lies in the store, as a whole, at its alignment, and no two share a byte.
inline bool sound(const Store& store, Blocks blocks, std::size_t alignment = 1) {
  std::sort(blocks.begin(), blocks.end(), [](const Block* a, const Block* b) { return a->data < b->data; });
  const std::byte* end = nullptr;
  for (const Block* block : blocks) {
    if (block->data < end || reinterpret_cast<std::uintptr_t>(block->data) % alignment != 0) return false;
    end = block->data + block->capacity;
    if (!store.contains(block->data) || !store.contains(end - 1)) return false;
  }
  return true;
}

inline bool all_free(const Store& store) {
  const StoreStats stats = store.stats();
  return stats.handed_out == 0 && stats.free + stats.wasted == stats.capacity;
}

}  // namespace memory_test

#include "blocks/block_pool.hpp"

#include <atomic>
#include <mutex>
#include <new>

#include "base/immortal.hpp"

namespace thole::detail {
namespace {

struct Pool {
  std::mutex mutex;
  BlockList free;
  std::atomic<BlockSlab*> slabs{nullptr};  // only grows; release, with first_slab()
};

// Blocks come back after main, too.
Pool& pool() noexcept { return immortal<Pool>(); }

}  // namespace

BlockSlab* first_slab() noexcept { return pool().slabs.load(std::memory_order_acquire); }

Block* acquire_block() noexcept {
  Pool& p = pool();
  const std::scoped_lock lock(p.mutex);
  if (p.free.empty()) {
    auto* const slab = new (std::nothrow) BlockSlab;
    if (slab == nullptr) return nullptr;
    slab->next = p.slabs.load(std::memory_order_relaxed);
    p.slabs.store(slab, std::memory_order_release);
    for (Block& block : slab->blocks) p.free.push(&block);
  }
  return p.free.pop();
}

void release_block(Block* block) noexcept {
  Pool& p = pool();
  const std::scoped_lock lock(p.mutex);
  p.free.push(block);
}

}  // namespace thole::detail

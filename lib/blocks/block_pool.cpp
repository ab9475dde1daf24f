#include "blocks/block_pool.hpp"

#include <array>
#include <mutex>
#include <new>

#include "base/immortal.hpp"

namespace thole::detail {
namespace {

struct Slab {
  std::array<Block, 64> blocks;
  Slab* next = nullptr;
};

struct Pool {
  std::mutex mutex;
  BlockList free;
  Slab* slabs = nullptr;  // keeps the slabs reachable, for leak checkers
};

// Blocks come back after main, too.
Pool& pool() noexcept { return immortal<Pool>(); }

}  // namespace

Block* acquire_block() noexcept {
  Pool& p = pool();
  const std::scoped_lock lock(p.mutex);
  if (p.free.empty()) {
    auto* const slab = new (std::nothrow) Slab;
    if (slab == nullptr) return nullptr;
    slab->next = p.slabs;
    p.slabs = slab;
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

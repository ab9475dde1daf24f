#include "streams/graph_releases.hpp"

#include <new>

#include "base/immortal.hpp"
#include "base/lock_free_stack.hpp"
#include "streams/watcher.hpp"

namespace thole::detail {
namespace {

using Released = LockFreeStack<Block, &Block::next>;

struct Kept {
  Block* block;
  std::shared_ptr<DeviceCore> device;  // whose graph it is: there the block is fetched
};

/// The graph and all that was made of it are gone, and their work is done.
void release_from_graph(void* object) {
  const std::unique_ptr<Kept> kept(static_cast<Kept*>(object));
  if (kept->device->of_another_process() || !kept->block->holders.drop_graph()) return;
  immortal<Released>().push(kept->block);
  watch(kept->device);
}

}  // namespace

Status keep_in_graph(Block& block, const std::shared_ptr<DeviceCore>& device, GraphHandle graph) noexcept {
  auto* const kept = new (std::nothrow) Kept{&block, device};
  if (kept == nullptr) return {StatusCode::out_of_memory};
  block.holders.add_graph();
  // CUDA: "Graph Management", cudaGraphRetainUserObject.
  const Status status = device->backend->retain_in_graph(graph, kept, release_from_graph);
  if (!status.ok()) release_from_graph(kept);
  return status;
}

void take_released_from_graphs(MovingBlocks& out) noexcept {
  auto& released = immortal<Released>();
  if (released.empty()) return;
  out.begin();
  Block* block = released.take_all();
  if (block == nullptr) out.cancel();
  while (block != nullptr) {
    Block* const following = block->next;
    out.push(block);
    block = following;
  }
}

}  // namespace thole::detail

#include "streams/graph_uses.hpp"

#include <algorithm>
#include <functional>
#include <new>
#include <utility>

#include "base/immortal.hpp"
#include "base/lock_free_stack.hpp"
#include "streams/host_functions.hpp"
#include "streams/watcher.hpp"

namespace thole::detail {
namespace {

using Released = LockFreeStack<Block, &Block::next>;

const void* piece(const Used& used) noexcept {
  return used.block != nullptr ? static_cast<const void*>(used.block) : used.device_block;
}

Status destroy(DeviceCore& device, GraphHandle graph, GraphExecHandle exec) noexcept {
  const CaptureGuard guard(*device.backend);
  return graph != nullptr ? device.backend->destroy_graph(graph) : device.backend->destroy_graph_exec(exec);
}

}  // namespace

GraphUses::~GraphUses() {
  if (device_->of_another_process()) return;
  for (const Used& used : uses_) {
    if (used.device_block != nullptr) {
      release_device_block_from_graph(used.device_block);
    } else if (used.block->holders.drop_graph()) {
      immortal<Released>().push(used.block);
      watch(device_);
    }
  }
}

bool GraphUses::add(const Used& used) noexcept try {
  const std::scoped_lock lock(mutex_);
  uses_.push_back(used);
  if (used.block != nullptr)
    used.block->holders.add_graph();
  else
    used.device_block->hold();
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

std::vector<Used> GraphUses::all() const {
  std::vector<Used> all;
  {
    const std::scoped_lock lock(mutex_);
    all = uses_;
  }
  std::ranges::sort(all, [](const Used& a, const Used& b) {  // of one piece, what writes is the first
    return piece(a) == piece(b) ? a.writes && !b.writes : std::less<>()(piece(a), piece(b));
  });
  const auto same = [](const Used& a, const Used& b) { return piece(a) == piece(b); };
  all.erase(std::unique(all.begin(), all.end(), same), all.end());  // std::ranges::unique is too new for clang 14
  return all;
}

Status GraphTable::of_capture(const std::shared_ptr<DeviceCore>& device, const CaptureInfo& capture, bool launches_seen,
                              std::shared_ptr<GraphUses>* uses) noexcept try {
  const std::scoped_lock lock(mutex_);
  if (by_handle_.size() > drop_beyond_) {
    std::erase_if(by_handle_, [](const auto& entry) { return entry.second.uses.expired(); });
    drop_beyond_ = std::max(std::size_t{64}, 2 * by_handle_.size());
  }
  Entry& entry = by_handle_[capture.graph];
  if (entry.capture == capture.id) *uses = entry.uses.lock();
  if (*uses != nullptr) return {};
  auto made = std::make_shared<GraphUses>(device, launches_seen);
  auto* const kept = new std::shared_ptr<GraphUses>(made);
  const auto release = [](void* object) { delete static_cast<std::shared_ptr<GraphUses>*>(object); };
  // CUDA: "Graph Management", cudaGraphRetainUserObject.
  if (const Status status = device->note(device->backend->retain_in_graph(capture.graph, kept, release));
      !status.ok()) {
    release(kept);
    return status;
  }
  entry = {capture.id, made};
  *uses = std::move(made);
  return {};
} catch (const std::bad_alloc&) {
  return {StatusCode::out_of_memory};
}

bool GraphTable::launches_seen(const CaptureInfo& capture) const noexcept {
  std::shared_ptr<GraphUses> uses;  // ends after the lock: its end may take the watcher's, which comes before this one
  const std::scoped_lock lock(mutex_);
  const auto found = by_handle_.find(capture.graph);
  if (found == by_handle_.end() || found->second.capture != capture.id) return false;
  uses = found->second.uses.lock();
  return uses != nullptr && uses->launches_seen;
}

std::shared_ptr<GraphUses> GraphTable::of_graph(GraphHandle graph) const noexcept {
  const std::scoped_lock lock(mutex_);
  const auto found = by_handle_.find(graph);
  return found != by_handle_.end() ? found->second.uses.lock() : nullptr;
}

void GraphTable::end(const std::shared_ptr<DeviceCore>& device, GraphHandle graph, GraphExecHandle exec) noexcept {
  if (device->of_another_process()) return;
  if (!in_host_function()) {
    if (const Status status = destroy(*device, graph, exec); !status.ok() && !device->lost())
      device->keep_error(status, graph != nullptr ? "~Graph" : "~GraphExec", "destroying it");
    return;
  }
  try {
    const std::scoped_lock lock(mutex_);
    ending_.push_back({graph, exec});
  } catch (const std::bad_alloc&) {
    return;  // it stays, and what it holds with it
  }
  watch(device);
}

void GraphTable::end_waiting(DeviceCore& device) noexcept {
  std::vector<Ending> ending;
  {
    const std::scoped_lock lock(mutex_);
    ending.swap(ending_);
  }
  for (const Ending& graph : ending) (void)destroy(device, graph.graph, graph.exec);
}

bool GraphTable::has_work() const noexcept {
  const std::scoped_lock lock(mutex_);
  return !ending_.empty();
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

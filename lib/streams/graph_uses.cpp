#include "streams/graph_uses.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <new>
#include <utility>

#include "base/host_function.hpp"
#include "base/immortal.hpp"
#include "base/lock_free_stack.hpp"
#include "streams/timeline.hpp"
#include "streams/watcher.hpp"

namespace thole::inline v0_1::detail {
namespace {

using Released = LockFreeStack<Block, &Block::next>;

const void* piece(const Used& used) noexcept {
  return used.block != nullptr ? static_cast<const void*>(used.block) : used.device_block;
}

}  // namespace

GraphUses::~GraphUses() {
  if (device_->of_another_process()) return;
  for (const auto& [data, piece] : pieces_) {
    const Used& used = piece.used;
    if (used.device_block != nullptr) {
      release_device_block_from_graph(used.device_block);
    } else if (used.block->holders.drop_graph()) {
      immortal<Released>().push(used.block);
      watch(device_);
    }
  }
}

bool GraphUses::hold(const Used& used) noexcept try {
  const std::scoped_lock lock(mutex_);
  const auto [place, is_new] = pieces_.try_emplace(piece(used));
  place->second.used.writes = place->second.used.writes || used.writes;
  if (!is_new) return true;
  place->second.used = used;
  if (used.block != nullptr)
    used.block->holders.add_graph();
  else
    used.device_block->hold();
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

void GraphUses::must_come_after(const Used& used, const std::shared_ptr<Timeline>& by, Branches& before) const {
  const std::scoped_lock lock(mutex_);
  const Piece& known = pieces_.at(piece(used));
  const auto come_after = [&](const std::weak_ptr<Timeline>& other) {
    auto timeline = other.lock();
    if (timeline != nullptr && timeline != by && std::ranges::find(before, timeline) == before.end())
      before.push_back(std::move(timeline));
  };
  std::ranges::for_each(known.writers, come_after);
  if (used.writes) std::ranges::for_each(known.readers, come_after);
}

bool GraphUses::add(const Used& used, const std::shared_ptr<Timeline>& by, const Branches& before) noexcept try {
  const std::scoped_lock lock(mutex_);
  Piece& known = pieces_.at(piece(used));
  known.used.writes = known.used.writes || used.writes;
  // All that needs memory comes first.
  Streams& same = used.writes ? known.writers : known.readers;
  same.reserve(same.size() + 1);
  if (launches == GraphLaunches::seen_by_write && used.block != nullptr && used.writes) {
    auto& write = writes_[used.block];
    if (write == nullptr) write = std::make_shared<GraphWrite>(device_);
    write->expect();
  }
  // What comes after this one comes after those as well.
  const auto come_before = [&](const std::weak_ptr<Timeline>& other) {
    const auto timeline = other.lock();
    return timeline == nullptr || timeline == by || std::ranges::find(before, timeline) != before.end();
  };
  std::erase_if(known.readers, come_before);
  if (used.writes) std::erase_if(known.writers, come_before);
  same.push_back(by);
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

void GraphUses::written(const Block& block, const Timeline& stream) noexcept {
  if (stream.device() != device_) return;  // an event is one device's
  const std::scoped_lock lock(mutex_);
  if (const auto found = writes_.find(&block); found != writes_.end()) found->second->add(stream.native());
}

std::vector<std::shared_ptr<GraphWrite>> GraphUses::writes(const std::vector<Used>& all) const {
  std::vector<std::shared_ptr<GraphWrite>> writes;
  const std::scoped_lock lock(mutex_);
  if (writes_.empty()) return writes;
  writes.resize(all.size());
  for (std::size_t i = 0; i != all.size(); ++i)
    if (const auto found = writes_.find(all[i].block); found != writes_.end() && found->second->complete())
      writes[i] = found->second;
  return writes;
}

void GraphUses::add_all(const GraphUses& other) {
  for (const Used& used : other.all())
    if (!hold(used)) throw std::bad_alloc();
}

std::vector<Used> GraphUses::all() const {
  const std::scoped_lock lock(mutex_);
  std::vector<Used> all;
  all.reserve(pieces_.size());
  for (const auto& [data, piece] : pieces_) all.push_back(piece.used);
  return all;
}

bool GraphTable::Entry::expired() const noexcept {
  return std::ranges::all_of(uses, [](const auto& one) { return one.expired(); });
}

Status GraphTable::of_capture(const std::shared_ptr<DeviceCore>& device, const CaptureInfo& capture,
                              GraphLaunches launches, std::shared_ptr<GraphUses>* uses) noexcept try {
  const std::scoped_lock lock(mutex_);
  if (by_handle_.size() > drop_beyond_) {
    std::erase_if(by_handle_, [](const auto& entry) { return entry.second.expired(); });
    drop_beyond_ = std::max(std::size_t{64}, 2 * by_handle_.size());
  }
  Entry& entry = by_handle_[capture.graph];
  if (entry.capture == capture.id && !entry.uses.empty()) *uses = entry.uses.back().lock();
  if (*uses != nullptr) return {};
  std::erase_if(entry.uses, [](const auto& one) { return one.expired(); });
  entry.uses.reserve(entry.uses.size() + 1);
  auto made = std::make_shared<GraphUses>(device, launches);
  auto* const kept = new std::shared_ptr<GraphUses>(made);
  const auto release = [](void* object) { delete static_cast<std::shared_ptr<GraphUses>*>(object); };
  // CUDA: "Graph Management", cudaGraphRetainUserObject.
  if (const Status status = device->note(device->backend->retain_in_graph(capture.graph, kept, release));
      !status.ok()) {
    release(kept);
    return status;
  }
  entry.capture = capture.id;
  entry.uses.push_back(made);
  *uses = std::move(made);
  return {};
} catch (const std::bad_alloc&) {
  return {StatusCode::out_of_memory};
}

bool GraphTable::launches_seen(const CaptureInfo& capture) const noexcept {
  std::shared_ptr<GraphUses> uses;  // ends after the lock: its end may take the watcher's, which comes before this one
  const std::scoped_lock lock(mutex_);
  const auto found = by_handle_.find(capture.graph);
  if (found == by_handle_.end() || found->second.capture != capture.id || found->second.uses.empty()) return false;
  uses = found->second.uses.back().lock();
  return uses != nullptr && uses->launches != GraphLaunches::unseen;
}

std::shared_ptr<GraphUses> GraphTable::of_graph(const std::shared_ptr<DeviceCore>& device, GraphHandle graph) const {
  std::vector<std::shared_ptr<GraphUses>> living;  // ends after the lock
  {
    const std::scoped_lock lock(mutex_);
    const auto found = by_handle_.find(graph);
    if (found == by_handle_.end()) return nullptr;
    living.reserve(found->second.uses.size());
    for (const auto& weak : found->second.uses)
      if (auto uses = weak.lock(); uses != nullptr) living.push_back(std::move(uses));
  }
  if (living.size() < 2) return living.empty() ? nullptr : living[0];
  auto together = std::make_shared<GraphUses>(device, std::min(living.back()->launches, GraphLaunches::seen));
  for (const auto& uses : living) together->add_all(*uses);
  return together;
}

std::mutex& GraphTable::instantiating(GraphHandle graph) noexcept {
  return instantiating_[std::hash<const void*>()(graph) / alignof(std::max_align_t) % instantiating_.size()];
}

void GraphTable::end(const std::shared_ptr<DeviceCore>& device, GraphHandle graph, GraphExecHandle exec) noexcept {
  if (device->of_another_process()) return;
  if (graph != nullptr) {  // before the handle may be another graph's
    const std::scoped_lock lock(mutex_);
    by_handle_.erase(graph);
  }
  using Kind = Leftovers::Kind;
  const Leftovers::Item gone =
      graph != nullptr ? Leftovers::Item{Kind::graph, graph} : Leftovers::Item{Kind::graph_exec, exec};
  // Neither a graph nor, when the device is lost, an executable waits for anything: what only they hold is free at
  // once.
  if ((graph != nullptr || device->lost()) && !in_host_function()) {
    if (const Status status = device->leftovers.destroy(gone); !status.ok() && !device->lost())
      device->keep_error(status, "~Graph", "destroying it");
    return;
  }
  device->leftovers.add(gone.kind, gone.handle);
  tidy_up(device);
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

}  // namespace thole::inline v0_1::detail

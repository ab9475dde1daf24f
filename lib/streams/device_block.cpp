#include "streams/device_block.hpp"

#include <new>
#include <utility>

#include "base/immortal.hpp"
#include "base/recycling_pool.hpp"
#include "streams/host_functions.hpp"
#include "streams/stream_registry.hpp"
#include "streams/uses.hpp"
#include "streams/watcher.hpp"

namespace thole::detail {
namespace {

using Pool = RecyclingPool<DeviceBlock, &DeviceBlock::next>;

/// It cannot be freed now: its stream captures or is gone, or this thread may not call the device.
void wait_to_be_freed(DeviceBlock* block) noexcept {
  const std::shared_ptr<DeviceCore> core = block->core;                       // the block may be freed at once
  core->streams->device_blocks_left.fetch_add(1, std::memory_order_relaxed);  // released by push()
  core->streams->device_blocks.push(block);
  watch(core);
}

/// Runs `f(stream)` with a stream that nobody else knows; waits for it if `finish`.
template <class F>
Status on_own_stream(DeviceCore& core, bool finish, F&& f) noexcept {
  DeviceBackend& backend = *core.backend;
  const CaptureGuard guard(backend);
  StreamHandle stream = nullptr;
  Status status = core.note(backend.create_stream(&stream));
  if (!status.ok()) return status;
  status = core.note(f(stream));
  if (status.ok() && finish) status = core.note(backend.synchronize_stream(stream));
  (void)backend.destroy_stream(stream);
  return status;
}

/// Frees in the order of the stream that it was made on, after its uses on others. False: not now, or that is gone.
bool free_in_order(DeviceBlock* block) noexcept {
  Timeline* const timeline = block->made_on.get();
  if (timeline == nullptr) return false;
  const Timeline::Call call(*timeline);
  CaptureInfo capture;
  if (!call || !timeline->capture_info(&capture).ok() || capture.state != CaptureInfo::State::none) return false;
  if (!order_after(block->uses, Against::everything, *timeline).ok()) return false;
  DeviceBackend& backend = *block->core->backend;
  const CaptureGuard guard(backend);
  const Status status = backend.free_device(block->data, timeline->native());
  if (!status.ok()) block->core->keep_error(status, "DeviceBuffer", "freeing its memory");
  return true;
}

/// It could not be freed in the order of its stream (that captures, or a call was refused). Its place in that order,
/// behind what the program enqueued there, is kept by an event; on thole's own stream one can be had later. A foreign
/// one may be gone then: it is not touched any more, and only the uses that thole saw count.
void keep_place(DeviceBlock* block) noexcept {
  Timeline* const timeline = block->made_on.get();
  if (timeline == nullptr) return;
  const Timeline::Call call(*timeline);
  if (!call) return;
  bool was_open = false;
  if (reserve(block->uses, *timeline, &was_open)) {
    const auto position = timeline->issue();
    // A driver may refuse once.
    const bool covered = timeline->cover_in_call(position).ok() || timeline->cover_in_call(position).ok();
    note(block->uses, *timeline, covered || !timeline->foreign() ? position : 0, true);
  }
  block->made_on.reset();
}

/// Frees what has a place kept, or a stream that is gone, once all is done: of such a stream also the work behind the
/// last use that thole saw, the program's own, up to its end.
bool free_when_done(DeviceBlock* block) noexcept {
  Timeline* const timeline = block->made_on.get();
  if (timeline != nullptr) {
    if (timeline->is_open()) return false;
    if (!timeline->foreign() && !timeline->query(timeline->last_position()).ok()) return false;
  }
  if (!query(block->uses, Against::everything).ok()) return false;
  const Status status = on_own_stream(
      *block->core, false, [&](StreamHandle stream) { return block->core->backend->free_device(block->data, stream); });
  if (!status.ok()) block->core->keep_error(status, "DeviceBuffer", "freeing its memory");
  return true;
}

/// Nothing is there to be freed, or it went with the device.
bool nothing_to_free(const DeviceBlock* block) noexcept { return block->data == nullptr || block->core->lost(); }

}  // namespace

bool DeviceBlock::try_hold(std::uint32_t wanted) noexcept {
  auto now = life.load(std::memory_order_relaxed);
  do {
    if (now >> 32 != wanted || (now & 0xffffffff) == 0) return false;
  } while (!life.compare_exchange_weak(now, now + 1, std::memory_order_acquire, std::memory_order_relaxed));
  return true;
}

DeviceBlock* new_device_block(std::shared_ptr<DeviceCore> core) noexcept {
  DeviceBlock* block = immortal<Pool>().take();
  if (block == nullptr) block = new (std::nothrow) DeviceBlock;
  if (block == nullptr) return nullptr;
  block->core = std::move(core);
  block->life.store((std::uint64_t{block->generation()} + 1) << 32 | 1, std::memory_order_relaxed);
  return block;
}

void recycle(DeviceBlock* block) noexcept {
  forget_all(block->uses);
  block->data = nullptr;
  block->made_on.reset();
  const std::shared_ptr<DeviceCore> core = std::move(block->core);  // may end the device, when all here is done
  immortal<Pool>().give(block);
}

Status allocate_for_graph(DeviceBlock& block, std::size_t bytes) noexcept {
  return on_own_stream(*block.core, true, [&](StreamHandle stream) {
    return block.core->backend->allocate_device(bytes, stream, &block.data);
  });
}

void release_device_block_from_graph(void* object) {
  auto* const block = static_cast<DeviceBlock*>(object);
  if (block->let_go()) wait_to_be_freed(block);
}

void free_waiting_device_blocks(DeviceCore& device) noexcept {
  if (device.streams->device_blocks.empty()) return;
  for (DeviceBlock* block = device.streams->device_blocks.take_all(); block != nullptr;) {
    DeviceBlock* const following = block->next;
    // Not in the order of its stream: this thread need not be the program's, which may begin a capture there meanwhile
    // that a free, or a wait, would invalidate. An event does not.
    const bool gone = nothing_to_free(block);
    if (!gone) keep_place(block);
    if (gone || free_when_done(block)) {
      recycle(block);
      device.streams->device_blocks_left.fetch_sub(1, std::memory_order_release);
    } else {
      device.streams->device_blocks.push(block);
    }
    block = following;
  }
}

void free_device_block(DeviceBlock* block) noexcept {
  if (block->core->of_another_process()) return;
  if (!in_host_function()) {
    if (nothing_to_free(block) || free_in_order(block)) return recycle(block);
    keep_place(block);
  }
  wait_to_be_freed(block);
}

}  // namespace thole::detail

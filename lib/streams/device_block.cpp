#include "streams/device_block.hpp"

#include <algorithm>
#include <chrono>
#include <new>
#include <thread>
#include <utility>

#include "base/deadline.hpp"
#include "base/host_function.hpp"
#include "base/immortal.hpp"
#include "base/recycling_pool.hpp"
#include "streams/stream_registry.hpp"
#include "streams/uses.hpp"
#include "streams/watcher.hpp"

namespace thole::inline v0_1::detail {
namespace {

using Pool = RecyclingPool<DeviceBlock, &DeviceBlock::next>;

/// It cannot be freed now: its stream captures or is gone, another stream uses it, or this thread may not call the
/// device.
void wait_to_be_freed(DeviceBlock* block) noexcept {
  const std::shared_ptr<DeviceCore> core = block->core;                       // the block may be freed at once
  core->streams->device_blocks_left.fetch_add(1, std::memory_order_relaxed);  // released by push()
  core->streams->device_blocks.push(block);
  watch(core);
}

/// One that has waited is gone.
void recycle_waiting(DeviceBlock* block) noexcept {
  const std::shared_ptr<DeviceCore> core = block->core;
  recycle(block);
  core->streams->device_blocks_left.fetch_sub(1, std::memory_order_release);
}

/// Whether other streams than the one that it was made on use it.
bool used_elsewhere(const DeviceBlock* block) noexcept {
  OpenUse open;
  std::size_t first = 0;
  return next_open(block->uses, Against::everything, first, open, block->made_on.get());
}

/// Under a NoCapture.
Status free_on(DeviceBlock* block, Timeline& timeline) noexcept {
  timeline.count_without_position();
  DeviceBackend& backend = *block->core->backend;
  const CaptureGuard guard(backend);
  return block->core->note(backend.free_device(block->data, timeline.native()));
}

void keep_free_error(const DeviceBlock* block, Status status) noexcept {
  if (!status.ok()) block->core->keep_error(status, "DeviceBuffer", "freeing its memory");
}

/// Frees in the order of the stream that it was made on. False: not now, or that is gone. Where other streams use it
/// that one would have to wait for them, which it has no reason to: then the memory waits, and no stream.
bool free_in_order(DeviceBlock* block) noexcept {
  Timeline* const timeline = block->made_on.get();
  if (timeline == nullptr || timeline->of_another_thread() || used_elsewhere(block)) return false;
  const Timeline::Call call(*timeline);
  if (!call || timeline->is_crowded()) return false;
  {
    const Timeline::NoCapture quiet(*timeline, std::try_to_lock);
    // Refused, perhaps once: it is tried again, and then the error is kept.
    if (!quiet.status().ok() || !free_on(block, *timeline).ok()) return false;
  }
  timeline->record_if_due(0);
  return true;
}

/// It could not be freed in the order of its stream (that captures, or others use it). Its place in that order, behind
/// what the program may have enqueued there, is kept by an event; on thole's own stream one can be had later. A foreign
/// one may be gone then: it is not touched any more, and only the uses that thole saw count.
void keep_place(DeviceBlock* block) noexcept {
  Timeline* const timeline = block->made_on.get();
  if (timeline == nullptr) return;
  // The handle of a thread's default stream means the caller's own one here: only the uses count that thole saw.
  if (timeline->of_another_thread()) return block->made_on.reset();
  const Timeline::Call call(*timeline);
  // On thole's own stream that comes when there is room. A foreign one may be gone then, so that it comes now.
  if (!call || (!timeline->foreign() && timeline->is_crowded())) return;
  WasOpen was_open;
  if (!reserve(block->uses, *timeline, &was_open, true))
    return;  // for want of memory: who frees what waits tries again
  const auto position = timeline->end_of_all();
  // A driver may refuse once.
  const bool covered = timeline->cover_in_call(position).ok() || timeline->cover_in_call(position).ok();
  note(block->uses, *timeline, covered || !timeline->foreign() ? position : 0, true);
  block->made_on.reset();
}

/// Its stream, if that is a foreign one, may be gone: nobody touches it any more, and only the uses that thole saw
/// count.
void leave_foreign(DeviceBlock* block) noexcept {
  if (block->made_on != nullptr && block->made_on->foreign()) block->made_on.reset();
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
  keep_free_error(block, block->core->streams->freeing.free_device(*block->core, block->data));
  return true;
}

/// Nobody holds the part any more: what uses it uses the whole. Returns that where nobody holds it, either. Where there
/// is no memory to note its uses it is lost, rather than used twice.
DeviceBlock* end_part(DeviceBlock* part) noexcept {
  DeviceBlock* const whole = std::exchange(part->whole, nullptr);
  if (!copy_open(part->uses, whole->uses)) whole->hold();
  recycle(part);
  return whole->let_go() ? whole : nullptr;
}

/// One that has waited.
void end_waiting_part(DeviceBlock* part) noexcept {
  const std::shared_ptr<DeviceCore> core = part->core;
  if (DeviceBlock* const whole = end_part(part); whole != nullptr) {
    leave_foreign(whole);
    wait_to_be_freed(whole);
  }
  core->streams->device_blocks_left.fetch_sub(1, std::memory_order_release);
}

/// Nothing is there to be freed, or it went with the device.
bool nothing_to_free(const DeviceBlock* block) noexcept { return block->data == nullptr || block->core->lost(); }

/// Nobody holds the block any more.
void free_last(DeviceBlock* block) noexcept {
  if (!in_host_function()) {
    if (block->whole != nullptr) {
      block = end_part(block);
      return block != nullptr ? free_device_block(block) : void();
    }
    if (nothing_to_free(block) || free_in_order(block)) return recycle(block);
    keep_place(block);
  }
  wait_to_be_freed(block);
}

/// The handle of memory that is no part, or of all its parts, is gone.
void drop_handle_of_whole(DeviceBlock* block) noexcept {
  if (block->let_go_if_alone()) return free_last(block);
  // A graph, a list or a call keeps the memory on, and the program may destroy a stream of its own with the handle.
  if (block->made_on != nullptr && block->made_on->foreign() && !block->core->lost() && !in_host_function())
    keep_place(block);
  if (block->let_go()) free_device_block(block);
}

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
  block->bytes = 0;
  block->made_on.reset();
  const std::shared_ptr<DeviceCore> core = std::move(block->core);  // may end the device, when all here is done
  immortal<Pool>().give(block);
}

Status allocate_for_graph(DeviceBlock& block, std::size_t bytes) noexcept {
  DeviceCore& core = *block.core;
  DeviceBackend& backend = *core.backend;
  const CaptureGuard guard(backend);
  StreamHandle stream = nullptr;  // nobody else's
  Status status = core.note(backend.create_stream(&stream));
  if (!status.ok()) return status;
  status = core.note(backend.allocate_device(bytes, stream, &block.data));
  if (status.ok()) status = core.note(backend.synchronize_stream(stream));
  (void)backend.destroy_stream(stream);
  return status;
}

void release_device_block_from_graph(void* object) {
  auto* const block = static_cast<DeviceBlock*>(object);
  if (block->let_go()) wait_to_be_freed(block);
}

void free_waiting_device_blocks(DeviceCore& device, std::size_t at_most) noexcept {
  if (in_host_function()) return;  // no such call may be made there
  auto& waiting = device.streams->device_blocks;
  for (auto left = std::min(at_most, waiting.size()); left != 0; --left) {
    DeviceBlock* const block = waiting.pop();
    if (block == nullptr) return;
    if (block->whole != nullptr) {
      end_waiting_part(block);
      continue;
    }
    // Not in the order of its stream: this thread need not be the program's, which may begin a capture there meanwhile
    // that a free, or a wait, would invalidate. An event does not.
    bool gone = nothing_to_free(block);
    if (!gone) {
      leave_foreign(block);
      keep_place(block);
      gone = free_when_done(block);
    }
    if (gone)
      recycle_waiting(block);
    else
      waiting.push(block);
  }
}

bool wait_for_blocks_in_hand(DeviceCore& device) noexcept {
  const auto in_hand = [&streams = *device.streams] {
    return streams.device_blocks_left.load(std::memory_order_acquire) > streams.device_blocks.size();
  };
  if (!in_hand()) return false;
  for (const auto end = deadline_after(std::chrono::milliseconds(100));
       in_hand() && std::chrono::steady_clock::now() < *end;)
    std::this_thread::yield();
  return true;
}

bool free_one_behind_its_uses(Timeline& timeline) noexcept {
  auto& waiting = timeline.device()->streams->device_blocks;
  DeviceBlock* const block = waiting.pop();
  if (block == nullptr) return false;
  if (block->whole != nullptr) {
    end_waiting_part(block);
    return true;
  }
  leave_foreign(block);
  keep_place(block);
  // A stream that is gone has no place, and what is done without one is freed elsewhere. On a crowded one there was no
  // room for its place yet; but here it is freed in that order, and the allocation waits for room there anyway.
  const bool in_order = block->made_on == nullptr || block->made_on.get() == &timeline;
  bool freed = in_order && order_after(block->uses, Against::everything, timeline).ok();
  if (freed) {
    const Timeline::NoCapture quiet(timeline);
    freed = quiet.status().ok() && free_on(block, timeline).ok();
  }
  freed ? recycle_waiting(block) : waiting.push(block);
  return freed;
}

void drop_device_block_handle(DeviceBlock* block) noexcept {
  if (block->core->of_another_process()) return;
  DeviceBlock* const whole = block->whole;
  if (whole == nullptr) return drop_handle_of_whole(block);
  // The whole's own handle is there as long as one of a part is.
  const bool last = whole->part_handles.fetch_sub(1, std::memory_order_acq_rel) == 1;
  if (block->let_go()) free_last(block);
  if (last) drop_handle_of_whole(whole);
}

void free_device_block(DeviceBlock* block) noexcept {
  if (block->core->of_another_process()) return;
  leave_foreign(block);  // the handle is gone, and the stream may be
  free_last(block);
}

}  // namespace thole::inline v0_1::detail

#include "streams/device_block.hpp"

#include "streams/uses.hpp"

namespace thole::detail {
namespace {

/// It cannot be freed in order of its stream: that is gone, or it captures, or a graph let go of the memory.
void wait_to_be_freed(DeviceBlock* block) noexcept {
  DeviceCore& core = *block->core;
  core.orphan_references.fetch_add(1, std::memory_order_relaxed);
  block->next = core.waiting_device_blocks.load(std::memory_order_relaxed);
  while (!core.waiting_device_blocks.compare_exchange_weak(block->next, block, std::memory_order_release,
                                                           std::memory_order_relaxed)) {
  }
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

bool made_on_lives(const DeviceBlock* block) noexcept {
  return block->made_on != nullptr && block->made_on->is_open(block->made_on_id);
}

/// Frees in the order of the stream that it was made on, after its uses on others. False: not now, or that is gone.
bool free_in_order(DeviceBlock* block) noexcept {
  Timeline* const timeline = block->made_on;
  if (timeline == nullptr) return false;
  const Timeline::Visit visit(*timeline);  // another thread may destroy the stream
  if (!made_on_lives(block)) return false;
  DeviceBackend& backend = *block->core->backend;
  CaptureInfo capture;
  if (timeline->may_capture() &&
      (!backend.capture_info(timeline->native(), &capture).ok() || capture.state != CaptureInfo::State::none))
    return false;
  if (!order_after(block->uses, Against::everything, *timeline).ok()) return false;
  const CaptureGuard guard(backend);
  const Status status = backend.free_device(block->data, timeline->native());
  if (!status.ok()) block->core->keep_error(status, "DeviceBuffer", "freeing its memory");
  return true;
}

/// It could not be freed in the order of its stream (that captures, or a call was refused). Its place in that order,
/// behind what the program enqueued there, is kept by an event; on thole's own stream one can be had later. A foreign
/// one may be gone then: it is not touched any more, and only the uses that thole saw count.
void keep_place(DeviceBlock* block) noexcept {
  if (!made_on_lives(block)) return;
  Timeline& timeline = *block->made_on;
  Use* const slot = slot_for(block->uses, timeline);
  const bool kept = slot != nullptr && (timeline.record().ok() || timeline.record().ok());
  if (kept) slot->write.store(timeline.issued(), std::memory_order_relaxed);
  if (kept || timeline.foreign()) block->made_on = nullptr;
}

/// Frees what has a place kept, or a stream that is gone, once all is done: of such a stream also the work behind the
/// last use that thole saw, the program's own, up to its end.
bool free_when_done(DeviceBlock* block) noexcept {
  if (made_on_lives(block)) return false;
  Timeline* const timeline = block->made_on;
  if (timeline != nullptr && timeline->id() == 0 && !timeline->query(timeline->issued()).ok()) return false;
  if (!query(block->uses, Against::everything).ok()) return false;
  const Status status = on_own_stream(
      *block->core, false, [&](StreamHandle stream) { return block->core->backend->free_device(block->data, stream); });
  if (!status.ok()) block->core->keep_error(status, "DeviceBuffer", "freeing its memory");
  return true;
}

/// Nothing is there to be freed, or it went with the device.
bool nothing_to_free(const DeviceBlock* block) noexcept { return block->data == nullptr || block->core->lost(); }

}  // namespace

void destroy(DeviceBlock* block) noexcept {
  for (UseChunk* chunk = block->uses.more.load(std::memory_order_relaxed); chunk != nullptr;) {
    UseChunk* const following = chunk->next.load(std::memory_order_relaxed);
    delete chunk;
    chunk = following;
  }
  delete block;
}

Status allocate_at_once(DeviceBlock& block, std::size_t bytes) noexcept {
  return on_own_stream(*block.core, true, [&](StreamHandle stream) {
    return block.core->backend->allocate_device(bytes, stream, &block.data);
  });
}

void release_device_block_from_graph(void* object) {
  auto* const block = static_cast<DeviceBlock*>(object);
  if (block->references.fetch_sub(1, std::memory_order_acq_rel) == 1) wait_to_be_freed(block);
}

void free_waiting_device_blocks(DeviceCore& device) noexcept {
  if (!device_blocks_wait(device)) return;
  DeviceBlock* block = device.waiting_device_blocks.exchange(nullptr, std::memory_order_acquire);
  while (block != nullptr) {
    DeviceBlock* const following = block->next;
    block->core->orphan_references.fetch_sub(1, std::memory_order_relaxed);
    if (!nothing_to_free(block)) keep_place(block);
    if (nothing_to_free(block) || free_when_done(block))
      destroy(block);
    else
      wait_to_be_freed(block);
    block = following;
  }
}

void free_device_block(DeviceBlock* block) noexcept {
  if (nothing_to_free(block) || free_in_order(block)) return destroy(block);
  keep_place(block);
  wait_to_be_freed(block);
}

bool device_blocks_wait(const DeviceCore& device) noexcept {
  return device.waiting_device_blocks.load(std::memory_order_relaxed) != nullptr;
}

}  // namespace thole::detail

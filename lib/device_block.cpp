#include "device_block.hpp"

#include <limits>
#include <mutex>
#include <new>

#include <thole/device_buffer.hpp>

#include "internals.hpp"
#include "stream_work.hpp"
#include "uses.hpp"

namespace thole::detail {
namespace {

// Device blocks that cannot be freed in order of their stream: it is gone, or it captures, or a graph let go of them.
struct Waiting {
  std::mutex mutex;
  std::atomic<DeviceBlock*> first{nullptr};
};

Waiting& waiting() noexcept {
  static auto* const made = new Waiting;  // never destroyed: graphs may end after main
  return *made;
}

void wait_to_be_freed(DeviceBlock* block) noexcept {
  Waiting& list = waiting();
  const std::scoped_lock lock(list.mutex);
  block->next = list.first.load(std::memory_order_relaxed);
  list.first.store(block, std::memory_order_release);
}

/// Runs `f(stream)` with a stream that nobody else knows; waits for it if `finish`.
template <class F>
Status on_own_stream(DeviceCore& core, bool finish, F&& f) noexcept {
  Backend& backend = *core.backend;
  const CaptureGuard guard(backend);
  NativeStream stream = nullptr;
  Status status = core.note(backend.create_stream(&stream));
  if (!status.ok()) return status;
  status = core.note(f(stream));
  if (status.ok() && finish) status = core.note(backend.synchronize_stream(stream));
  (void)backend.destroy_stream(stream);
  return status;
}

void destroy(DeviceBlock* block) noexcept {
  for (UseChunk* chunk = block->uses.more.load(std::memory_order_relaxed); chunk != nullptr;) {
    UseChunk* const following = chunk->next.load(std::memory_order_relaxed);
    delete chunk;
    chunk = following;
  }
  delete block;
}

/// Frees in the order of the stream that it was made on, after its uses on others.
bool free_in_order(DeviceBlock* block) noexcept {
  Timeline* const timeline = block->made_on;
  if (timeline == nullptr || !timeline->is_open(block->made_on_id)) return false;
  Backend& backend = *block->core->backend;
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

/// A stream that is gone has work behind the last use that thole saw: the program's own, up to the end of the stream.
bool all_done(DeviceBlock* block) noexcept {
  const Timeline* const timeline = block->made_on;
  if (timeline != nullptr && !timeline->is_open(block->made_on_id) && !timeline->done(timeline->issued()) &&
      timeline->id() == 0)
    return false;
  return query(block->uses, Against::everything).ok();
}

}  // namespace

void release_device_block_from_graph(void* object) {
  auto* const block = static_cast<DeviceBlock*>(object);
  if (block->references.fetch_sub(1, std::memory_order_acq_rel) == 1) wait_to_be_freed(block);
}

void free_waiting_device_blocks() noexcept {
  Waiting& list = waiting();
  if (list.first.load(std::memory_order_acquire) == nullptr) return;
  DeviceBlock* block = nullptr;
  {
    const std::scoped_lock lock(list.mutex);
    block = list.first.exchange(nullptr, std::memory_order_acquire);
  }
  while (block != nullptr) {
    DeviceBlock* const following = block->next;
    if (block->core->lost()) {
      destroy(block);  // the memory went with the device
    } else if (all_done(block)) {
      const Status status = on_own_stream(*block->core, false, [&](NativeStream stream) {
        return block->core->backend->free_device(block->data, stream);
      });
      if (!status.ok()) block->core->keep_error(status, "DeviceBuffer", "freeing its memory");
      destroy(block);
    } else {
      wait_to_be_freed(block);
    }
    block = following;
  }
}

Result<DeviceBlock*> make_device_block(const StreamRef& stream, std::size_t count, std::size_t element_bytes) noexcept {
  constexpr const char* call = "DeviceBuffer";
  if (count > std::numeric_limits<std::size_t>::max() / element_bytes)
    return tl::unexpected(Error(Errc::too_large, "DeviceBuffer: " + std::to_string(count) + " elements of " +
                                                     std::to_string(element_bytes) +
                                                     " bytes are more than a size can say"));
  auto work = StreamWork::begin(stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  auto* const block = new (std::nothrow) DeviceBlock;
  if (block == nullptr) return tl::unexpected(work->error({StatusCode::out_of_memory}, "making a record"));
  block->core = Internals::core(stream);
  const std::size_t bytes = count * element_bytes;
  if (bytes == 0) return block;
  const auto failed = [&](Status status) {
    destroy(block);
    return tl::unexpected(work->error(status, "allocating device memory", std::to_string(bytes) + " bytes"));
  };
  if (work->capturing()) {
    // Memory that a graph uses must be there before the graph first runs, whatever stream that will be on.
    const Status made = on_own_stream(work->core(), true, [&](NativeStream own) {
      return work->backend().allocate_device(bytes, own, &block->data);
    });
    if (!made.ok()) return failed(made);
    return block;
  }
  if (auto used = work->use(*block, true); !used) {
    destroy(block);
    return tl::unexpected(std::move(used.error()));
  }
  Status status;
  {
    const CaptureGuard guard(work->backend());
    status = work->backend().allocate_device(bytes, work->timeline().native(), &block->data);
  }
  if (!status.ok()) return failed(status);
  work->enqueued(0, StreamWork::Precision::coalesced);
  block->made_on = &work->timeline();
  block->made_on_id = block->made_on->id();
  return block;
}

void* device_block_data(const DeviceBlock* block) noexcept { return block->data; }
const void* device_block_device(const DeviceBlock* block) noexcept { return block->core.get(); }
const void* device_key(const Device& device) noexcept { return Internals::core(device).get(); }

void drop_device_block(DeviceBlock* block) noexcept {
  if (block->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (block->data == nullptr || block->core->lost() || free_in_order(block))
    destroy(block);
  else
    wait_to_be_freed(block);
}

}  // namespace thole::detail

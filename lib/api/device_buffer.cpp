#include <thole/device_buffer.hpp>

#include <new>
#include <string>

#include "api/handle_access.hpp"
#include "heap/collect.hpp"
#include "streams/device_block.hpp"
#include "streams/submission.hpp"

namespace thole::detail {

Result<DeviceBlock*> make_device_block(const StreamRef& stream, std::size_t count, std::size_t element_bytes) noexcept {
  constexpr const char* call = "DeviceBuffer";
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, element_bytes, &bytes))
    return tl::unexpected(Error(Errc::too_large, std::string(call) + ": " + std::to_string(count) + " elements of " +
                                                     std::to_string(element_bytes) +
                                                     " bytes are more bytes than a size can say"));
  auto work = HandleAccess::begin_work(stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  auto* const block = new (std::nothrow) DeviceBlock;
  if (block == nullptr) return tl::unexpected(work->error({StatusCode::out_of_memory}, "making a record"));
  block->core = HandleAccess::core(stream);
  if (bytes == 0) return block;
  free_waiting_device_blocks(*block->core);
  Status status;
  if (work->capturing()) {
    // Memory that a graph uses must be there before the graph first runs, whatever stream that will be on.
    status = allocate_at_once(*block, bytes);
  } else {
    if (auto used = work->use(*block, true); !used) {
      destroy(block);
      return tl::unexpected(std::move(used.error()));
    }
    const CaptureGuard guard(work->backend());
    status = work->backend().allocate_device(bytes, work->timeline().native(), &block->data);
  }
  if (!status.ok()) {
    destroy(block);
    return tl::unexpected(work->error(status, "allocating device memory", std::to_string(bytes) + " bytes"));
  }
  if (work->capturing()) return block;
  work->enqueued(0, Submission::Precision::coalesced);
  block->made_on = &work->timeline();
  block->made_on_id = block->made_on->id();
  return block;
}

void* device_block_data(const DeviceBlock* block) noexcept { return block->data; }
const void* device_block_device(const DeviceBlock* block) noexcept { return block->core.get(); }
const void* device_key(const Device& device) noexcept { return HandleAccess::core(device).get(); }

void drop_device_block(DeviceBlock* block) noexcept {
  if (block->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const std::weak_ptr<DeviceCore> device = block->core;
  free_device_block(block);
  // If this was the program's last reference to the device, nobody else comes for it.
  if (const auto core = device.lock(); core != nullptr && device_blocks_wait(*core)) watch_orphan(device);
}

}  // namespace thole::detail

#include "streams/device_allocation.hpp"

#include "base/bytes.hpp"

namespace thole::inline v0_1::detail {

Result<DeviceBlock*> allocate_device(Submission& work, std::size_t bytes, bool in_graph) noexcept {
  constexpr std::size_t a_few = 8;  // an allocation costs the same, however many wait
  free_waiting_device_blocks(work.core(), a_few);
  DeviceBlock* const block = new_device_block(work.timeline().device());
  if (block == nullptr) return tl::unexpected(work.error({StatusCode::out_of_memory}, "making a record"));
  if (bytes == 0) return block;
  block->bytes = bytes;
  Result<void> used;
  Status status;
  if (work.capturing()) {
    // Memory that a graph uses must be there before the graph first runs, whatever stream that will be on.
    status = allocate_for_graph(*block, bytes);
    if (status.ok() && in_graph) used = work.use(*block, true);
  } else {
    used = work.use(*block, true);
    const CaptureGuard guard(work.backend());
    const auto allocate = [&] {
      const Timeline::NoCapture quiet(work.timeline());
      if (!quiet.status().ok()) return quiet.status();
      work.timeline().count_without_position();
      return work.core().note(work.backend().allocate_device(bytes, work.timeline().native(), &block->data));
    };
    if (used) status = allocate();
    if (status.code == StatusCode::out_of_memory) {
      free_waiting_device_blocks(work.core());
      status = allocate();
    }
    int waits = 3;  // other threads may look through what waits again and again
    while (status.code == StatusCode::out_of_memory &&
           (free_one_behind_its_uses(work.timeline()) || (waits-- > 0 && wait_for_blocks_in_hand(work.core()))))
      status = allocate();
    if (used && status.ok()) block->made_on = work.timeline().shared_from_this();
  }
  if (used && status.ok()) return block;
  auto error = !used ? std::move(used.error()) : work.error(status, "allocating device memory", BytesText(bytes));
  work.cancel();  // before the record is used again
  drop_device_block_handle(block);
  return tl::unexpected(std::move(error));
}

}  // namespace thole::inline v0_1::detail

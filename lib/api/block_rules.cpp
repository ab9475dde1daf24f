#include "api/block_rules.hpp"

#include "streams/cross_device.hpp"

namespace thole::inline v0_1::detail {

std::string bytes_of(const Block& block) { return std::to_string(block.asked_bytes) + " bytes"; }

std::string place_of(const Block& block) {
  const auto where = block.made_at.load(std::memory_order_relaxed);
  return std::string(where.file_name()) + ':' + std::to_string(where.line());
}

Error borrowed_error(const Block& block, const char* call, bool writes) {
  const auto borrows = block.holders.borrows();
  const bool exclusive = block.holders.has_writer();
  return Error::make(Errc::borrowed, [&] {
    std::string text(call);
    text += ": the buffer of " + bytes_of(block) + " that was made at " + place_of(block) + " has ";
    text += exclusive ? "a live BorrowMut" : std::to_string(borrows) + " live Borrow" + (borrows == 1 ? "" : "s");
    text += writes ? "; this call writes and needs that there is none: end it first"
                   : "; this call reads and may only meet Borrows: end it first";
    return text;
  });
}

Result<void> check_borrows(const Block& block, bool writes, const char* call) noexcept {
  if (!block.of_this_process()) [[unlikely]]
    return tl::unexpected(of_another_process_error(call));
  if (writes ? block.holders.borrows() != 0 : block.holders.has_writer())
    return tl::unexpected(borrowed_error(block, call, writes));
  return {};
}

Result<void> check_device(const Block& block, const std::shared_ptr<DeviceCore>& device, const char* call) noexcept {
  if (&device_of(block) == device.get()) [[likely]]
    return {};
  // CUDA: "Memory Management", cudaHostRegisterPortable: pinned for every GPU; but not for a device of another kind.
  if (device->backend->simulated() != device_of(block).backend->simulated())
    return tl::unexpected(Error::make(Errc::wrong_device, [&] {
      return std::string(call) + ": the buffer of " + bytes_of(block) + " is pinned for " +
             std::string(device_of(block).backend->name()) + ", the stream is of " +
             std::string(device->backend->name());
    }));
  note_use_across_devices(device);
  return {};
}

}  // namespace thole::inline v0_1::detail

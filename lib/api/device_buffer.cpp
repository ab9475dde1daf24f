#include <thole/device_buffer.hpp>

#include <string>

#include "api/handle_access.hpp"
#include "streams/device_allocation.hpp"

namespace thole::inline v0_1::detail {

Result<DeviceBlock*> make_device_block(const StreamRef& stream, std::size_t count, std::size_t element_bytes) noexcept {
  constexpr const char* call = "DeviceBuffer";
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, element_bytes, &bytes))
    return tl::unexpected(Error::make(Errc::too_large, [&] {
      return std::string(call) + ": " + std::to_string(count) + " elements of " + std::to_string(element_bytes) +
             " bytes are more bytes than a size can say";
    }));
  auto work = HandleAccess::begin_work(stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  auto block = allocate_device(*work, bytes, false);
  if (block && bytes != 0) work->enqueued(0, Submission::Precision::coalesced);
  return block;
}

void* device_block_data(const DeviceBlock* block) noexcept { return block->data; }
const void* device_block_device(const DeviceBlock* block) noexcept { return block->core.get(); }
std::uint32_t device_block_generation(const DeviceBlock* block) noexcept { return block->generation(); }
const void* device_key(const Device& device) {
  const auto& core = HandleAccess::core(device);
  if (core == nullptr) throw moved_from("DeviceSpan::from_native", "the device");
  return core.get();
}

void drop_device_handle(DeviceBlock* block) noexcept { drop_device_block_handle(block); }
void drop_device_block(DeviceBlock* block) noexcept {
  if (block->let_go()) free_device_block(block);
}

}  // namespace thole::inline v0_1::detail

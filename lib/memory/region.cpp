#include "memory/region.hpp"

#include <new>
#include <string>

#include "base/bytes.hpp"
#include "memory/limits.hpp"
#include "memory/numa.hpp"

namespace thole::detail {

namespace {

tl::unexpected<Error> pin_failed(DeviceCore& device, Status status, std::size_t bytes, const char* call) {
  if (status.code != StatusCode::out_of_memory)
    return tl::unexpected(device.error(status, "PinnedArena", call, bytes_text(bytes)));
  return cannot_pin(Errc::limit, bytes,
                    std::string(call) + " said " + device.backend->describe(status) +
                        ": the limit on pinned memory is reached; " + memlock_limit());
}

Result<void> allocate_by_driver(DeviceCore& device, Region& region, int numa_node) {
  if (numa_node >= 0)
    return cannot_pin(Errc::invalid_argument, region.bytes, "PinMethod::host_alloc cannot bind memory to a NUMA node");
  void* data = nullptr;
  const CaptureGuard guard(*device.backend);
  if (const Status status = device.backend->allocate_host(region.bytes, &data); !status.ok())
    return pin_failed(device, status, region.bytes, "allocate_host");
  region.data = static_cast<std::byte*>(data);
  return {};
}

Result<void> register_pages(DeviceCore& device, Region& region, int numa_node) {
  auto mapping = map_memory(region.bytes);
  if (!mapping) return tl::unexpected(std::move(mapping.error()));
  region.data = (*mapping)->data;
  auto pinned = numa_node >= 0 ? bind_to_node(region.data, region.bytes, numa_node) : Result<void>{};
  if (pinned) {
    touch(region.data, region.bytes);
    const CaptureGuard guard(*device.backend);
    if (const Status status = device.backend->register_host(region.data, region.bytes); !status.ok())
      pinned = pin_failed(device, status, region.bytes, "register_host");
  }
  if (pinned)
    region.mapping = *mapping;
  else
    unmap_memory(*mapping);
  return pinned;
}

}  // namespace

Result<Region*> pin_region(const std::shared_ptr<DeviceCore>& device, std::size_t bytes, const RegionOptions& options) {
  if (const MemoryRoom room = memory_room(); bytes > room.bytes) return cannot_pin(Errc::limit, bytes, room.limit);
  std::unique_ptr<Region> region(new (std::nothrow) Region);
  if (region == nullptr) return cannot_pin(Errc::out_of_memory, bytes, "no memory for the region's record");
  region->bytes = bytes;
  region->device = device;
  const auto pin = options.pin == PinMethod::host_alloc ? allocate_by_driver : register_pages;
  if (auto pinned = pin(*device, *region, options.numa_node); !pinned) return tl::unexpected(std::move(pinned.error()));
  return region.release();
}

void unpin_region(Region* region) noexcept {
  {
    DeviceCore& device = *region->device;
    const CaptureGuard guard(*device.backend);
    const Status status = region->mapping == nullptr ? device.backend->free_host(region->data)
                                                     : device.backend->unregister_host(region->data);
    // While the runtime unloads, or when the device is lost, the registration has ended or ends with it.
    if (!status.ok()) device.keep_error(status, "PinnedArena", "unregister_host");
  }
  if (region->mapping != nullptr) unmap_memory(region->mapping);
  delete region;
}

}  // namespace thole::detail

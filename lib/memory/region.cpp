#include "memory/region.hpp"

#include <new>
#include <optional>
#include <string>

#include "base/limits.hpp"
#include "blocks/block_pool.hpp"
#include "memory/numa.hpp"
#include "memory/untouched.hpp"

namespace thole::inline v0_1::detail {

namespace {

tl::unexpected<Error> pin_failed(DeviceCore& device, Status status, std::size_t bytes, const char* call) {
  if (status.code != StatusCode::out_of_memory)
    return tl::unexpected(device.error(status, "PinnedArena", call, bytes_text(bytes)));
  // Memory was there when it was asked for, so what is left tells whether others took it or the driver has a limit.
  return cannot_pin(Errc::limit, bytes,
                    std::string(call) + " said " + device.backend->describe(status) + "; " + memory_room().limit);
}

Result<void> allocate_by_driver(DeviceCore& device, Region& region, const RegionOptions& options) {
  if (options.numa_node >= 0)
    return cannot_pin(Errc::invalid_argument, region.bytes, "PinMethod::host_alloc cannot bind memory to a NUMA node");
  const MemoryReservation reservation(region.bytes, -1);
  if (!reservation.granted()) return cannot_pin(Errc::limit, region.bytes, reservation.limit());
  void* data = nullptr;
  const CaptureGuard guard(*device.backend);
  if (const Status status = device.backend->allocate_host(region.bytes, &data); !status.ok())
    return pin_failed(device, status, region.bytes, "allocate_host");
  region.data = static_cast<std::byte*>(data);
  return {};
}

Result<void> touch_pages(const DeviceCore& device, Region& region, const RegionOptions& options) {
  MemoryReservation reservation(region.bytes, options.numa_node);
  if (!reservation.granted()) return cannot_pin(Errc::limit, region.bytes, reservation.limit());
  if (options.numa_node < 0)
    prefer_node(region.data, region.bytes, device.backend->numa_node());
  else if (auto bound = bind_to_node(region.data, region.bytes, options.numa_node); !bound)
    return bound;
  touch(region.data, region.bytes, reservation);
  return {};
}

void give_back_pages(Region& region) noexcept {
  unbind(region.data, region.pinned_bytes);
  unmap_memory(region.mapping);
}

Result<void> register_pages(DeviceCore& device, Region& region, const RegionOptions& options) {
  auto mapping = map_memory(region.bytes, options.in_core_dumps);
  if (!mapping) return tl::unexpected(std::move(mapping.error()));
  region.mapping = *mapping;
  region.data = region.mapping->data;
  // Also where there is no memory for the words that say why it is not pinned.
  const auto give_back = [](Region* unpinned) { give_back_pages(*unpinned); };
  std::unique_ptr<Region, decltype(give_back)> pages(&region, give_back);
  if (auto touched = touch_pages(device, region, options); !touched) return touched;
  const CaptureGuard guard(*device.backend);
  if (const Status status = device.backend->register_host(region.data, region.bytes); !status.ok())
    return pin_failed(device, status, region.bytes, "register_host");
  (void)pages.release();
  return {};
}

}  // namespace

Result<Region*> pin_region(const std::shared_ptr<DeviceCore>& device, std::size_t bytes, const RegionOptions& options) {
  if (bytes > largest_region)
    return cannot_pin(Errc::limit, bytes,
                      "drivers refuse to register 512 GiB and more at once; let an arena begin with less and grow, or "
                      "make several");
  std::unique_ptr<Region> region(new (std::nothrow) Region);
  if (region == nullptr) return cannot_pin(Errc::out_of_memory, bytes, "no memory for the region's record");
  region->bytes = bytes;
  region->pinned_bytes = bytes;
  region->options = options;
  region->device = device;
  const auto pin = options.pin == PinMethod::host_alloc ? allocate_by_driver : register_pages;
  if (auto pinned = pin(*device, *region, options); !pinned) return tl::unexpected(std::move(pinned.error()));
  ask_limits_again();  // what records may take was asked before this took its part
  return region.release();
}

Result<Region*> adopt_region(const std::shared_ptr<DeviceCore>& device, std::byte* data, std::size_t bytes) {
  auto* const region = new (std::nothrow) Region;
  if (region == nullptr)
    return tl::unexpected(
        Error::make(Errc::out_of_memory, [] { return std::string("PinnedArena: no memory for the region's record"); }));
  region->data = data;
  region->bytes = region->pinned_bytes = bytes;
  region->device = device;
  region->adopted = true;
  return region;
}

Result<void> register_adopted(Region& region, HostAccess access, const char* call) {
  DeviceCore& device = *region.device;
  // Pages that the program has never touched get their memory when they are pinned. To count them takes long beside
  // pinning itself, so that it is only done where all of it would be too much.
  std::optional<MemoryReservation> reservation(std::in_place, region.bytes, -1);
  if (!reservation->granted()) {
    const std::size_t missing = bytes_without_memory(region.data, region.bytes);
    if (missing != 0) {
      reservation.emplace(missing, -1);
      if (!reservation->granted()) return cannot_pin(Errc::limit, missing, reservation->limit());
    }
  }
  const CaptureGuard guard(*device.backend);
  const Status status = device.backend->register_host(region.data, region.bytes, access);
  region.registered = status.ok();
  if (status.ok()) return {};
  if (status.code == StatusCode::out_of_memory) return pin_failed(device, status, region.bytes, "register_host");
  if (status.code != StatusCode::invalid)
    return tl::unexpected(device.error(device.note(status), call, "register_host", bytes_text(region.bytes)));
  return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
    return std::string(call) + ": register_host refused " + bytes_text(region.bytes) +
           " of the program's: " + device.backend->describe(status) +
           ". All of it must be mapped, and be writable unless the elements are const; none of it may be pinned "
           "already, unless AdoptOptions::already_pinned says that all of it is";
  }));
}

Status let_go_of_adopted(Region* region) noexcept {
  Status status;
  if (region->registered) {
    DeviceBackend& backend = *region->device->backend;
    const CaptureGuard guard(backend);
    status = backend.unregister_host(region->data);
  }
  delete region;
  return status;
}

Region* prepared_again(Region* region) noexcept {
  region->taken_from = false;
  region->empty_since.reset();
  if (const Mapping* const mapping = region->mapping; mapping != nullptr)
    copy_to_children(mapping->data + mapping->kept_bytes, region->pinned_bytes - mapping->kept_bytes, false);
  return region;
}

Status unpin_region(Region* region, DeviceBackend& backend, bool* stays) noexcept {
  Status status;
  {
    const CaptureGuard guard(backend);
    status = region->mapping == nullptr ? backend.free_host(region->data) : backend.unregister_host(region->data);
  }
  // When the process ends, or the device is lost, the registration has ended or ends with it; and there is none where
  // the device knows of none.
  const bool gone = status.ok() || status.code == StatusCode::unloading || status.code == StatusCode::device_lost ||
                    status.code == StatusCode::invalid;
  if (gone) unmap_region(region);
  *stays = !gone;
  return status;
}

void unmap_region(Region* region) noexcept {
  if (region->mapping != nullptr) give_back_pages(*region);
  delete region;
}

}  // namespace thole::inline v0_1::detail

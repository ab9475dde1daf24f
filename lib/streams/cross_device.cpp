#include "streams/cross_device.hpp"

#include <atomic>
#include <mutex>
#include <new>

#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {
namespace {

struct Noted {
  std::mutex mutex;
  std::vector<std::weak_ptr<DeviceCore>> devices;
  std::atomic<bool> any{false};  // relaxed: a device is noted before its blocks are looked for
};

}  // namespace

void note_use_across_devices(const std::shared_ptr<DeviceCore>& device) noexcept try {
  if (device->used_across_devices.load(std::memory_order_relaxed)) return;
  auto& noted = immortal<Noted>();
  const std::scoped_lock lock(noted.mutex);
  if (device->used_across_devices.load(std::memory_order_relaxed)) return;
  std::erase_if(noted.devices, [](const auto& other) { return other.expired(); });
  noted.devices.push_back(device);
  device->used_across_devices.store(true, std::memory_order_relaxed);
  noted.any.store(true, std::memory_order_relaxed);
} catch (const std::bad_alloc&) {
}

std::vector<std::shared_ptr<DeviceCore>> devices_used_across(const DeviceCore& except) {
  auto& noted = immortal<Noted>();
  std::vector<std::shared_ptr<DeviceCore>> devices;
  if (!noted.any.load(std::memory_order_relaxed)) return devices;
  const std::scoped_lock lock(noted.mutex);
  for (const auto& weak : noted.devices)
    if (auto device = weak.lock(); device != nullptr && device.get() != &except) devices.push_back(std::move(device));
  return devices;
}

}  // namespace thole::inline v0_1::detail

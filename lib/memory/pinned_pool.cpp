#include "memory/pinned_pool.hpp"

#include <algorithm>
#include <bit>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.hpp"
#include "base/fork.hpp"
#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {

namespace {

struct PinnedPool;

/// The pools of all devices; the lock is that of their contents, too.
struct Pools {
  std::mutex mutex;
  std::vector<PinnedPool*> all;
};

Pools& pools() noexcept { return immortal<Pools>(); }

/// What one device keeps. Its backend owns it and lets go of it last of all, when it has let go of all registrations
/// itself: so ends what is kept when the device ends.
struct PinnedPool {
  explicit PinnedPool(const std::shared_ptr<DeviceBackend>& b) : backend(b) {}
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;
  ~PinnedPool() {
    if (process != this_process()) return;  // a forked child has neither the memory nor a sound lock
    const std::scoped_lock lock(pools().mutex);
    std::erase(pools().all, this);
    while (Region* const region = first) {
      first = region->next;
      unmap_region(region);
    }
  }

  const std::weak_ptr<DeviceBackend> backend;
  const std::uint32_t process = this_process();
  Region* first = nullptr;  // the last to be let go, linked by Region::next
  std::size_t kept = 0;     // their bytes
  std::size_t in_use = 0;   // bytes of regions that arenas have
  std::size_t most_in_use = 0;
  std::size_t limit = SIZE_MAX;

  /// What may be kept where arenas are about to have `bytes` more.
  std::size_t may_keep(std::size_t bytes) const noexcept {
    return std::min(limit, 2 * std::max(most_in_use, in_use + bytes));
  }
  void use(const Region& region) noexcept {
    in_use += region.pinned_bytes;
    most_in_use = std::max(most_in_use, in_use);
  }
  void keep(Region* region) noexcept {
    kept += region->pinned_bytes;
    region->next = first;
    first = region;
  }
  Region* remove(Region** place) noexcept {
    Region* const region = *place;
    *place = std::exchange(region->next, nullptr);
    kept -= region->pinned_bytes;
    return region;
  }
};

PinnedPool* find(const DeviceBackend& backend) noexcept { return static_cast<PinnedPool*>(backend.ends_last.get()); }

/// The device's pool, from its first region on. Throws std::bad_alloc.
PinnedPool& pool_of(const std::shared_ptr<DeviceBackend>& backend) {
  auto& [mutex, all] = pools();
  const std::scoped_lock lock(mutex);
  if (PinnedPool* const made = find(*backend)) return *made;
  all.reserve(all.size() + 1);
  auto pool = std::make_shared<PinnedPool>(backend);
  all.push_back(pool.get());
  backend->ends_last = pool;
  return *pool;
}

/// The smallest region that fits; at most so many times as large as what is wanted.
Region* take(PinnedPool& pool, const std::shared_ptr<DeviceCore>& device, std::size_t bytes,
             const RegionOptions& options, std::size_t at_most_times) noexcept {
  const std::scoped_lock lock(pools().mutex);
  Region** best = nullptr;
  for (Region** at = &pool.first; *at != nullptr; at = &(*at)->next) {
    const Region& region = **at;
    if (region.pinned_bytes < bytes || region.pinned_bytes / at_most_times > bytes || region.options != options)
      continue;
    // Where mimalloc keeps data of its own, a small arena could have less than that, and would take it for its own.
    if (region.mapping != nullptr && region.mapping->kept_bytes != 0 && bytes < least_parked) continue;
    if (best == nullptr || region.pinned_bytes < (*best)->pinned_bytes) best = at;
  }
  if (best == nullptr) return nullptr;
  Region* const region = pool.remove(best);
  region->bytes = bytes;
  region->device = device;
  pool.use(*region);
  return region;
}

/// Unpins what the pool keeps beyond `left` bytes, what was let go first before the rest. Returns bytes.
std::size_t unpin_down_to(PinnedPool& pool, DeviceBackend& backend, std::size_t left,
                          Status* failed = nullptr) noexcept {
  std::size_t bytes = 0;
  for (;;) {
    Region* region = nullptr;
    {
      const std::scoped_lock lock(pools().mutex);
      if (pool.kept <= left || pool.first == nullptr) return bytes;
      Region** last = &pool.first;
      while ((*last)->next != nullptr) last = &(*last)->next;
      region = pool.remove(last);
    }
    const std::size_t pinned = region->pinned_bytes;
    bool stays = false;
    const Status status =
        unpin_region(region, backend, &stays);  // without the lock: it waits, and others let go meanwhile
    if (!status.ok() && failed != nullptr) *failed = status;
    if (stays) {
      const std::scoped_lock lock(pools().mutex);
      pool.keep(region);
      return bytes;
    }
    bytes += pinned;
  }
}

/// A new address range stays for good. Where all that there are would be more than twice the power of two that holds
/// what arenas had at once, a region that is kept, and too small, gives its range to the new one.
void spare_addresses(PinnedPool& pool, DeviceBackend& backend, std::size_t bytes) noexcept {
  if (bytes < least_parked || has_parked(bytes)) return;
  Region** best = nullptr;
  std::unique_lock lock(pools().mutex);
  std::size_t at_once = std::max(pool.most_in_use, pool.in_use + bytes);
  for (const PinnedPool* other : pools().all)
    if (other != &pool) at_once += other->most_in_use;
  if (addresses_taken() + range_for(bytes) <= 2 * std::bit_ceil(at_once)) return;
  for (Region** at = &pool.first; *at != nullptr; at = &(*at)->next) {
    const Mapping* const mapping = (*at)->mapping;
    if (mapping == nullptr || !serves(mapping->bytes, bytes)) continue;
    if (best == nullptr || mapping->bytes < (*best)->mapping->bytes) best = at;
  }
  if (best == nullptr) return;
  Region* const region = pool.remove(best);
  lock.unlock();
  bool stays = false;
  (void)unpin_region(region, backend, &stays);  // parks its range
  if (!stays) return;
  lock.lock();
  pool.keep(region);
}

/// Whether any device had something to unpin.
bool unpin_all_kept() noexcept {
  bool any = false;
  for (;;) {
    std::shared_ptr<DeviceBackend> backend;
    {
      const std::scoped_lock lock(pools().mutex);
      for (const PinnedPool* pool : pools().all)
        if (pool->kept != 0 && (backend = pool->backend.lock()) != nullptr) break;
    }
    if (backend == nullptr || unpin_kept(*backend) == 0) return any;  // nothing is left, or it is refused
    any = true;
  }
}

Error with_what_is_kept(const Error& error) {
  std::size_t kept = 0;
  {
    const std::scoped_lock lock(pools().mutex);
    for (const PinnedPool* pool : pools().all) kept += pool->kept;
  }
  if (kept == 0) return error;
  return Error::make(error.errc(), [&] {
    return std::string(error.what()) + "; " + bytes_text(kept) +
           " stay pinned for later arenas, and Device::trim_pinned() gives them back";
  });
}

}  // namespace

Result<Region*> obtain_region(const std::shared_ptr<DeviceCore>& device, std::size_t bytes,
                              const RegionOptions& options, Unpinning unpinning) {
  PinnedPool& pool = pool_of(device->backend);
  if (device->lost()) return tl::unexpected(device->lost_error("PinnedArena"));
  if (Region* const kept = take(pool, device, bytes, options, 2)) return prepared_again(kept);
  const bool may_unpin = unpinning == Unpinning::if_needed;
  if (may_unpin) {
    std::unique_lock lock(pools().mutex);
    const std::size_t left = pool.may_keep(bytes);
    const bool too_much = pool.kept > left;
    lock.unlock();
    if (too_much) {
      if (Region* const kept = take(pool, device, bytes, options, SIZE_MAX)) return prepared_again(kept);
      (void)unpin_down_to(pool, *device->backend, left);
    }
    if (options.pin == PinMethod::register_pages) spare_addresses(pool, *device->backend, bytes);
  }
  auto region = pin_region(device, bytes, options);
  if (!region && region.error().errc() == Errc::limit) {
    if (Region* const kept = take(pool, device, bytes, options, SIZE_MAX)) return prepared_again(kept);
    if (may_unpin && unpin_all_kept()) region = pin_region(device, bytes, options);
    if (!region) return tl::unexpected(with_what_is_kept(region.error()));
  }
  if (region) {
    const std::scoped_lock lock(pools().mutex);
    pool.use(**region);
  }
  return region;
}

void keep_region(Region* region) noexcept {
  // May be the last to hold the device, whose end takes the lock, too.
  const auto device = std::move(region->device);
  PinnedPool& pool = *find(*device->backend);
  const std::scoped_lock lock(pools().mutex);
  pool.in_use -= region->pinned_bytes;
  pool.keep(region);
}

void give_back_region(Region* region) noexcept {
  const auto device = std::move(region->device);
  {
    const std::scoped_lock lock(pools().mutex);
    find(*device->backend)->in_use -= region->pinned_bytes;
  }
  bool stays = false;
  if (const Status status = unpin_region(region, *device->backend, &stays); !status.ok())
    device->keep_error(status, "PinnedArena", "unregister_host");
  if (!stays) return;
  const std::scoped_lock lock(pools().mutex);
  find(*device->backend)->keep(region);
}

std::size_t unpin_kept(DeviceBackend& backend, Status* failed) noexcept {
  PinnedPool* pool = nullptr;
  {
    const std::scoped_lock lock(pools().mutex);
    pool = find(backend);
  }
  return pool == nullptr ? 0 : unpin_down_to(*pool, backend, 0, failed);
}

std::size_t kept_bytes(const DeviceBackend& backend) noexcept {
  const std::scoped_lock lock(pools().mutex);
  const PinnedPool* const pool = find(backend);
  return pool == nullptr ? 0 : pool->kept;
}

std::size_t bytes_in_use(const DeviceBackend& backend) noexcept {
  const std::scoped_lock lock(pools().mutex);
  const PinnedPool* const pool = find(backend);
  return pool == nullptr ? 0 : pool->in_use;
}

void limit_kept(const std::shared_ptr<DeviceBackend>& backend, std::size_t bytes) {
  PinnedPool& pool = pool_of(backend);
  const std::scoped_lock lock(pools().mutex);
  pool.limit = bytes;
}

}  // namespace thole::inline v0_1::detail

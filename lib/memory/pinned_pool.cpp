#include "memory/pinned_pool.hpp"

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.hpp"
#include "base/fork.hpp"
#include "base/host_function.hpp"
#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {

namespace {

struct PinnedPool;

/// The pools of all devices; the lock is that of their contents, too.
struct Pools {
  std::mutex mutex;
  std::vector<PinnedPool*> all;
  // What is being unpinned is in no pool and in no figure, but still pinned.
  std::size_t unpinning = 0;  // regions
  std::size_t unpinned = 0;   // regions so far
  std::condition_variable some_unpinned;
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
  auto& all = pools().all;
  const std::scoped_lock lock(pools().mutex);
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

/// Unpins a region that has just left the pool, or its arena; it comes into the pool where the device refuses. The lock
/// is let go meanwhile: this waits for running work.
Status unpin(std::unique_lock<std::mutex>& lock, PinnedPool& pool, DeviceBackend& backend, Region* region,
             bool* stays) noexcept {
  Pools& all = pools();
  ++all.unpinning;
  lock.unlock();
  const Status status = unpin_region(region, backend, stays);
  lock.lock();
  *stays ? pool.keep(region) : (void)++all.unpinned;
  --all.unpinning;
  all.some_unpinned.notify_all();
  return status;
}

std::size_t unpinned_so_far() noexcept {
  const std::scoped_lock lock(pools().mutex);
  return pools().unpinned;
}

/// The same when something more has been unpinned, or no thread unpins any more. Waits for running work as they do, but
/// in a host function, which is such work.
std::size_t unpinned_by_others(std::size_t before) noexcept {
  Pools& all = pools();
  std::unique_lock lock(all.mutex);
  if (!in_host_function()) all.some_unpinned.wait(lock, [&] { return all.unpinned != before || all.unpinning == 0; });
  return all.unpinned;
}

/// Unpins what the pool keeps beyond `left` bytes, what was let go first before the rest. Returns bytes.
std::size_t unpin_down_to(PinnedPool& pool, DeviceBackend& backend, std::size_t left,
                          Status* failed = nullptr) noexcept {
  std::size_t bytes = 0;
  std::unique_lock lock(pools().mutex);
  while (pool.kept > left && pool.first != nullptr) {
    Region** last = &pool.first;
    while ((*last)->next != nullptr) last = &(*last)->next;
    Region* const region = pool.remove(last);
    const std::size_t pinned = region->pinned_bytes;
    bool stays = false;
    const Status status = unpin(lock, pool, backend, region, &stays);
    if (!status.ok() && failed != nullptr) *failed = status;
    if (stays) break;
    bytes += pinned;
  }
  return bytes;
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
  bool stays = false;
  (void)unpin(lock, pool, backend, pool.remove(best), &stays);  // parks its range
}

void unpin_all_kept() noexcept {
  std::shared_ptr<DeviceBackend> backend;
  do {
    backend.reset();
    const std::scoped_lock lock(pools().mutex);
    for (const PinnedPool* pool : pools().all)
      if (pool->kept != 0 && (backend = pool->backend.lock()) != nullptr) break;
  } while (backend != nullptr && unpin_kept(*backend) != 0);  // else nothing is left, or it is refused
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
  std::size_t unpinned = unpinned_so_far();
  auto region = pin_region(device, bytes, options);
  if (!region && region.error().errc() == Errc::limit) {
    if (Region* const kept = take(pool, device, bytes, options, SIZE_MAX)) return prepared_again(kept);
    if (may_unpin) {
      unpin_all_kept();
      for (std::size_t now;
           !region && region.error().errc() == Errc::limit && (now = unpinned_by_others(unpinned)) != unpinned;
           unpinned = now)
        region = pin_region(device, bytes, options);
    }
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
  DeviceBackend& backend = *device->backend;
  PinnedPool& pool = *find(backend);
  std::unique_lock lock(pools().mutex);
  pool.in_use -= region->pinned_bytes;
  bool stays = false;
  const Status status = unpin(lock, pool, backend, region, &stays);
  lock.unlock();
  if (!status.ok()) device->keep_error(status, "PinnedArena", "unregister_host");
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

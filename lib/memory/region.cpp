#include "memory/region.hpp"

#ifdef THOLE_WITH_NUMA
#include <linux/mempolicy.h>
#endif
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <thread>

#include <thole/config.hpp>

#include "base/background_thread.hpp"
#include "memory/limits.hpp"

namespace thole::detail {

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t touched_by_one = std::size_t{32} << 20;  // below, starting a thread costs more than it saves
constexpr std::size_t chunk_unit = config::smallest_region;
constexpr std::size_t least_with_chunks = 8 * chunk_unit;
constexpr unsigned most_touchers = 16;  // of 16 cores: 1 GiB of huge pages in 23 ms; with 8, 36 ms

std::size_t alignment_for(std::size_t bytes) noexcept {
  if (bytes >= least_with_chunks) return config::region_alignment;
  return bytes >= huge_page ? huge_page : page;
}

tl::unexpected<Error> refuse(Errc code, std::size_t bytes, const std::string& why) {
  return tl::unexpected(Error(code, "PinnedArena: cannot pin " + bytes_text(bytes) + ": " + why));
}

// ---- Address ranges that mimalloc knows, between two arenas. Never destroyed: the unpinner may outlive main.
struct Parked {
  std::mutex mutex;
  Region* first = nullptr;
};
Parked& parked() {
  static auto* const instance = new Parked;
  return *instance;
}

// The smallest parked range that is large enough, so that small arenas do not use up the large ranges.
Region* unpark(std::size_t bytes) noexcept {
  Parked& park = parked();
  const std::lock_guard lock(park.mutex);
  Region** best = nullptr;
  for (Region** at = &park.first; *at != nullptr; at = &(*at)->next)
    if ((*at)->mapped >= bytes && (best == nullptr || (*at)->mapped < (*best)->mapped)) best = at;
  if (best == nullptr) return nullptr;
  Region* const region = *best;
  *best = region->next;
  region->next = nullptr;
  return region;
}

// A chunk that holds one small block is closed to large ones, so chunks are a small part of a region, but not so many
// that an arena of small blocks uses up mimalloc's slots. 3.x keeps data of its own at the start of each chunk for
// ever, so there a region has one, at its start, where it cuts nothing in two. Regions below 256 MiB have none: extents
// serve all sizes, as fast.
void plan_chunks(Region& region) noexcept {
  if (region.bytes < least_with_chunks) return;
  const std::size_t share = region.bytes / 32;
  region.chunk_bytes = std::max(share / chunk_unit, std::size_t{1}) * chunk_unit;
  region.chunk_slots =
      config::arena_data_in_region ? 1 : std::min(region.bytes / region.chunk_bytes, Region::most_chunks);
}

// ---- Mapping
Result<Region*> map_region(std::size_t bytes) {
  if (bytes >= least_with_chunks)
    if (Region* const region = unpark(bytes); region != nullptr) {
      region->bytes = bytes;
      return region;
    }
  const std::size_t alignment = alignment_for(bytes);
  const std::size_t asked = bytes + (alignment - page);
  auto* region = new (std::nothrow) Region;
  if (region == nullptr) return refuse(Errc::out_of_memory, bytes, "no memory for the region's record");
  void* const mapped =
      asked < bytes ? MAP_FAILED
                    : mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    const std::string reason = std::strerror(asked < bytes ? ENOMEM : errno);
    delete region;
    return refuse(Errc::limit, bytes, "the system has no such stretch of addresses (mmap: " + reason + "; RLIMIT_AS?)");
  }
  auto* const start = static_cast<std::byte*>(mapped);
  const std::size_t head = (alignment - reinterpret_cast<std::uintptr_t>(mapped) % alignment) % alignment;
  if (head != 0) munmap(start, head);
  if (const std::size_t tail = asked - head - bytes; tail != 0) munmap(start + head + bytes, tail);
  region->data = start + head;
  region->bytes = region->mapped = bytes;
  plan_chunks(*region);
  return region;
}

// The pages go back to the system but for what mimalloc keeps in them; the addresses too, unless mimalloc knows them.
void unmap_region(Region* region) noexcept {
  if (!region->known_to_mimalloc()) {
    munmap(region->data, region->mapped);
    delete region;
    return;
  }
  std::byte* at = region->data;
  while (at < region->data + region->mapped) {
    const Chunk* keeper = nullptr;  // the next stretch to keep
    for (const Chunk* chunk : region->chunks)
      if (chunk != nullptr && chunk->own_bytes != 0 && chunk->data >= at &&
          (keeper == nullptr || chunk->data < keeper->data))
        keeper = chunk;
    std::byte* const end = keeper != nullptr ? keeper->data : region->data + region->mapped;
    if (end != at) madvise(at, static_cast<std::size_t>(end - at), MADV_DONTNEED);
    at = keeper != nullptr ? end + keeper->own_bytes : end;
  }
  region->device.reset();
  Parked& park = parked();
  const std::lock_guard lock(park.mutex);
  region->next = park.first;
  park.first = region;
}

// ---- NUMA
#ifdef THOLE_WITH_NUMA
Result<void> bind_to_node(const Region& region, int node) {
  constexpr std::size_t nodes = 1024;
  constexpr unsigned bits = 8 * sizeof(unsigned long);
  const auto bit = static_cast<unsigned>(node);
  if (!numa_node_exists(node) || bit >= nodes)
    return refuse(Errc::invalid_argument, region.bytes, "there is no NUMA node " + std::to_string(node));
  std::array<unsigned long, nodes / bits> mask{};
  mask[bit / bits] = 1UL << bit % bits;
  // The kernel reads one bit less than it is told of.
  if (syscall(SYS_mbind, region.data, region.bytes, MPOL_BIND, mask.data(), nodes + 1, 0U) == 0) return {};
  const int reason = errno;
  if (reason == ENOSYS && node == 0) return {};  // a kernel that knows no nodes has one
  return refuse(reason == EINVAL ? Errc::invalid_argument : Errc::limit, region.bytes,
                "binding it to NUMA node " + std::to_string(node) + " failed (mbind: " + std::strerror(reason) + ")");
}
#else
Result<void> bind_to_node(const Region& region, int node) {
  return refuse(Errc::invalid_argument, region.bytes,
                "thole was built without NUMA support, so it cannot be bound to node " + std::to_string(node));
}
#endif

// ---- Touching: each page gets its memory now, by several threads, since registering would do it with one. By writes:
// MADV_POPULATE_WRITE is as fast from one thread or four, but from eight on took 170 ms where they took 36
// (Linux 6.18). A write puts back what is there: in a range that was parked, what mimalloc keeps.
void touch_part(std::byte* data, std::size_t bytes) noexcept {
  for (std::size_t at = 0; at < bytes; at += page) {
    auto nothing = std::byte{0};
    (void)std::atomic_ref(data[at]).compare_exchange_strong(nothing, nothing, std::memory_order_relaxed);
  }
}

void touch(const Region& region) noexcept {
  const auto by_size = static_cast<unsigned>(std::min<std::size_t>(region.bytes / touched_by_one, most_touchers));
  const unsigned threads = std::clamp(by_size, 1U, std::max(1U, std::thread::hardware_concurrency()));
  const std::size_t part = (region.bytes / threads + huge_page - 1) / huge_page * huge_page;
  auto work = [&region, part](unsigned index) noexcept {
    const std::size_t from = std::min(region.bytes, part * index);
    const std::size_t to = std::min(region.bytes, from + part);
    touch_part(region.data + from, to - from);
  };
  std::array<std::thread, most_touchers> others;
  for (unsigned index = 1; index < threads; ++index) {
    try {
      others[index] = background_thread([work, index] { work(index); });
    } catch (const std::system_error&) {
      work(index);
    }
  }
  work(0);
  for (auto& other : others)
    if (other.joinable()) other.join();
}

// ---- Pinning
tl::unexpected<Error> pin_failed(DeviceCore& device, Status status, std::size_t bytes, const char* call) {
  if (status.code != StatusCode::out_of_memory)
    return tl::unexpected(device.error(status, "PinnedArena", call, bytes_text(bytes)));
  return refuse(Errc::limit, bytes,
                std::string(call) + " said " + device.backend->describe(status) +
                    ": the limit on pinned memory is reached; " + memlock_limit());
}

Result<Region*> allocate_by_driver(std::shared_ptr<DeviceCore> device, std::size_t bytes, int numa_node) {
  if (numa_node >= 0)
    return refuse(Errc::invalid_argument, bytes, "PinMethod::host_alloc cannot bind memory to a NUMA node");
  auto* region = new (std::nothrow) Region;
  if (region == nullptr) return refuse(Errc::out_of_memory, bytes, "no memory for the region's record");
  void* data = nullptr;
  const CaptureGuard guard(*device->backend);
  if (const Status status = device->backend->allocate_host(bytes, &data); !status.ok()) {
    delete region;
    return pin_failed(*device, status, bytes, "allocate_host");
  }
  region->data = static_cast<std::byte*>(data);
  region->bytes = bytes;
  region->device = std::move(device);
  return region;
}

Result<Region*> pin_once(const std::shared_ptr<DeviceCore>& device, std::size_t bytes, PinMethod pin, int numa_node) {
  if (const MemoryRoom room = memory_room(); bytes > room.bytes) return refuse(Errc::limit, bytes, room.limit);
  if (pin == PinMethod::host_alloc) return allocate_by_driver(device, bytes, numa_node);
  auto mapped = map_region(bytes);
  if (!mapped) return mapped;
  Region* const region = *mapped;
  madvise(region->data, bytes, MADV_HUGEPAGE);  // a wish: systems without huge pages are slower, not wrong
  if (numa_node >= 0) {
    if (auto bound = bind_to_node(*region, numa_node); !bound) {
      unmap_region(region);
      return tl::unexpected(std::move(bound.error()));
    }
  }
  touch(*region);
  const CaptureGuard guard(*device->backend);
  if (const Status status = device->backend->register_host(region->data, bytes); !status.ok()) {
    unmap_region(region);
    return pin_failed(*device, status, bytes, "register_host");
  }
  region->device = device;
  return region;
}

}  // namespace

Result<Region*> pin_region(std::shared_ptr<DeviceCore> device, std::size_t bytes, PinMethod pin, int numa_node) {
  const std::size_t before = regions_unpinned_later();
  auto region = pin_once(device, bytes, pin, numa_node);
  if (region || region.error().errc() != Errc::limit) return region;
  // Arenas that are gone may have held what was missing.
  finish_unpinning();
  if (regions_unpinned_later() == before) return region;
  return pin_once(device, bytes, pin, numa_node);
}

void unpin_region(Region* region) noexcept {
  DeviceCore& device = *region->device;
  {
    const CaptureGuard guard(*device.backend);
    const Status status =
        region->mapped == 0 ? device.backend->free_host(region->data) : device.backend->unregister_host(region->data);
    // While the runtime unloads, or when the device is lost, the registration has ended or ends with it.
    if (!status.ok()) device.keep_error(status, "PinnedArena", "unregister_host");
  }
  if (region->mapped != 0)
    unmap_region(region);
  else
    delete region;
}

}  // namespace thole::detail

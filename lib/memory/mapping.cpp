#include "memory/mapping.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "base/background_thread.hpp"
#include "base/bytes.hpp"
#include "base/immortal.hpp"
#include "base/limits.hpp"
#include "memory/untouched.hpp"

namespace thole::inline v0_1::detail {

namespace {

constexpr std::size_t touched_by_one = std::size_t{32} << 20;  // below, starting a thread costs more than it saves
constexpr std::size_t touched_at_once = std::size_t{8} << 20;  // what others think is still to come
constexpr unsigned most_touchers = 16;  // of 16 cores: 1 GiB of huge pages in 23 ms; with 8, 36 ms

std::size_t alignment_for(std::size_t bytes) noexcept {
  if (bytes >= least_parked) return config::region_alignment;
  return bytes >= huge_page ? huge_page : page;
}

// The ranges that no arena uses now.
struct ParkedRanges {
  std::mutex mutex;
  Mapping* first = nullptr;
  std::atomic<std::size_t> taken{0};  // bytes of all ranges like these, parked or not; relaxed: a figure
};

void park(Mapping* mapping) noexcept {
  auto& parked = immortal<ParkedRanges>();
  const std::lock_guard lock(parked.mutex);
  mapping->next = parked.first;
  parked.first = mapping;
}

// The smallest parked range that serves. The lock is held.
Mapping** find_parked(ParkedRanges& parked, std::size_t bytes) noexcept {
  Mapping** best = nullptr;
  for (Mapping** at = &parked.first; *at != nullptr; at = &(*at)->next)
    if (serves((*at)->bytes, bytes) && (best == nullptr || (*at)->bytes < (*best)->bytes)) best = at;
  return best;
}

Mapping* unpark(std::size_t bytes) noexcept {
  auto& parked = immortal<ParkedRanges>();
  const std::lock_guard lock(parked.mutex);
  Mapping** const place = find_parked(parked, bytes);
  if (place == nullptr) return nullptr;
  Mapping* const mapping = *place;
  *place = mapping->next;
  mapping->next = nullptr;
  return mapping;
}

// Addresses that can be neither read nor written take no memory, also where the system promises no more than it has.
constexpr int new_range = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// nullptr, with errno, when there is no such stretch of addresses.
std::byte* map_aligned(std::size_t bytes, std::size_t alignment) noexcept {
  const std::size_t asked = bytes + (alignment - page);
  void* const mapped = mmap(nullptr, asked, PROT_NONE, new_range, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const start = static_cast<std::byte*>(mapped);
  std::byte* const data = align_up(start, alignment);
  const auto head = static_cast<std::size_t>(data - start);
  if (head != 0) munmap(start, head);
  if (const std::size_t tail = asked - head - bytes; tail != 0) munmap(data + bytes, tail);
  return data;
}

Result<Mapping*> map_new_range(std::size_t bytes) {
  auto* const mapping = new (std::nothrow) Mapping;
  if (mapping == nullptr) return cannot_pin(Errc::out_of_memory, bytes, "no memory for the record of its addresses");
  mapping->bytes = range_for(bytes);
  mapping->data = map_aligned(mapping->bytes, alignment_for(bytes));
  if (mapping->data == nullptr && mapping->bytes != bytes) {  // addresses are short
    mapping->bytes = bytes;
    mapping->data = map_aligned(bytes, alignment_for(bytes));
  }
  if (mapping->data != nullptr) {
    if (bytes >= least_parked) immortal<ParkedRanges>().taken.fetch_add(mapping->bytes, std::memory_order_relaxed);
    return mapping;
  }
  const int why = errno;
  delete mapping;
  return cannot_pin(
      Errc::limit, bytes,
      std::string("the system has no such stretch of addresses (mmap: ") + std::strerror(why) + "; RLIMIT_AS?)");
}

// A write puts back what is there: in a range that was parked, what mimalloc keeps.
void touch_part(std::byte* data, std::size_t bytes, MemoryReservation& room) noexcept {
  for (std::size_t at = 0; at < bytes; at += page) {
    auto nothing = std::byte{0};
    (void)std::atomic_ref(data[at]).compare_exchange_strong(nothing, nothing, std::memory_order_relaxed);
    if (const std::size_t end = at + page; end % touched_at_once == 0) room.touched(touched_at_once);
  }
}

}  // namespace

std::size_t range_for(std::size_t bytes) noexcept { return bytes >= least_parked ? std::bit_ceil(bytes) : bytes; }

// No large range for a small arena: for it the chunks would be too large, and a large arena would want the range.
bool serves(std::size_t range, std::size_t bytes) noexcept { return range >= bytes && range / 4 < bytes; }

bool has_parked(std::size_t bytes) noexcept {
  auto& parked = immortal<ParkedRanges>();
  const std::lock_guard lock(parked.mutex);
  return find_parked(parked, bytes) != nullptr;
}

std::size_t addresses_taken() noexcept { return immortal<ParkedRanges>().taken.load(std::memory_order_relaxed); }

Result<Mapping*> map_memory(std::size_t bytes, bool in_core_dumps) {
  Mapping* mapping = bytes >= least_parked ? unpark(bytes) : nullptr;
  if (mapping == nullptr) {
    auto made = map_new_range(bytes);
    if (!made) return made;
    mapping = *made;
  }
  if (mprotect(mapping->data, bytes, PROT_READ | PROT_WRITE) != 0) {
    const int why = errno;
    unmap_memory(mapping);
    return cannot_pin(Errc::limit, bytes,
                      std::string("the system promises no more memory (mprotect: ") + std::strerror(why) +
                          "; vm.overcommit_memory?)");
  }
  // Wishes: systems without huge pages, or with a kernel that knows one of the others not, are slower, not wrong.
  madvise(mapping->data, bytes, MADV_HUGEPAGE);
  madvise(mapping->data, bytes, in_core_dumps ? MADV_DODUMP : MADV_DONTDUMP);
  copy_to_children(mapping->data + mapping->kept_bytes, bytes - mapping->kept_bytes, false);
  return mapping;
}

void unmap_memory(Mapping* mapping) noexcept {
  if (mapping->bytes < least_parked) {
    munmap(mapping->data, mapping->bytes);
    delete mapping;
    return;
  }
  // A new mapping in the place of the old one knows nothing of what the kernel was told of that.
  std::byte* const rest = mapping->data + mapping->kept_bytes;
  const std::size_t bytes = mapping->bytes - mapping->kept_bytes;
  if (mmap(rest, bytes, PROT_NONE, new_range | MAP_FIXED, -1, 0) == MAP_FAILED) madvise(rest, bytes, MADV_DONTNEED);
  park(mapping);
}

void copy_to_children(std::byte* data, std::size_t bytes, bool copied) noexcept {
  madvise(data, bytes, copied ? MADV_DOFORK : MADV_DONTFORK);
}

// By writes: MADV_POPULATE_WRITE is as fast from one thread or four, but from eight on took 170 ms where they took 36
// (Linux 6.18).
void touch(std::byte* data, std::size_t bytes, MemoryReservation& room) noexcept {
  const auto by_size = static_cast<unsigned>(std::min<std::size_t>(bytes / touched_by_one, most_touchers));
  const unsigned threads = std::clamp(by_size, 1U, std::max(1U, std::thread::hardware_concurrency()));
  const std::size_t part = round_up(bytes / threads, huge_page);
  auto work = [data, bytes, part, &room](unsigned index) noexcept {
    const std::size_t from = std::min(bytes, part * index);
    touch_part(data + from, std::min(bytes, from + part) - from, room);
  };
  std::array<std::thread, most_touchers> others;
  for (unsigned index = 1; index < threads; ++index) {
    try {
      others[index] = background_thread([work, index] { work(index); });
    } catch (const std::exception&) {  // no thread, or no memory for what it is told
      work(index);
    }
  }
  work(0);
  for (auto& other : others)
    if (other.joinable()) other.join();
}

std::size_t bytes_without_memory(std::byte* data, std::size_t bytes) noexcept {
  std::array<unsigned char, 4096> resident;
  std::byte* const end = align_up(data + bytes, page);
  std::size_t missing = 0;
  for (std::byte* at = align_down(data, page); at < end;) {
    const std::size_t pages = std::min(static_cast<std::size_t>(end - at) / page, resident.size());
    if (mincore(at, pages * page, resident.data()) != 0) return 0;
    missing += static_cast<std::size_t>(std::count_if(resident.begin(), resident.begin() + static_cast<long>(pages),
                                                      [](unsigned char flags) { return (flags & 1U) == 0; }));
    at += pages * page;
  }
  return missing * page;
}

tl::unexpected<Error> cannot_pin(Errc code, std::size_t bytes, const std::string& why) {
  return tl::unexpected(Error(code, "PinnedArena: cannot pin " + bytes_text(bytes) + ": " + why));
}

}  // namespace thole::inline v0_1::detail

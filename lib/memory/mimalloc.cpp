// The only file that knows mimalloc.
//
// The library is loaded with dlopen and local scope, so that Debian's, which defines malloc and free, does not become
// the program's allocator. A static mimalloc (the Meson subproject, built without its malloc override) is called
// directly.
//
// One heap serves a chunk, made by a thread that then rests for ever, and all calls on it come one at a time from
// whoever has the store's lock. That is beyond 2.x's contract, in which a heap is its thread's; but a heap's state is
// only what its owner's record holds, the owner never touches it again, and frees from other threads take mimalloc's
// cross-thread path, which the next allocation collects. What it buys: no thread that exits or rests ever keeps memory
// from another (the heap per thread of the contract does just that). Heaps of one owner share more than their chunk, so
// all chunks of one range, which one store's lock guards, have one owner, and each range has another. From 3.x on the
// same is done with the owner's theap.

#include "memory/mimalloc.hpp"

#include <dlfcn.h>
#include <mimalloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>

#include <thole/config.hpp>

#include "base/background_thread.hpp"
#include "base/bytes.hpp"
#include "base/immortal.hpp"
#include "memory/chunk.hpp"

namespace thole::inline v0_1::detail {

namespace {

// MI_MALLOC_VERSION has three encodings: 209 is 2.0.9, 3208 is 3.2.8, 30600 is 3.6.0.
constexpr bool is_v3 = MI_MALLOC_VERSION >= 3000;

#if MI_MALLOC_VERSION >= 3000
using Heap = mi_theap_t;
#else
using Heap = mi_heap_t;
#endif

struct Functions {
  decltype(&::mi_version) version = nullptr;
  decltype(&::mi_option_set) option_set = nullptr;
  decltype(&::mi_good_size) good_size = nullptr;
  decltype(&::mi_manage_os_memory_ex) manage_os_memory_ex = nullptr;
  decltype(&::mi_heap_new_in_arena) heap_new_in_arena = nullptr;
  decltype(&::mi_free) free = nullptr;
#if MI_MALLOC_VERSION >= 3000
  decltype(&::mi_heap_theap) heap_theap = nullptr;
  decltype(&::mi_theap_malloc) malloc = nullptr;
  decltype(&::mi_theap_malloc_aligned) malloc_aligned = nullptr;
  decltype(&::mi_theap_collect) collect = nullptr;
#else
  decltype(&::mi_heap_malloc) malloc = nullptr;
  decltype(&::mi_heap_malloc_aligned_at) malloc_aligned = nullptr;
  decltype(&::mi_heap_collect) collect = nullptr;
#endif
};

#ifdef THOLE_MIMALLOC_STATIC

Result<Functions> load() {
  Functions f;
  f.version = &::mi_version;
  f.option_set = &::mi_option_set;
  f.good_size = &::mi_good_size;
  f.manage_os_memory_ex = &::mi_manage_os_memory_ex;
  f.heap_new_in_arena = &::mi_heap_new_in_arena;
  f.free = &::mi_free;
#if MI_MALLOC_VERSION >= 3000
  f.heap_theap = &::mi_heap_theap;
  f.malloc = &::mi_theap_malloc;
  f.malloc_aligned = &::mi_theap_malloc_aligned;
  f.collect = &::mi_theap_collect;
#else
  f.malloc = &::mi_heap_malloc;
  f.malloc_aligned = &::mi_heap_malloc_aligned_at;
  f.collect = &::mi_heap_collect;
#endif
  return f;
}

#else

Result<Functions> load() {
  auto refuse = [](const std::string& why) {
    return tl::unexpected(Error(Errc::invalid_argument, "thole: cannot use mimalloc: " + why));
  };
  // Never closed: mimalloc cannot be unloaded.
  void* const library = dlopen(THOLE_MIMALLOC_SONAME, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return refuse(dlerror());
  Functions f;
  const char* missing = nullptr;
  auto find = [library, &missing](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) missing = name;
  };
  find(f.version, "mi_version");
  // One soname covers versions that do not fit together.
  if (f.version != nullptr && f.version() != MI_MALLOC_VERSION)
    return refuse(std::string(THOLE_MIMALLOC_SONAME) + " is version " + std::to_string(f.version()) +
                  ", and thole was compiled for " + std::to_string(MI_MALLOC_VERSION) +
                  "; install the one or compile for the other");
  find(f.option_set, "mi_option_set");
  find(f.good_size, "mi_good_size");
  find(f.manage_os_memory_ex, "mi_manage_os_memory_ex");
  find(f.heap_new_in_arena, "mi_heap_new_in_arena");
  find(f.free, "mi_free");
#if MI_MALLOC_VERSION >= 3000
  find(f.heap_theap, "mi_heap_theap");
  find(f.malloc, "mi_theap_malloc");
  find(f.malloc_aligned, "mi_theap_malloc_aligned");
  find(f.collect, "mi_theap_collect");
#else
  find(f.malloc, "mi_heap_malloc");
  find(f.malloc_aligned, "mi_heap_malloc_aligned_at");
  find(f.collect, "mi_heap_collect");
#endif
  if (missing != nullptr) return refuse(std::string(THOLE_MIMALLOC_SONAME) + " has no " + missing);
  return f;
}

#endif

void set_options(const Functions& f) {
#if MI_MALLOC_VERSION >= 3000
  // Else a thread that frees what others allocated hoards the pages.
  f.option_set(mi_option_page_reclaim_on_free, MI_MALLOC_VERSION >= 30600 ? -1 : 0);
#else
  // Else an arena of large pages serves nothing while a process with threads is young.
  f.option_set(mi_option_eager_commit_delay, 0);
#endif
  (void)f;
}

Functions functions;                  // written once, before any chunk exists
std::atomic<bool> in_trouble{false};  // relaxed, as is no_slots: nothing else depends on them
std::atomic<bool> no_slots{false};
std::atomic<std::size_t> slots{0};  // taken

}  // namespace

// A thread that makes heaps and rests otherwise. Its records in mimalloc live as long as it does: for ever.
struct RestingThread {
  std::mutex mutex;
  std::condition_variable changed;
  const Chunk* wanted = nullptr;  // whose heap is to be made
  Heap* made = nullptr;

  void run() noexcept {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return wanted != nullptr; });
      mi_heap_t* const heap = functions.heap_new_in_arena((mi_arena_id_t)wanted->arena);
#if MI_MALLOC_VERSION >= 3000
      made = heap != nullptr ? functions.heap_theap(heap) : nullptr;
#else
      made = heap;
#endif
      wanted = nullptr;
      changed.notify_all();
    }
  }
};

namespace {

Heap* heap_of_a_resting_thread(const Chunk& chunk, ChunkTable& table) noexcept {
  if (table.owner == nullptr) {
    auto* const owner = new (std::nothrow) RestingThread;
    if (owner == nullptr) return nullptr;
    try {
      background_thread([owner] { owner->run(); }).detach();
    } catch (const std::exception&) {
      delete owner;
      return nullptr;
    }
    table.owner = owner;
  }
  RestingThread& owner = *table.owner;
  std::unique_lock lock(owner.mutex);
  owner.wanted = &chunk;
  owner.changed.notify_all();
  owner.changed.wait(lock, [&owner] { return owner.wanted == nullptr; });
  return owner.made;
}

bool inside(const Chunk& chunk, const void* data, std::size_t bytes) noexcept {
  const auto* const at = static_cast<const std::byte*>(data);
  return at >= chunk.data && at + bytes <= chunk.data + chunk.bytes;
}

// Some settings of the environment make mimalloc take memory and then serve nothing.
bool probe(Chunk& chunk) noexcept {
  bool good = true;
  std::array<void*, 4> made{};
  constexpr std::array<std::size_t, 4> sizes{64, 1000, 4096, 65536};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] > config::largest_mimalloc_block) continue;
    std::size_t bytes = sizes[i];
    made[i] = allocate_in_chunk(chunk, bytes, 64);
    good = good && made[i] != nullptr && inside(chunk, made[i], bytes);
  }
  for (void* data : made)
    if (data != nullptr) functions.free(data);
  rest_chunk(chunk);
  return good;
}

}  // namespace

namespace {

// Not a static of the function: where a child is forked while another thread is in there, its guard never opens.
struct Start {
  std::mutex mutex;
  std::optional<Result<void>> result;
};

}  // namespace

Result<void> start_mimalloc() {
  auto& [mutex, result] = immortal<Start>();
  const std::scoped_lock lock(mutex);
  if (result) return *result;
  auto loaded = load();
  if (loaded) {
    functions = *loaded;
    set_options(functions);
  }
  result = loaded ? Result<void>() : tl::unexpected(std::move(loaded.error()));
  return *result;
}

std::string_view mimalloc_trouble() noexcept {
  if (in_trouble.load(std::memory_order_relaxed))
    return "mimalloc took pinned memory but serves none of it: is an environment variable such as "
           "MIMALLOC_LIMIT_OS_ALLOC or MIMALLOC_DISALLOW_ARENA_ALLOC set? Small buffers come from extents instead";
  if (no_slots.load(std::memory_order_relaxed))
    return "mimalloc takes no more arenas in this process: small buffers of new ones come from extents instead";
  return {};
}

// 2.0.9 takes memory that it has not seen for zero and does not clear its segments' headers, whatever is_zero says.
// What it has seen and does not use may be cleared, too.
void clear_headers(const Chunk& chunk) noexcept {
  if constexpr (!is_v3)
    for (std::size_t at = 0; at < chunk.bytes; at += config::region_alignment)
      std::memset(chunk.data + at, 0, std::min<std::size_t>(chunk.bytes - at, std::size_t{256} << 10));
}

bool introduce_chunk(Chunk& chunk, ChunkTable& table) noexcept {
  if (no_slots.load(std::memory_order_relaxed) || in_trouble.load(std::memory_order_relaxed)) return false;
  // 2.0.9 has 64 slots, later versions twice as many: half are for who comes first, some are kept for those with few.
  const std::size_t taken = slots.load(std::memory_order_relaxed);
  if (table.known != 0 && taken >= (table.known < 4 ? 48 : 32)) return false;
  clear_headers(chunk);
  mi_arena_id_t arena{};
  // is_large (is_pinned): else it gives pages back to the system, under a running copy.
  if (!functions.manage_os_memory_ex(chunk.data, chunk.bytes, true, true, false, -1, true, &arena)) {
    no_slots.store(true, std::memory_order_relaxed);
    return false;
  }
  slots.fetch_add(1, std::memory_order_relaxed);
  chunk.arena = (std::intptr_t)arena;
  ++table.known;
  return true;
}

bool give_heap(Chunk& chunk, ChunkTable& table) noexcept {
  if (chunk.useless) return false;
  chunk.heap = heap_of_a_resting_thread(chunk, table);
  if (chunk.heap == nullptr) {
    // No thread now. The next time that a chunk is wanted there may be one; but the versions that keep data of their
    // own in it have done so already, nobody knows how much, and it is lost to all others.
    if (is_v3) {
      chunk.own_bytes = chunk.bytes;
      chunk.useless = true;
    }
    return false;
  }
  [[maybe_unused]] const void* const made = chunk.heap;
  chunk.useless = !probe(chunk);
#if MI_MALLOC_VERSION >= 3000
  // Its bitmaps and page map, and last of all the heap's record, lie in slices of 64 KiB at the start
  // (tests/memory/chunks_test.cpp shows that it touches nothing beyond them while no block is out).
  constexpr std::size_t slice = std::size_t{64} << 10;
  const auto last = static_cast<std::size_t>(static_cast<const std::byte*>(made) - chunk.data);
  chunk.own_bytes = inside(chunk, made, slice) ? (last / slice + 1) * slice : chunk.bytes;
  if (chunk.own_bytes == chunk.bytes) chunk.useless = true;
#endif
  if (!chunk.useless) return true;
  in_trouble.store(true, std::memory_order_relaxed);
  chunk.heap = nullptr;
  return false;
}

std::size_t good_size(std::size_t bytes) noexcept { return functions.good_size(bytes); }

// mimalloc's blocks lie at multiples of their size class from the start of a page, so a size that is a multiple of the
// alignment is aligned by itself; the aligned calls would add the alignment to the size first, and waste up to a
// quarter.
void* allocate_in_chunk(Chunk& chunk, std::size_t& bytes, std::size_t alignment) noexcept {
  auto* const heap = static_cast<Heap*>(chunk.heap);
  if (heap == nullptr) return nullptr;
  const std::size_t whole = functions.good_size(round_up(bytes, alignment));
  void* const data = functions.malloc(heap, whole);
  if (is_aligned(data, alignment)) {
    bytes = round_down(whole, granule);
    return data;
  }
  functions.free(data);
#if MI_MALLOC_VERSION >= 3000
  return functions.malloc_aligned(heap, bytes, alignment);
#else
  // Not mi_heap_malloc_aligned: 2.0.9's forgets the alignment of some sizes (upstream #700); this one does not.
  return functions.malloc_aligned(heap, bytes, alignment, 0);
#endif
}

void free_in_chunk(void* data) noexcept { functions.free(data); }

void rest_chunk(Chunk& chunk) noexcept {
  if (chunk.heap != nullptr) functions.collect(static_cast<Heap*>(chunk.heap), true);
}

}  // namespace thole::inline v0_1::detail

// What the options of <thole/thole.h> are for, and when the memory of handles that are gone is there again. Memory that
// is pinned counts towards a limit of the device's: so a test sees who holds some.

#include <thole/thole.h>
#include <cinttypes>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#include "../support/sanitized.hpp"
#include "rig.hpp"

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;

thole_device* device_that_pins(std::size_t bytes) {
  thole_simulation_options options{};
  options.stepped = 1;
  options.max_pinned_bytes = bytes;
  thole_device* device = nullptr;
  OK(thole_device_simulated(&options, &device));
  return device;
}

/// Whether an arena of that size can be made, which is gone again then.
thole_status can_pin(const thole_device* device, std::size_t bytes) {
  thole_arena_options options{};
  options.bytes = bytes;
  thole_arena* arena = nullptr;
  const thole_status status = thole_arena_create(device, &options, &arena);
  thole_arena_destroy(arena);
  return status;
}

/// What the arena's memory is mapped as, the letters of the system's smaps, each between spaces.
std::string mapped_as(const void* address) {
  std::ifstream file("/proc/self/smaps");
  bool found = false;
  for (std::string line; std::getline(file, line);) {
    std::uintptr_t from = 0, to = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
      found = from <= reinterpret_cast<std::uintptr_t>(address) && reinterpret_cast<std::uintptr_t>(address) < to;
    if (found && line.rfind("VmFlags:", 0) == 0) return line.substr(8) + ' ';
  }
  return {};
}

/// The same for an arena with these options.
std::string mapping_of(const thole_arena_options& options) {
  const Rig rig;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  void* data = nullptr;
  OK(thole_arena_create(rig.device, &options, &arena));
  OK(thole_heap_create(arena, nullptr, &heap));
  OK(thole_allocate(heap, 4096, 0, &data));
  const std::string flags = mapped_as(data);
  OK(thole_deallocate(heap, data));
  thole_heap_destroy(heap);
  thole_arena_destroy(arena);
  return flags;
}

thole_arena_stats stats_of(const thole_arena* arena) {
  thole_arena_stats stats{};
  OK(thole_arena_get_stats(arena, &stats));
  return stats;
}

void an_arena_has_256_MiB_where_nothing_else_is_said() {
  const Rig rig;
  const thole_arena_options nothing{};
  for (const thole_arena_options* options : {static_cast<const thole_arena_options*>(nullptr), &nothing}) {
    thole_arena* arena = nullptr;
    OK(thole_arena_create(rig.device, options, &arena));
    CHECK(stats_of(arena).capacity == 256 * MiB && stats_of(arena).max_capacity == 256 * MiB);
    thole_arena_destroy(arena);
  }
}

void an_arena_grows_to_its_max_bytes_and_trims_what_it_has_grown_by() {
  const Rig rig;
  thole_arena_options options{};
  options.bytes = MiB;
  options.max_bytes = 3 * MiB;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  OK(thole_arena_create(rig.device, &options, &arena));
  OK(thole_heap_create(arena, nullptr, &heap));
  CHECK(stats_of(arena).capacity == MiB && stats_of(arena).max_capacity == 3 * MiB);
  void* data = nullptr;
  OK(thole_allocate(heap, 2 * MiB, 0, &data));
  CHECK(stats_of(arena).capacity == 3 * MiB);
  OK(thole_deallocate(heap, data));
  std::size_t bytes = 7;
  OK(thole_arena_trim(arena, &bytes));
  CHECK(bytes == 2 * MiB && stats_of(arena).capacity == MiB);
  OK(thole_arena_trim(arena, nullptr));
  thole_heap_destroy(heap);
  thole_arena_destroy(arena);
  options.max_bytes = 100;
  IS(thole_arena_create(rig.device, &options, &arena), THOLE_INVALID_ARGUMENT);
}

void a_core_dump_contains_an_arena_only_where_it_says_so() {
  thole_arena_options options{};
  options.bytes = MiB;
  CHECK(mapping_of(options).find(" dd ") != std::string::npos);
  for (const std::int32_t flag : {1, 2, -1}) {
    options.in_core_dumps = flag;
    CHECK(mapping_of(options).find(" dd ") == std::string::npos);
  }
}

/// Registered pages are the library's own, and no forked child has them; the driver's are as it makes them.
void an_arena_is_pinned_in_the_way_that_it_says() {
  thole_arena_options options{};
  options.bytes = MiB;
  CHECK(mapping_of(options).find(" dc ") != std::string::npos);
  options.pin_method = THOLE_HOST_ALLOC;
  CHECK(mapping_of(options).find(" dc ") == std::string::npos);
}

void a_numa_node_counts_only_where_it_is_asked_for() {
  const Rig rig;
  thole_arena_options options{};
  options.bytes = MiB;
  options.numa_node = 1 << 20;
  thole_arena* arena = nullptr;
  OK(thole_arena_create(rig.device, &options, &arena));
  thole_arena_destroy(arena);
  for (const std::int32_t flag : {1, 2, -1}) {
    options.on_numa_node = flag;
    IS(thole_arena_create(rig.device, &options, &arena), THOLE_INVALID_ARGUMENT);
    CHECK(last_says("no NUMA node 1048576"));
  }
}

void all_memory_of_a_heap_has_its_alignment() {
  const Rig rig;
  thole_arena* arena = nullptr;
  OK(thole_arena_create(rig.device, nullptr, &arena));  // large enough for mimalloc, which packs small blocks
  for (const std::size_t alignment : {std::size_t{0}, std::size_t{8}, std::size_t{1024}}) {
    thole_heap_options options{};
    options.alignment = alignment;
    thole_heap* heap = nullptr;
    OK(thole_heap_create(arena, &options, &heap));
    void* made[20] = {};  // of a small size, so that not all start a page
    for (void*& data : made) {
      const bool usual = &data < made + 10;
      OK(thole_allocate(heap, 8, usual ? 0 : 8, &data));
      const std::size_t least = usual ? 64 : 8;
      CHECK(reinterpret_cast<std::uintptr_t>(data) % (alignment > least ? alignment : least) == 0);
    }
    for (void* const data : made) OK(thole_deallocate(heap, data));
    thole_heap_destroy(heap);
  }
  thole_arena_destroy(arena);
}

void a_heap_reclaims_by_itself_only_where_it_is_asked_to() {
  for (const std::int32_t background : {0, 1, 2, -1}) {
    const Rig rig;
    thole_heap_options options{};
    options.background_reclaim = background;
    thole_heap* heap = nullptr;
    OK(thole_heap_create(rig.arena, &options, &heap));
    void* data = nullptr;
    OK(thole_allocate(heap, 4096, 0, &data));
    OK(thole_record_use(heap, data, rig.stream, THOLE_READS));
    OK(thole_deallocate(heap, data));
    thole_heap_stats stats{};
    do {  // the library's thread asks, and brings it
      OK(thole_simulation_run_all(rig.device, nullptr));
      OK(thole_heap_get_stats(heap, &stats));
    } while (background != 0 && stats.in_flight != 0);
    if (background == 0) CHECK(stats.in_flight == 4096);
    thole_heap_destroy(heap);
  }
}

/// What runs by itself is done in the end; what is stepped is not, however often somebody asks.
void a_simulated_device_is_stepped_only_where_it_is_asked_to() {
  for (const std::int32_t stepped : {0, 1, 2, -1}) {
    thole_simulation_options options{};
    options.stepped = stepped;
    thole_device* device = nullptr;
    thole_arena* arena = nullptr;
    thole_heap* heap = nullptr;
    thole_stream* stream = nullptr;
    void* data = nullptr;
    thole_arena_options arena_options{};
    arena_options.bytes = MiB;
    OK(thole_device_simulated(&options, &device));
    OK(thole_arena_create(device, &arena_options, &arena));
    OK(thole_heap_create(arena, nullptr, &heap));
    OK(thole_stream_create(device, 0, &stream));
    OK(thole_allocate(heap, 4096, 0, &data));
    OK(thole_record_use(heap, data, stream, THOLE_READS));
    if (stepped == 0) OK(thole_heap_drain(heap, THOLE_FOREVER));
    int done = 0;
    for (int i = 0; stepped != 0 && i != 10000; ++i) done += thole_heap_drain(heap, 0) == THOLE_OK ? 1 : 0;
    CHECK(done == 0);
    OK(thole_simulation_run_all(device, nullptr));
    OK(thole_heap_drain(heap, 0));
    OK(thole_deallocate(heap, data));
    thole_stream_destroy(stream);
    thole_heap_destroy(heap);
    thole_arena_destroy(arena);
    thole_device_destroy(device);
  }
}

void a_simulated_device_pins_no_more_than_it_may() {
  thole_device* const device = device_that_pins(4 * MiB);
  OK(can_pin(device, 4 * MiB));
  IS(can_pin(device, 5 * MiB), THOLE_LIMIT);
  thole_device_destroy(device);
}

void a_gpu_has_at_most_32_connections() {
  thole_device_options options{};
  options.connections = 33;
  thole_device* device = nullptr;
  IS(thole_device_cuda(0, &options, &device), THOLE_INVALID_ARGUMENT);
  CHECK(device == nullptr && last_says("33 connections"));
  IS(thole_device_cuda(100000, nullptr, &device), THOLE_NO_DEVICE);
  CHECK(device == nullptr && last_says("100000"));
}

void the_best_device_is_the_one_that_the_environment_names() {
  thole_device* device = nullptr;
  setenv("THOLE_DEVICE", "abacus", 1);
  IS(thole_device_best(&device), THOLE_INVALID_ARGUMENT);
  CHECK(device == nullptr && last_says("abacus"));
  setenv("THOLE_DEVICE", "simulated", 1);
  OK(thole_device_best(&device));
  CHECK(std::string(thole_device_name(device)) == "simulated");
  thole_device_destroy(device);
  unsetenv("THOLE_DEVICE");
}

/// Each keeps what it was made from, and gives back what it held, by whatever handle that goes last.
void memory_is_pinned_as_long_as_its_arena_a_heap_or_a_block_is_there() {
  thole_device* const device = device_that_pins(4 * MiB);
  thole_arena_options options{};
  options.bytes = 3 * MiB;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  thole_heap* other = nullptr;
  OK(thole_arena_create(device, &options, &arena));
  OK(thole_heap_create(arena, nullptr, &heap));
  OK(thole_heap_create(arena, nullptr, &other));
  IS(can_pin(device, 2 * MiB), THOLE_LIMIT);
  thole_heap_destroy(other);
  thole_arena_destroy(arena);
  IS(can_pin(device, 2 * MiB), THOLE_LIMIT);
  void* data = nullptr;
  OK(thole_allocate(heap, 4096, 0, &data));
  OK(thole_deallocate(heap, data));
  thole_heap_destroy(heap);
  OK(can_pin(device, 4 * MiB));

  OK(thole_arena_create(device, &options, &arena));
  OK(thole_heap_create(arena, nullptr, &heap));
  OK(thole_allocate(heap, 4096, 0, &data));
  thole_arena_destroy(arena);
  thole_heap_destroy(heap);
  std::memset(data, 1, 4096);  // it stays usable, and nobody can give it back
  IS(can_pin(device, 2 * MiB), THOLE_LIMIT);
  thole_device_destroy(device);
}

void what_an_arena_leaves_stays_pinned_until_the_device_trims() {
  thole_device* const device = device_that_pins(4 * MiB);
  OK(can_pin(device, 2 * MiB));
  std::size_t bytes = 7;
  OK(thole_device_trim_pinned(device, &bytes));
  CHECK(bytes == 2 * MiB);
  OK(thole_device_trim_pinned(device, &bytes));
  CHECK(bytes == 0);
  OK(thole_device_trim_pinned(device, nullptr));
  thole_device_destroy(device);
}

/// What arenas have left goes with the last handle that keeps the device, here the device's own.
void the_pages_go_with_the_device() {
  thole_device* const device = device_that_pins(4 * MiB);
  thole_arena_options options{};
  options.bytes = MiB;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  void* data = nullptr;
  OK(thole_arena_create(device, &options, &arena));
  OK(thole_heap_create(arena, nullptr, &heap));
  OK(thole_allocate(heap, 4096, 0, &data));
  OK(thole_deallocate(heap, data));
  thole_heap_destroy(heap);
  thole_arena_destroy(arena);
  CHECK(mapped_as(data).find(" rd ") != std::string::npos);
  thole_device_destroy(device);
  CHECK(mapped_as(data).find(" rd ") == std::string::npos);
}

void a_stream_ends_with_its_handle_and_not_with_a_view() {
  const Rig rig;
  void* native = nullptr;
  thole_stream* view = nullptr;
  OK(thole_stream_native(rig.stream, &native));
  OK(thole_stream_from_native(rig.device, native, &view));
  thole_stream_destroy(view);
  OK(thole_stream_from_native(rig.device, native, &view));
  thole_stream_destroy(view);
  thole_stream* own = nullptr;
  OK(thole_stream_create(rig.device, -1, &own));
  OK(thole_stream_native(own, &native));
  thole_stream_destroy(own);
  while (thole_stream_from_native(rig.device, native, &view) == THOLE_OK)
    thole_stream_destroy(view);  // a thread ends it
  CHECK(last_says("no such stream"));
}

}  // namespace

int main() {
  an_arena_has_256_MiB_where_nothing_else_is_said();
  an_arena_grows_to_its_max_bytes_and_trims_what_it_has_grown_by();
  if (THOLE_TEST_SANITIZED == 0) {  // they map memory in ways of their own
    a_core_dump_contains_an_arena_only_where_it_says_so();
    an_arena_is_pinned_in_the_way_that_it_says();
    the_pages_go_with_the_device();
  }
  a_numa_node_counts_only_where_it_is_asked_for();
  all_memory_of_a_heap_has_its_alignment();
  a_heap_reclaims_by_itself_only_where_it_is_asked_to();
  a_simulated_device_is_stepped_only_where_it_is_asked_to();
  a_simulated_device_pins_no_more_than_it_may();
  a_gpu_has_at_most_32_connections();
  the_best_device_is_the_one_that_the_environment_names();
  memory_is_pinned_as_long_as_its_arena_a_heap_or_a_block_is_there();
  what_an_arena_leaves_stays_pinned_until_the_device_trims();
  a_stream_ends_with_its_handle_and_not_with_a_view();
  return failures == 0 ? 0 : 1;
}

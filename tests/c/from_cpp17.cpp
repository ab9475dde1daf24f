// <thole/thole.h> in C++17 without exceptions: the rules of each call, on a device whose progress the test decides.

#include <thole/thole.h>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "rig.hpp"

namespace {

void the_version_is_the_projects() {
  const std::string text = thole_version_text();
  CHECK(text == THOLE_TEST_VERSION);
  CHECK(text == std::to_string(thole_version() / 10000) + "." + std::to_string(thole_version() / 100 % 100) + "." +
                    std::to_string(thole_version() % 100));
}

void memory_is_pinned_found_and_comes_back() {
  const Rig rig;
  CHECK(std::string(thole_device_name(rig.device)) == "simulated");
  OK(thole_device_check(rig.device));
  void* data = nullptr;
  OK(thole_allocate(rig.heap, 1000, 4096, &data));
  CHECK(reinterpret_cast<std::uintptr_t>(data) % 4096 == 0);
  std::memset(data, 1, 1000);
  OK(thole_arena_contains(rig.arena, data));
  IS(thole_arena_contains(rig.arena, &rig), THOLE_NOT_FOUND);
  thole_block block{};
  OK(thole_find(rig.heap, static_cast<char*>(data) + 999, &block));
  CHECK(block.data == data && block.bytes == 1000 && block.in_flight == 0);
  thole_arena_stats arena{};
  OK(thole_arena_get_stats(rig.arena, &arena));
  CHECK(arena.capacity >= std::size_t{1} << 20 && arena.in_use >= 1000 && arena.regions == 1);
  OK(thole_deallocate(rig.heap, data));
  IS(thole_deallocate(rig.heap, data), THOLE_NOT_FOUND);
  OK(thole_deallocate(rig.heap, nullptr));
  data = &block;
  OK(thole_allocate(rig.heap, 0, 0, &data));
  CHECK(data == nullptr);
  thole_heap_stats heap{};
  OK(thole_heap_get_stats(rig.heap, &heap));
  CHECK(heap.made == 1 && heap.in_use == 0 && heap.freed_at_once == 1);
  CHECK(rig.all_free());
}

void a_recorded_use_keeps_the_memory_until_the_device_is_done() {
  const Rig rig;
  for (const thole_access access : {THOLE_READS, THOLE_WRITES}) {
    void* const data = rig.allocate(std::size_t{1} << 20);
    OK(thole_record_use(rig.heap, static_cast<char*>(data) + 100, rig.stream, access));
    CHECK(rig.in_flight(data));
    IS(thole_wait_for(rig.heap, data, THOLE_WRITES, 0), THOLE_TIMED_OUT);
    IS(thole_wait_for(rig.heap, data, THOLE_READS, 0), access == THOLE_READS ? THOLE_OK : THOLE_TIMED_OUT);
    IS(thole_heap_drain(rig.heap, 0), THOLE_TIMED_OUT);
    IS(thole_stream_synchronize(rig.stream, 0), THOLE_TIMED_OUT);
    OK(thole_deallocate(rig.heap, data));
    CHECK(!rig.all_free());
    OK(thole_simulation_run_all(rig.device, nullptr));
    OK(thole_heap_drain(rig.heap, THOLE_FOREVER));
    CHECK(rig.all_free());
  }
}

void memory_waits_for_the_stream_on_which_it_is_given_back() {
  const Rig rig;
  void* const data = rig.allocate(std::size_t{1} << 20);
  OK(thole_deallocate_on(rig.heap, data, rig.stream));
  CHECK(!rig.all_free());
  std::size_t done = 0;
  while (thole_simulation_step(rig.device, rig.stream, 1, &done) == THOLE_OK && done != 0) {
  }
  std::size_t reclaimed = 0;
  OK(thole_heap_collect(rig.heap, &reclaimed));
  CHECK(reclaimed == 1);
  CHECK(rig.all_free());
}

void memory_waits_for_all_that_the_device_was_given() {
  const Rig rig;
  thole_stream* other = nullptr;
  OK(thole_stream_create(rig.device, 0, &other));
  void* const busy = rig.allocate();
  OK(thole_record_use(rig.heap, busy, other, THOLE_READS));
  CHECK(rig.in_flight(busy));  // marks its end in the stream: until then the device has nothing to do
  OK(thole_deallocate_after_all(rig.heap, rig.allocate(std::size_t{1} << 19)));
  IS(thole_deallocate_after_all(rig.heap, &other), THOLE_NOT_FOUND);
  void* most = nullptr;
  IS(thole_allocate(rig.heap, std::size_t{600} << 10, 0, &most), THOLE_OUT_OF_MEMORY);  // what `busy` leaves has room
  OK(thole_deallocate(rig.heap, most));
  OK(thole_deallocate(rig.heap, busy));
  CHECK(!rig.all_free());
  OK(thole_simulation_run_all(rig.device, nullptr));
  while (!rig.all_free()) OK(thole_heap_collect(rig.heap, nullptr));  // the library's thread brings it
  thole_stream_destroy(other);
}

void a_function_enqueues_work_as_one_use() {
  const Rig rig;
  struct Seen {
    const Rig* rig;
    void* data;
    void* native;
    thole_status write_beside;
  } seen{&rig, rig.allocate(), nullptr, THOLE_OK};
  const auto enqueue = [](void* context, void* native) {
    auto& here = *static_cast<Seen*>(context);
    here.native = native;
    here.write_beside = thole_wait_for(here.rig->heap, here.data, THOLE_WRITES, 0);
  };
  void* native = nullptr;
  OK(thole_stream_native(rig.stream, &native));
  OK(thole_use_on(rig.heap, seen.data, rig.stream, THOLE_WRITES, enqueue, &seen));
  CHECK(seen.native == native && native != nullptr);
  CHECK(seen.write_beside == THOLE_BORROWED);
  CHECK(rig.in_flight(seen.data));
  IS(thole_use_on(rig.heap, &seen, rig.stream, THOLE_READS, enqueue, &seen), THOLE_NOT_FOUND);
  OK(thole_simulation_run_all(rig.device, nullptr));
  CHECK(!rig.in_flight(seen.data));
  OK(thole_deallocate(rig.heap, seen.data));
}

void a_native_stream_has_one_view_and_many_handles() {
  const Rig rig;
  void* native = nullptr;
  OK(thole_stream_native(rig.stream, &native));
  thole_stream* view = nullptr;
  OK(thole_stream_from_native(rig.device, native, &view));
  void* again = nullptr;
  OK(thole_stream_native(view, &again));
  CHECK(native == again);
  void* const data = rig.allocate();
  OK(thole_record_use(rig.heap, data, view, THOLE_READS));
  CHECK(rig.in_flight(data));
  thole_stream_destroy(view);
  OK(thole_simulation_run_all(rig.device, nullptr));
  OK(thole_stream_synchronize(rig.stream, THOLE_FOREVER));
  CHECK(!rig.in_flight(data));
  OK(thole_deallocate(rig.heap, data));
  IS(thole_stream_from_native(rig.device, &view, &view), THOLE_DEVICE_ERROR);
}

void what_cannot_be_is_a_code_and_a_text_and_changes_nothing() {
  const Rig rig;
  void* untouched = &failures;
  IS(thole_allocate(rig.heap, std::size_t{8} << 20, 0, &untouched), THOLE_TOO_LARGE);
  CHECK(last_says("8388608"));
  const std::string kept = thole_last_error();
  IS(thole_allocate(rig.heap, 64, 96, &untouched), THOLE_INVALID_ARGUMENT);
  CHECK(last_says("96") && kept != thole_last_error());
  CHECK(untouched == &failures);
  thole_heap_options heap_options{};
  heap_options.alignment = 3;
  thole_heap* heap = nullptr;
  IS(thole_heap_create(rig.arena, &heap_options, &heap), THOLE_INVALID_ARGUMENT);
  CHECK(heap == nullptr && last_says("3 bytes"));
  thole_arena_options arena_options{};
  arena_options.pin_method = 7;
  thole_arena* arena = nullptr;
  IS(thole_arena_create(rig.device, &arena_options, &arena), THOLE_INVALID_ARGUMENT);
  CHECK(arena == nullptr && last_says("7"));
  void* const data = rig.allocate();
  IS(thole_record_use(rig.heap, data, rig.stream, static_cast<thole_access>(0)), THOLE_INVALID_ARGUMENT);
  IS(thole_wait_for(rig.heap, data, static_cast<thole_access>(3), 0), THOLE_INVALID_ARGUMENT);
  CHECK(last_says("thole_wait_for") && last_says("3"));
  CHECK(!rig.in_flight(data));
  OK(thole_deallocate(rig.heap, data));
  thole_device* device = nullptr;
  IS(thole_device_cuda(-1, nullptr, &device), THOLE_NO_DEVICE);
  CHECK(device == nullptr);
  for (int status = 0; status != 102; ++status) CHECK(thole_status_text(static_cast<thole_status>(status)) != nullptr);
}

/// Addresses that are not the start of a block of this heap's, in each call.
void what_is_not_the_heaps_is_not_found_and_nothing_happens() {
  const Rig rig;
  thole_heap* other = nullptr;
  void* others = nullptr;
  OK(thole_heap_create(rig.arena, nullptr, &other));
  OK(thole_allocate(other, 4096, 0, &others));
  int called = 0;
  const auto enqueue = [](void* context, void*) { ++*static_cast<int*>(context); };
  for (void* const foreign : {static_cast<void*>(&called), others}) {
    IS(thole_deallocate(rig.heap, foreign), THOLE_NOT_FOUND);
    IS(thole_deallocate_on(rig.heap, foreign, rig.stream), THOLE_NOT_FOUND);
    IS(thole_deallocate_after_all(rig.heap, foreign), THOLE_NOT_FOUND);
    IS(thole_record_use(rig.heap, foreign, rig.stream, THOLE_READS), THOLE_NOT_FOUND);
    IS(thole_use_on(rig.heap, foreign, rig.stream, THOLE_READS, enqueue, &called), THOLE_NOT_FOUND);
    IS(thole_wait_for(rig.heap, foreign, THOLE_READS, 0), THOLE_NOT_FOUND);
    thole_block block{&called, 5, 7};
    IS(thole_find(rig.heap, foreign, &block), THOLE_NOT_FOUND);
    CHECK(block.data == &called && block.bytes == 5 && block.in_flight == 7);
  }
  CHECK(called == 0);
  OK(thole_deallocate(other, others));
  thole_heap_destroy(other);
  CHECK(rig.all_free());
}

void memory_is_given_back_where_it_starts_and_nothing_is_nothing() {
  const Rig rig;
  char* const data = static_cast<char*>(rig.allocate());
  IS(thole_deallocate(rig.heap, data + 1), THOLE_NOT_FOUND);
  IS(thole_deallocate_on(rig.heap, data + 64, rig.stream), THOLE_NOT_FOUND);
  IS(thole_deallocate_after_all(rig.heap, data + 4095), THOLE_NOT_FOUND);
  OK(thole_deallocate(rig.heap, nullptr));
  OK(thole_deallocate_on(rig.heap, nullptr, rig.stream));
  OK(thole_deallocate_after_all(rig.heap, nullptr));
  CHECK(!rig.in_flight(data));
  OK(thole_deallocate(rig.heap, data));
  CHECK(rig.all_free());
}

void a_deallocation_that_fails_leaves_the_memory_to_the_caller() {
  const Rig rig;
  void* const data = rig.allocate();
  OK(thole_simulation_lose_device(rig.device));
  thole_stream* stream = nullptr;
  IS(thole_stream_create(rig.device, 0, &stream), THOLE_DEVICE_LOST);  // meets it
  IS(thole_deallocate_on(rig.heap, data, rig.stream), THOLE_DEVICE_LOST);
  IS(thole_deallocate_after_all(rig.heap, data), THOLE_DEVICE_LOST);
  thole_block block{};
  OK(thole_find(rig.heap, data, &block));
  CHECK(block.data == data);
  OK(thole_deallocate(rig.heap, data));
}

/// A use through a function, once in each direction, and calls of it that cannot be.
void a_function_is_called_once_and_what_it_enqueues_is_a_use_of_its_direction() {
  const Rig rig;
  char* const data = static_cast<char*>(rig.allocate());
  int called = 0;
  const auto enqueue = [](void* context, void*) { ++*static_cast<int*>(context); };
  OK(thole_use_on(rig.heap, data + 100, rig.stream, THOLE_READS, enqueue, &called));
  CHECK(called == 1);
  OK(thole_wait_for(rig.heap, data, THOLE_READS, 0));
  IS(thole_wait_for(rig.heap, data, THOLE_WRITES, 0), THOLE_TIMED_OUT);
  OK(thole_use_on(rig.heap, data, rig.stream, THOLE_WRITES, enqueue, &called));
  CHECK(called == 2);
  IS(thole_wait_for(rig.heap, data, THOLE_READS, 0), THOLE_TIMED_OUT);
  IS(thole_use_on(rig.heap, data, rig.stream, static_cast<thole_access>(3), enqueue, &called), THOLE_INVALID_ARGUMENT);
  CHECK(called == 2 && last_says("thole_use_on"));
  OK(thole_simulation_run_all(rig.device, nullptr));
  OK(thole_wait_for(rig.heap, data, THOLE_WRITES, 0));
  OK(thole_deallocate(rig.heap, data));
}

/// A late device completes nothing for a while.
void what_waits_waits_for_the_device() {
  setenv("THOLE_SIMULATION", "late", 1);
  thole_device* device = nullptr;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  thole_stream* stream = nullptr;
  thole_arena_options options{};
  options.bytes = 4096;
  OK(thole_device_simulated(nullptr, &device));
  OK(thole_arena_create(device, &options, &arena));
  OK(thole_heap_create(arena, nullptr, &heap));
  OK(thole_stream_create(device, 0, &stream));
  void* data = nullptr;
  OK(thole_allocate(heap, 4096, 0, &data));
  constexpr std::int64_t hour = std::int64_t{3600} * 1000 * 1000 * 1000;
  for (const std::int64_t time : {hour, THOLE_FOREVER})
    for (int call = 0; call != 3; ++call) {
      OK(thole_record_use(heap, data, stream, THOLE_WRITES));
      if (call == 0) OK(thole_wait_for(heap, data, THOLE_READS, time));
      if (call == 1) OK(thole_heap_drain(heap, time));
      if (call == 2) OK(thole_stream_synchronize(stream, time));
      OK(thole_wait_for(heap, data, THOLE_WRITES, 0));
    }
  OK(thole_deallocate(heap, data));
  thole_stream_destroy(stream);
  thole_heap_destroy(heap);
  thole_arena_destroy(arena);
  thole_device_destroy(device);
  unsetenv("THOLE_SIMULATION");
}

/// Each call that makes something or says something, where it fails.
void a_call_that_fails_writes_nothing() {
  const Rig rig;
  thole_device* device = rig.device;
  thole_device_options connections{};
  connections.connections = -1;
  IS(thole_device_cuda(0, &connections, &device), THOLE_INVALID_ARGUMENT);
  thole_arena* arena = rig.arena;
  thole_arena_options arena_options{};
  arena_options.pin_method = 2;
  IS(thole_arena_create(rig.device, &arena_options, &arena), THOLE_INVALID_ARGUMENT);
  thole_heap* heap = rig.heap;
  thole_heap_options heap_options{};
  heap_options.alignment = 8192;
  IS(thole_heap_create(rig.arena, &heap_options, &heap), THOLE_INVALID_ARGUMENT);
  thole_stream* stream = rig.stream;
  int none = 0;
  IS(thole_stream_from_native(rig.device, &none, &stream), THOLE_DEVICE_ERROR);
  void* data = &none;
  for (const int wanted : {1, 2, 3, 63, 96, 8192}) {
    const bool good = wanted <= 2;  // powers of two
    void* made = &none;
    IS(thole_allocate(rig.heap, 64, static_cast<std::size_t>(wanted), &made), good ? THOLE_OK : THOLE_INVALID_ARGUMENT);
    CHECK((made == &none) == !good);
    if (good) OK(thole_deallocate(rig.heap, made));
  }
  OK(thole_simulation_lose_device(rig.device));
  IS(thole_stream_create(rig.device, 0, &stream), THOLE_DEVICE_LOST);
  IS(thole_allocate(rig.heap, 64, 0, &data), THOLE_DEVICE_LOST);
  CHECK(device == rig.device && arena == rig.arena && heap == rig.heap && stream == rig.stream && data == &none);
}

/// Each parameter that must not be NULL, once.
void null_is_an_error_that_names_the_parameter() {
  const Rig rig;
  void* data = rig.allocate();
  thole_block block{};
  const auto is_null = [](thole_status status, const std::string& call, const char* name, int line) {
    const std::string text = call.substr(0, call.find('(')) + ": " + name + " is NULL: invalid argument";
    check(status == THOLE_INVALID_ARGUMENT && text == thole_last_error(), name, line);
  };
#define IS_NULL(call, name) is_null((call), #call, name, __LINE__)
  const auto nothing = [](void*, void*) {};
  IS_NULL(thole_device_cuda(0, nullptr, nullptr), "`made`");
  IS_NULL(thole_device_simulated(nullptr, nullptr), "`made`");
  IS_NULL(thole_device_best(nullptr), "`made`");
  IS_NULL(thole_device_check(nullptr), "device");
  IS_NULL(thole_device_take_error(nullptr), "device");
  IS_NULL(thole_device_trim_pinned(nullptr, nullptr), "device");
  CHECK(*thole_device_name(nullptr) == '\0');
  IS_NULL(thole_arena_create(nullptr, nullptr, nullptr), "device");
  IS_NULL(thole_arena_create(rig.device, nullptr, nullptr), "`made`");
  IS_NULL(thole_arena_get_stats(nullptr, nullptr), "arena");
  IS_NULL(thole_arena_get_stats(rig.arena, nullptr), "stats");
  IS_NULL(thole_arena_contains(nullptr, data), "arena");
  IS_NULL(thole_arena_trim(nullptr, nullptr), "arena");
  IS_NULL(thole_heap_create(nullptr, nullptr, nullptr), "arena");
  IS_NULL(thole_heap_create(rig.arena, nullptr, nullptr), "`made`");
  IS_NULL(thole_heap_get_stats(nullptr, nullptr), "heap");
  IS_NULL(thole_heap_get_stats(rig.heap, nullptr), "stats");
  IS_NULL(thole_heap_collect(nullptr, nullptr), "heap");
  IS_NULL(thole_heap_drain(nullptr, 0), "heap");
  IS_NULL(thole_stream_create(nullptr, 0, nullptr), "device");
  IS_NULL(thole_stream_create(rig.device, 0, nullptr), "`made`");
  IS_NULL(thole_stream_from_native(nullptr, nullptr, nullptr), "device");
  IS_NULL(thole_stream_native(nullptr, &data), "stream");
  IS_NULL(thole_stream_native(rig.stream, nullptr), "native");
  IS_NULL(thole_stream_synchronize(nullptr, 0), "stream");
  IS_NULL(thole_allocate(nullptr, 1, 0, &data), "heap");
  IS_NULL(thole_allocate(rig.heap, 1, 0, nullptr), "data");
  IS_NULL(thole_deallocate(nullptr, data), "heap");
  IS_NULL(thole_deallocate_on(nullptr, data, rig.stream), "heap");
  IS_NULL(thole_deallocate_on(rig.heap, data, nullptr), "stream");
  IS_NULL(thole_deallocate_after_all(nullptr, data), "heap");
  IS_NULL(thole_record_use(nullptr, data, rig.stream, THOLE_READS), "heap");
  IS_NULL(thole_record_use(rig.heap, data, nullptr, THOLE_READS), "stream");
  IS_NULL(thole_use_on(nullptr, data, rig.stream, THOLE_READS, nothing, nullptr), "heap");
  IS_NULL(thole_use_on(rig.heap, data, nullptr, THOLE_READS, nothing, nullptr), "stream");
  IS_NULL(thole_use_on(rig.heap, data, rig.stream, THOLE_READS, nullptr, nullptr), "enqueue");
  IS_NULL(thole_find(nullptr, data, &block), "heap");
  IS_NULL(thole_find(rig.heap, data, nullptr), "block");
  IS_NULL(thole_wait_for(nullptr, data, THOLE_READS, 0), "heap");
  IS_NULL(thole_simulation_step(nullptr, rig.stream, 1, nullptr), "device");
  IS_NULL(thole_simulation_step(rig.device, nullptr, 1, nullptr), "stream");
  IS_NULL(thole_simulation_run_all(nullptr, nullptr), "device");
  IS_NULL(thole_simulation_lose_device(nullptr), "device");
  thole_device_destroy(nullptr);
  thole_arena_destroy(nullptr);
  thole_heap_destroy(nullptr);
  thole_stream_destroy(nullptr);
  OK(thole_deallocate(rig.heap, data));
}

void a_device_that_is_lost_says_so() {
  const Rig rig;
  void* const data = rig.allocate();
  OK(thole_simulation_lose_device(rig.device));
  thole_stream* stream = nullptr;
  IS(thole_stream_create(rig.device, 0, &stream), THOLE_DEVICE_LOST);
  CHECK(stream == nullptr && last_says("lost"));
  IS(thole_device_check(rig.device), THOLE_DEVICE_LOST);
  IS(thole_record_use(rig.heap, data, rig.stream, THOLE_READS), THOLE_DEVICE_LOST);
  OK(thole_deallocate(rig.heap, data));
  OK(thole_device_take_error(rig.device));
}

/// Made before the thread's first error, so that it ends after the library has let go of that.
struct EndsLate {
  thole_status* status;
  bool* has_text;
  ~EndsLate() {
    if (status == nullptr) return;
    *status = thole_heap_drain(nullptr, 0);
    *has_text = *thole_last_error() != '\0';
  }
};
thread_local EndsLate ends_late{};

void a_thread_has_a_last_error_of_its_own_until_it_ends() {
  IS(thole_heap_drain(nullptr, 0), THOLE_INVALID_ARGUMENT);
  thole_status status = THOLE_OK;
  bool has_text = true;
  std::thread([&] {
    ends_late.status = &status;
    ends_late.has_text = &has_text;
    CHECK(*thole_last_error() == '\0');
    IS(thole_stream_synchronize(nullptr, 0), THOLE_INVALID_ARGUMENT);
    CHECK(last_says("thole_stream_synchronize"));
  }).join();
  CHECK(status == THOLE_INVALID_ARGUMENT && !has_text);
  CHECK(last_says("thole_heap_drain"));
}

}  // namespace

int main() {
  CHECK(*thole_last_error() == '\0');
  the_version_is_the_projects();
  memory_is_pinned_found_and_comes_back();
  a_recorded_use_keeps_the_memory_until_the_device_is_done();
  memory_waits_for_the_stream_on_which_it_is_given_back();
  memory_waits_for_all_that_the_device_was_given();
  a_function_enqueues_work_as_one_use();
  a_native_stream_has_one_view_and_many_handles();
  what_cannot_be_is_a_code_and_a_text_and_changes_nothing();
  what_is_not_the_heaps_is_not_found_and_nothing_happens();
  memory_is_given_back_where_it_starts_and_nothing_is_nothing();
  a_deallocation_that_fails_leaves_the_memory_to_the_caller();
  a_function_is_called_once_and_what_it_enqueues_is_a_use_of_its_direction();
  what_waits_waits_for_the_device();
  a_call_that_fails_writes_nothing();
  null_is_an_error_that_names_the_parameter();
  a_device_that_is_lost_says_so();
  a_thread_has_a_last_error_of_its_own_until_it_ends();
  return failures == 0 ? 0 : 1;
}

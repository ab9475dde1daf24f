// What <thole/thole.h> says of itself: snapshots, counts, codes in words, and texts of errors.

#include <thole/thole.h>
#include <cstdint>
#include <string>

#include "rig.hpp"

namespace {

constexpr std::size_t KiB = 1024;

/// The first who asks for a use marks its end in the stream.
void complete(const Rig& rig, thole_heap* heap) {
  OK(thole_heap_collect(heap, nullptr));
  OK(thole_simulation_run_all(rig.device, nullptr));
}

/// An arena that grows by what it needs, and blocks in each of their states; no two figures are the same.
void each_figure_of_an_arena_is_its_own() {
  const Rig rig;
  thole_arena_options options{};
  options.bytes = 1024 * KiB;
  options.max_bytes = 8192 * KiB;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  OK(thole_arena_create(rig.device, &options, &arena));
  OK(thole_heap_create(arena, nullptr, &heap));
  const auto stats = [&] {
    thole_arena_stats now{};
    OK(thole_arena_get_stats(arena, &now));
    return now;
  };
  thole_arena_stats now = stats();
  CHECK(now.capacity == 1024 * KiB && now.max_capacity == 8192 * KiB && now.regions == 1 && now.grown == 0);
  CHECK(now.largest_free == 1024 * KiB && now.in_use == 0 && now.in_flight == 0 && now.wasted == 0);

  void* large = nullptr;
  void* small = nullptr;
  OK(thole_allocate(heap, 700 * KiB - 1000, 0, &large));
  now = stats();
  CHECK(now.in_use >= 700 * KiB - 1000 && now.in_use + now.largest_free <= 1024 * KiB && now.wasted >= 1000);
  CHECK(now.wasted < now.in_use && now.largest_free >= 300 * KiB && now.peak >= now.in_use);
  OK(thole_allocate(heap, 30 * KiB, 0, &small));
  CHECK(stats().in_use >= now.in_use + 30 * KiB && stats().peak >= stats().in_use);
  OK(thole_record_use(heap, small, rig.stream, THOLE_READS));
  OK(thole_deallocate(heap, small));
  CHECK(stats().in_use == now.in_use && stats().in_flight >= 30 * KiB && stats().in_flight < 60 * KiB);
  const std::size_t peak = stats().peak;
  CHECK(peak >= 730 * KiB - 1000 && peak < stats().capacity);
  complete(rig, heap);
  OK(thole_heap_collect(heap, nullptr));
  CHECK(stats().in_flight == 0 && stats().cached >= 30 * KiB && stats().cached < 150 * KiB && stats().peak >= peak);
  CHECK(stats().in_use + stats().cached + stats().largest_free <= 1024 * KiB && stats().largest_free > 150 * KiB);

  void* more = nullptr;
  for (std::size_t grown = 1; grown != 4; ++grown) {  // regions and growths count on: one more is not the number itself
    OK(thole_allocate(heap, 1024 * KiB, 0, &more));
    if (stats().grown != grown) break;
    CHECK(stats().regions == grown + 1);
  }
  now = stats();
  CHECK(now.grown >= 1 && now.regions == now.grown + 1 && now.capacity > 1024 * KiB && now.capacity <= 8192 * KiB);
  OK(thole_deallocate(heap, more));
  OK(thole_deallocate(heap, large));
  CHECK(stats().peak > stats().in_use + stats().in_flight && stats().in_use < now.in_use);
  thole_heap_destroy(heap);
  OK(thole_arena_trim(arena, nullptr));
  CHECK(stats().grown == now.grown && stats().peak >= now.in_use);
  thole_arena_destroy(arena);
}

/// Three kinds of allocations, so many of each that no two counts are the same.
void each_figure_of_a_heap_is_its_own() {
  const Rig rig;
  const auto stats = [&] {
    thole_heap_stats now{};
    OK(thole_heap_get_stats(rig.heap, &now));
    return now;
  };
  OK(thole_deallocate(rig.heap, rig.allocate(512 * KiB)));  // at once
  for (int i = 0; i != 3; ++i) {                            // deferred, and reclaimed
    void* const data = rig.allocate();
    OK(thole_record_use(rig.heap, data, rig.stream, THOLE_READS));
    OK(thole_deallocate(rig.heap, data));
  }
  std::size_t reclaimed = 7;
  OK(thole_heap_collect(rig.heap, &reclaimed));
  CHECK(reclaimed == 0);
  complete(rig, rig.heap);
  OK(thole_heap_collect(rig.heap, &reclaimed));
  CHECK(reclaimed == 3);
  OK(thole_heap_collect(rig.heap, nullptr));
  for (int i = 0; i != 2; ++i) {  // deferred, and in flight
    void* const data = rig.allocate(8 * KiB);
    OK(thole_record_use(rig.heap, data, rig.stream, THOLE_READS));
    OK(thole_deallocate(rig.heap, data));
  }
  void* const held = rig.allocate(64 * KiB);
  const thole_heap_stats now = stats();
  CHECK(now.in_use == 64 * KiB && now.in_flight == 16 * KiB && now.peak >= 512 * KiB);
  CHECK(now.made == 7 && now.freed_at_once == 1 && now.deferred == 5 && now.recycled == 3);
  OK(thole_deallocate(rig.heap, held));
  CHECK(stats().in_use == 0 && stats().freed_at_once == 2);
}

void operations_are_completed_one_by_one_in_the_stream_that_is_named() {
  const Rig rig;
  thole_stream* other = nullptr;
  OK(thole_stream_create(rig.device, 0, &other));
  void* const first = rig.allocate();
  void* const second = rig.allocate();
  void* const third = rig.allocate();
  void* const elsewhere = rig.allocate();
  OK(thole_record_use(rig.heap, elsewhere, other, THOLE_READS));
  CHECK(rig.in_flight(elsewhere));
  for (void* const data : {first, second, third}) {
    OK(thole_record_use(rig.heap, data, rig.stream, THOLE_READS));
    IS(thole_stream_synchronize(rig.stream, 0), THOLE_TIMED_OUT);  // marks its end in the stream: an operation each
  }
  std::size_t done = 7;
  OK(thole_simulation_step(rig.device, rig.stream, 0, &done));
  CHECK(done == 0 && rig.in_flight(first));
  OK(thole_simulation_step(rig.device, rig.stream, 1, nullptr));
  CHECK(!rig.in_flight(first) && rig.in_flight(second));
  OK(thole_simulation_step(rig.device, rig.stream, 100, &done));
  CHECK(done == 2 && !rig.in_flight(third) && rig.in_flight(elsewhere));
  OK(thole_simulation_run_all(rig.device, &done));
  CHECK(done == 1 && !rig.in_flight(elsewhere));
  thole_stream_destroy(other);
}

void a_stream_of_another_device_is_not_stepped() {
  const Rig rig;
  const Rig other;
  void* const data = other.allocate();
  OK(thole_record_use(other.heap, data, other.stream, THOLE_READS));
  CHECK(other.in_flight(data));
  std::size_t done = 7;
  IS(thole_simulation_step(rig.device, other.stream, 1, &done), THOLE_WRONG_DEVICE);
  CHECK(done == 7 && last_says("of one device (simulated), and the simulation of another (simulated)"));
  CHECK(other.in_flight(data));
  OK(thole_simulation_step(other.device, other.stream, 1, &done));
  CHECK(done == 1 && !other.in_flight(data));
  OK(thole_deallocate(other.heap, data));
}

/// A code's words are those that end the text of an error with it.
void a_code_has_words_of_its_own() {
  const std::string words[] = {"ok",        "invalid argument", "out of memory", "a limit of the system",
                               "too large", "too small",        "borrowed",      "in flight",
                               "timed out", "moved from",       "wrong device",  "no such device",
                               "capturing", "device lost",      "device error"};
  int status = THOLE_OK;
  for (const std::string& word : words) CHECK(word == thole_status_text(static_cast<thole_status>(status++)));
  CHECK(status == THOLE_DEVICE_ERROR + 1);
  CHECK(std::string(thole_status_text(THOLE_NOT_FOUND)) == "not found");
  CHECK(std::string(thole_status_text(THOLE_FAILED)) == "failed");
  for (const int none : {15, 99, 102, 127})
    CHECK(std::string(thole_status_text(static_cast<thole_status>(none))) == "unknown status");
  const Rig rig;
  void* data = nullptr;
  const thole_status large = thole_allocate(rig.heap, std::size_t{8} << 20, 0, &data);
  IS(large, THOLE_TOO_LARGE);
  CHECK(last_says(thole_status_text(large)));
  const thole_status late = thole_heap_drain(nullptr, 0);
  CHECK(last_says(thole_status_text(late)));
}

/// Calls that succeed, and answers that an address is not the heap's, leave the text of the last failure alone.
void a_last_error_stays_until_the_next() {
  const Rig rig;
  IS(thole_heap_drain(nullptr, 0), THOLE_INVALID_ARGUMENT);
  const std::string text = thole_last_error();
  OK(thole_heap_drain(rig.heap, 0));
  void* const data = rig.allocate();
  thole_block block{};
  IS(thole_deallocate(rig.heap, &block), THOLE_NOT_FOUND);
  IS(thole_deallocate_on(rig.heap, &block, rig.stream), THOLE_NOT_FOUND);
  IS(thole_find(rig.heap, &block, &block), THOLE_NOT_FOUND);
  IS(thole_arena_contains(rig.arena, &block), THOLE_NOT_FOUND);
  CHECK(text == thole_last_error());
  OK(thole_deallocate(rig.heap, data));
  CHECK(text == thole_last_error());
}

void a_time_is_in_nanoseconds() {
  const Rig rig;
  void* const data = rig.allocate();
  OK(thole_record_use(rig.heap, data, rig.stream, THOLE_WRITES));
  IS(thole_heap_drain(rig.heap, 1234), THOLE_TIMED_OUT);
  CHECK(last_says(" 1234 ns"));
  IS(thole_heap_drain(rig.heap, -5), THOLE_TIMED_OUT);
  IS(thole_wait_for(rig.heap, data, THOLE_READS, -5), THOLE_TIMED_OUT);
  IS(thole_stream_synchronize(rig.stream, -5), THOLE_TIMED_OUT);
  OK(thole_simulation_run_all(rig.device, nullptr));
  OK(thole_heap_drain(rig.heap, -5));
  OK(thole_wait_for(rig.heap, data, THOLE_READS, -5));
  OK(thole_deallocate(rig.heap, data));
}

void a_device_that_is_lost_names_itself() {
  const Rig rig;
  OK(thole_simulation_lose_device(rig.device));
  OK(thole_device_check(rig.device));  // nobody has met it
  thole_stream* stream = nullptr;
  IS(thole_stream_create(rig.device, 0, &stream), THOLE_DEVICE_LOST);
  IS(thole_device_check(rig.device), THOLE_DEVICE_LOST);
  CHECK(last_says("thole_device_check: simulated is lost"));
}

}  // namespace

int main() {
  each_figure_of_an_arena_is_its_own();
  each_figure_of_a_heap_is_its_own();
  operations_are_completed_one_by_one_in_the_stream_that_is_named();
  a_stream_of_another_device_is_not_stepped();
  a_code_has_words_of_its_own();
  a_last_error_stays_until_the_next();
  a_time_is_in_nanoseconds();
  a_device_that_is_lost_names_itself();
  return failures == 0 ? 0 : 1;
}

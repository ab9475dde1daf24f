#pragma once

// What the programs of this folder check with, in C++17 without exceptions, and a device whose progress they decide.

#include <thole/thole.h>
#include <cstddef>
#include <cstdio>
#include <cstring>

inline int failures = 0;

inline void check(bool good, const char* what, int line) {
  if (good) return;
  ++failures;
  std::printf("line %d: %s; the last error: \"%s\"\n", line, what, thole_last_error());
}
#define CHECK(condition) check((condition), #condition, __LINE__)

/// Whether the text begins with the name of the call, which is written as "thole_heap_drain(heap, 0)".
inline bool last_names(const char* call) {
  const std::size_t letters = std::strcspn(call, "(");
  const char* const text = thole_last_error();
  return std::strncmp(text, call, letters) == 0 && std::strncmp(text + letters, ": ", 2) == 0;
}
inline void check_status(thole_status status, thole_status wanted, const char* call, const char* what, int line) {
  check(status == wanted, what, line);
  if (status != THOLE_OK && status != THOLE_NOT_FOUND && std::strncmp(call, "thole_", 6) == 0)
    check(last_names(call), "the text does not begin with the name of the call", line);
}
#define IS(call, status) check_status((call), (status), #call, #call " is not " #status, __LINE__)
#define OK(call) IS(call, THOLE_OK)

inline bool last_says(const char* words) { return std::strstr(thole_last_error(), words) != nullptr; }

struct Rig {
  thole_device* device = nullptr;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  thole_stream* stream = nullptr;

  Rig() {
    thole_simulation_options simulation{};
    simulation.stepped = 1;
    thole_arena_options options{};
    options.bytes = std::size_t{1} << 20;
    OK(thole_device_simulated(&simulation, &device));
    OK(thole_arena_create(device, &options, &arena));
    OK(thole_heap_create(arena, nullptr, &heap));
    OK(thole_stream_create(device, 0, &stream));
  }
  ~Rig() {
    thole_device_destroy(device);  // in any order
    thole_arena_destroy(arena);
    thole_heap_destroy(heap);
    thole_stream_destroy(stream);
  }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  void* allocate(std::size_t bytes = 4096) const {
    void* data = nullptr;
    OK(thole_allocate(heap, bytes, 0, &data));
    return data;
  }
  bool in_flight(const void* data) const {
    thole_block block{};
    OK(thole_find(heap, data, &block));
    return block.in_flight != 0;
  }
  /// Whether all of the arena can be had, and gives it back.
  bool all_free() const {
    void* data = nullptr;
    const bool had = thole_allocate(heap, std::size_t{1} << 20, 0, &data) == THOLE_OK;
    if (had) OK(thole_deallocate(heap, data));
    return had;
  }
};

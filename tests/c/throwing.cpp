// A function of the caller's that throws, in a program with exceptions: none crosses <thole/thole.h>.

#include <thole/thole.h>
#include <cstring>
#include <new>
#include <stdexcept>

namespace {

struct Rig {
  thole_device* device = nullptr;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  thole_stream* stream = nullptr;
  void* data = nullptr;

  bool made() {
    thole_arena_options options{};
    options.bytes = 4096;
    return thole_device_simulated(nullptr, &device) == THOLE_OK &&
           thole_arena_create(device, &options, &arena) == THOLE_OK &&
           thole_heap_create(arena, nullptr, &heap) == THOLE_OK &&
           thole_stream_create(device, 0, &stream) == THOLE_OK && thole_allocate(heap, 64, 0, &data) == THOLE_OK;
  }
  ~Rig() {
    thole_stream_destroy(stream);
    thole_heap_destroy(heap);
    thole_arena_destroy(arena);
    thole_device_destroy(device);
  }
};

bool becomes(Rig& rig, void (*enqueue)(void*, void*), thole_status wanted, const char* words) {
  return thole_use_on(rig.heap, rig.data, rig.stream, THOLE_READS, enqueue, nullptr) == wanted &&
         std::strstr(thole_last_error(), words) != nullptr;
}

}  // namespace

int main() {
  Rig rig;
  if (!rig.made()) return 1;
  if (!becomes(
          rig, [](void*, void*) { throw std::runtime_error("the caller's own words"); }, THOLE_FAILED,
          "the caller's own words"))
    return 2;
  if (!becomes(
          rig, [](void*, void*) { throw 7; }, THOLE_FAILED, "thole_use_on"))
    return 3;
  if (!becomes(
          rig, [](void*, void*) { throw std::bad_alloc(); }, THOLE_OUT_OF_MEMORY, "no memory"))
    return 4;
  return thole_deallocate(rig.heap, rig.data) == THOLE_OK ? 0 : 5;
}

/* A program in C that uses the installed library. */

#include <stdio.h>
#include <thole/thole.h>

int main(void) {
  thole_device* device = NULL;
  thole_arena* arena = NULL;
  thole_heap* heap = NULL;
  void* data = NULL;
  const int good = thole_device_simulated(NULL, &device) == THOLE_OK &&
                   thole_arena_create(device, NULL, &arena) == THOLE_OK &&
                   thole_heap_create(arena, NULL, &heap) == THOLE_OK &&
                   thole_allocate(heap, 1000, 0, &data) == THOLE_OK && thole_deallocate(heap, data) == THOLE_OK;
  printf("thole %s from C: %s\n", thole_version_text(), good ? "memory there and back" : thole_last_error());
  thole_heap_destroy(heap);
  thole_arena_destroy(arena);
  thole_device_destroy(device);
  return good ? 0 : 1;
}

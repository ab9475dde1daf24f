// Pinned memory from C: pieces are allocated, handed to a stream, and given back at once, while the device may still
// read them. None is handed out again before it has.

#include <stdio.h>
#include <string.h>
#include <thole/thole.h>

enum { pieces = 100, piece_bytes = 1 << 20 };

// A program for a GPU calls cudaMemcpyAsync(there, piece, piece_bytes, cudaMemcpyHostToDevice, stream) here, or
// launches a kernel.
static void enqueue_work(void* piece, void* stream) {
  (void)piece;
  (void)stream;
}

static thole_status feed(const thole_heap* heap, const thole_stream* stream, int value) {
  void* piece = NULL;
  thole_status status = thole_allocate(heap, piece_bytes, 0, &piece);
  if (status == THOLE_OUT_OF_MEMORY) {  // all of it is in flight: wait for some
    status = thole_stream_synchronize(stream, THOLE_FOREVER);
    if (status == THOLE_OK) status = thole_allocate(heap, piece_bytes, 0, &piece);
  }
  if (status != THOLE_OK) return status;
  memset(piece, value, piece_bytes);
  status = thole_use_on(heap, piece, stream, THOLE_READS, enqueue_work, piece);
  if (status != THOLE_OK) return status;
  return thole_deallocate(heap, piece);  // returns at once
}

int main(void) {
  thole_device* device = NULL;
  thole_arena* arena = NULL;
  thole_heap* heap = NULL;
  thole_stream* stream = NULL;
  const thole_arena_options options = {.bytes = 8 * piece_bytes};

  thole_status status = thole_device_best(&device);
  if (status == THOLE_OK) status = thole_arena_create(device, &options, &arena);
  if (status == THOLE_OK) status = thole_heap_create(arena, NULL, &heap);
  if (status == THOLE_OK) status = thole_stream_create(device, 0, &stream);
  for (int i = 0; status == THOLE_OK && i != pieces; ++i) status = feed(heap, stream, i);
  if (status == THOLE_OK) status = thole_heap_drain(heap, THOLE_FOREVER);

  thole_heap_stats stats;
  if (status == THOLE_OK) status = thole_heap_get_stats(heap, &stats);
  if (status != THOLE_OK)
    fprintf(stderr, "%s\n", thole_last_error());
  else
    printf("thole %s on %s: %zu pieces of 1 MiB through 8 MiB of pinned memory, %zu bytes still out\n",
           thole_version_text(), thole_device_name(device), stats.made, stats.in_use + stats.in_flight);

  thole_stream_destroy(stream);  // in any order; NULL does nothing
  thole_heap_destroy(heap);
  thole_arena_destroy(arena);
  thole_device_destroy(device);
  return status == THOLE_OK ? 0 : 1;
}

#ifndef THOLE_THOLE_H
#define THOLE_THOLE_H

// thole for C, and for whatever calls C: C++ without exceptions, Rust, Python's ctypes, Julia. C99 and newer.
//
//     thole_device* device;
//     thole_arena* arena;
//     thole_heap* heap;
//     thole_stream* stream;
//     void* data;
//     if (thole_device_cuda(0, NULL, &device) != THOLE_OK) return fail(thole_last_error());
//     ... thole_arena_create(device, NULL, &arena), thole_heap_create(arena, NULL, &heap),
//     ... thole_stream_from_native(device, my_cuda_stream, &stream), thole_allocate(heap, bytes, 0, &data)
//     fill(data);
//     cudaMemcpyAsync(there, data, bytes, cudaMemcpyHostToDevice, my_cuda_stream);
//     thole_deallocate_on(heap, data, stream);  // returns at once; reused when the copy is done
//
// Memory is raw here: nothing checks borrows, and a use by the device is known only where it was recorded. That is what
// thole_deallocate() trusts: unlike cudaFreeHost, which waits for the device, it takes memory for free where nobody
// recorded anything. <thole/heap.hpp> has the same calls for C++, and says more of them.
//
// Each call that can fail returns a thole_status. Where it fails it writes nothing through its parameters, and
// thole_last_error() has the text (but for THOLE_NOT_FOUND, which is an answer). It begins with the call's name; what
// follows names calls as C++ has them, such as PinnedHeap::drain_for. Objects are made by a call with a last parameter
// `made`, which must not be NULL, and are the caller's, who destroys each once; they keep what they were made from, so
// that they may be destroyed in any order. A handle that is NULL is THOLE_INVALID_ARGUMENT; destroying NULL does
// nothing. No C++ exception leaves a call. Options that are NULL, or a member that is 0, mean the default. Sizes are
// bytes, times are nanoseconds; a time below 0 is over already.
//
// Thread safety: any thread may call anything, also with the same object, but for its destruction, and for memory that
// is being deallocated. A stream made from cudaStreamPerThread is the thread's that made it.

#include <stddef.h>
#include <stdint.h>

#define THOLE_C_EXPORT __attribute__((visibility("default")))
#ifdef __cplusplus
#define THOLE_C_NOEXCEPT noexcept
extern "C" {
#else
#define THOLE_C_NOEXCEPT
#endif

// ---- Errors

/// What went wrong; the first fourteen are those of `thole::Errc`.
typedef enum thole_status {
  THOLE_OK = 0,
  THOLE_INVALID_ARGUMENT = 1,  ///< A handle that is NULL, or a count, option or name that cannot be meant.
  THOLE_OUT_OF_MEMORY = 2,     ///< No pinned or device memory is left, or no memory of the system's.
  THOLE_LIMIT = 3,             ///< The system would not map or pin the memory.
  THOLE_TOO_LARGE = 4,         ///< More than the arena could ever hold.
  THOLE_TOO_SMALL = 5,         ///< A destination that holds less than the source.
  THOLE_BORROWED = 6,          ///< A function of thole_use_on() goes on and forbids the call.
  THOLE_IN_FLIGHT = 7,         ///< The call would have had to wait for the device.
  THOLE_TIMED_OUT = 8,         ///< The time that the caller gave has passed.
  THOLE_MOVED_FROM = 9,        ///< Not met in C.
  THOLE_WRONG_DEVICE = 10,     ///< A stream of another device, where that cannot be; any GPU's may use memory.
  THOLE_NO_DEVICE = 11,        ///< There is no such device.
  THOLE_CAPTURING = 12,        ///< The answer cannot be had until a graph capture has ended.
  THOLE_DEVICE_LOST = 13,      ///< The device has failed for good; nothing more runs on it.
  THOLE_DEVICE_ERROR = 14,     ///< The device refused one call; its own words are in the text.
  THOLE_NOT_FOUND = 100,       ///< The address lies in no memory that this heap has given.
  THOLE_FAILED = 101           ///< Something else, such as an exception that a caller's function threw.
} thole_status;

/// The text of the calling thread's last call that failed: it names the call and the numbers. "" where none has failed.
/// Valid until the thread's next call that fails; the library's. Never fails, never blocks.
THOLE_C_EXPORT const char* thole_last_error(void) THOLE_C_NOEXCEPT;
/// The code in words, such as "out of memory"; never NULL; lives for ever.
THOLE_C_EXPORT const char* thole_status_text(thole_status status) THOLE_C_NOEXCEPT;
/// The library's version: major * 10000 + minor * 100 + patch. Below 1.0 each minor version is compatible with itself
/// alone; the soname says so, too.
THOLE_C_EXPORT uint32_t thole_version(void) THOLE_C_NOEXCEPT;
/// The same as a text, "0.1.0"; lives for ever.
THOLE_C_EXPORT const char* thole_version_text(void) THOLE_C_NOEXCEPT;

// ---- Devices

/// A shared handle to one device.
typedef struct thole_device thole_device;

/// How a device waits: `thole::DeviceOptions`.
typedef struct thole_device_options {
  int32_t blocking_waits;  ///< Not 0: threads that wait sleep, instead of spinning.
  int32_t connections;     ///< Queues that the GPU has for all streams, 1 to 32; 0: as it is.
} thole_device_options;

/// How a simulated device behaves: `thole::SimulationOptions`.
typedef struct thole_simulation_options {
  size_t device_bytes;      ///< Device memory; 0: 4 GiB.
  size_t max_pinned_bytes;  ///< How much may be pinned; 0: any number.
  int32_t stepped;          ///< Not 0: nothing runs until thole_simulation_step() or _run_all().
  uint64_t seed;            ///< Picks the order of work in different streams.
} thole_simulation_options;

/// The GPU with this ordinal. Initialises CUDA on the first call, which may take a second. THOLE_NO_DEVICE.
THOLE_C_EXPORT thole_status thole_device_cuda(int32_t ordinal, const thole_device_options* options,
                                              thole_device** made) THOLE_C_NOEXCEPT;
/// A new simulated device: needs no GPU, driver or toolkit.
THOLE_C_EXPORT thole_status thole_device_simulated(const thole_simulation_options* options,
                                                   thole_device** made) THOLE_C_NOEXCEPT;
/// For trying things: obeys the environment variable THOLE_DEVICE (`cuda`, `cuda:N`, `simulated`), else a GPU if one
/// answers, else a simulated device.
THOLE_C_EXPORT thole_status thole_device_best(thole_device** made) THOLE_C_NOEXCEPT;
/// Never waits. What was made from the device keeps it.
THOLE_C_EXPORT void thole_device_destroy(thole_device* device) THOLE_C_NOEXCEPT;
/// The GPU's name, or "simulated"; "" where `device` is NULL. Lives as long as the handle.
THOLE_C_EXPORT const char* thole_device_name(const thole_device* device) THOLE_C_NOEXCEPT;
/// THOLE_OK, or THOLE_DEVICE_LOST once a call has met a sticky error, which ends the device. Asks nobody.
THOLE_C_EXPORT thole_status thole_device_check(const thole_device* device) THOLE_C_NOEXCEPT;
/// The first error that a destruction or a thread of the library's met since the last call; thole_last_error() then
/// says it, behind the name of this call. THOLE_OK: none.
THOLE_C_EXPORT thole_status thole_device_take_error(thole_device* device) THOLE_C_NOEXCEPT;
/// Unpins what arenas that are gone have left pinned; `bytes`, which may be NULL, says how much. Waits while any stream
/// of the process is busy, and meanwhile other calls of the driver do.
THOLE_C_EXPORT thole_status thole_device_trim_pinned(thole_device* device, size_t* bytes) THOLE_C_NOEXCEPT;

// ---- Arenas: pinned memory that heaps share

/// A shared handle to an arena.
typedef struct thole_arena thole_arena;

/// How an arena's memory becomes pinned.
typedef enum thole_pin_method {
  THOLE_REGISTER_PAGES = 0,  ///< Map pages and register them: the fast way.
  THOLE_HOST_ALLOC = 1       ///< Ask the driver, ten times slower, where registering fails.
} thole_pin_method;

/// What an arena is made with: `thole::ArenaOptions`.
typedef struct thole_arena_options {
  size_t bytes;           ///< Pinned at once; 0: 256 MiB.
  size_t max_bytes;       ///< It grows up to this when it is full; 0: never. A block lies in one stretch: the
                          ///< largest is the larger of `bytes` and what is left to grow by.
  int32_t pin_method;     ///< A thole_pin_method.
  int32_t on_numa_node;   ///< Not 0: the memory is bound to `numa_node`.
  int32_t numa_node;      ///< As the system counts them.
  int32_t in_core_dumps;  ///< Not 0: a core dump contains the memory.
} thole_arena_options;

/// A snapshot, in bytes where it does not say otherwise: `thole::ArenaStats`.
typedef struct thole_arena_stats {
  size_t capacity;      ///< Pinned now.
  size_t max_capacity;  ///< What it may grow to.
  size_t in_use;        ///< Given out.
  size_t in_flight;     ///< Given back, waiting for the device.
  size_t cached;        ///< Free, kept for the threads that used it.
  size_t largest_free;  ///< The largest free piece, caches not counted.
  size_t wasted;        ///< Rounding, and what cannot be used.
  size_t peak;          ///< The most that was ever taken, caches included.
  size_t regions;       ///< Count of registrations.
  size_t grown;         ///< How often it grew.
} thole_arena_stats;

/// Pins memory, which blocks for about 60 ms a GiB. THOLE_LIMIT, THOLE_OUT_OF_MEMORY, THOLE_INVALID_ARGUMENT.
THOLE_C_EXPORT thole_status thole_arena_create(const thole_device* device, const thole_arena_options* options,
                                               thole_arena** made) THOLE_C_NOEXCEPT;
/// Never waits. The memory lives until its heaps and all that they gave are gone, and the device is done with it.
THOLE_C_EXPORT void thole_arena_destroy(thole_arena* arena) THOLE_C_NOEXCEPT;
/// Takes microseconds.
THOLE_C_EXPORT thole_status thole_arena_get_stats(const thole_arena* arena, thole_arena_stats* stats) THOLE_C_NOEXCEPT;
/// THOLE_OK where the address lies in the arena's memory, else THOLE_NOT_FOUND.
THOLE_C_EXPORT thole_status thole_arena_contains(const thole_arena* arena, const void* data) THOLE_C_NOEXCEPT;
/// Unpins what the arena has grown by and that holds nothing; waits as thole_device_trim_pinned().
THOLE_C_EXPORT thole_status thole_arena_trim(thole_arena* arena, size_t* bytes) THOLE_C_NOEXCEPT;

// ---- Heaps

/// A handle to a heap: memory is allocated from it.
typedef struct thole_heap thole_heap;

/// What a heap is made with: `thole::HeapOptions`.
typedef struct thole_heap_options {
  size_t alignment;            ///< Of all memory, a power of two, at most 4096; 0: 64.
  int32_t background_reclaim;  ///< Not 0: a thread of the library's reclaims, too.
} thole_heap_options;

/// A snapshot: bytes, and counts since the heap was made: `thole::HeapStats`.
typedef struct thole_heap_stats {
  size_t in_use;         ///< Bytes given out.
  size_t in_flight;      ///< Bytes given back that wait for the device.
  size_t peak;           ///< The most of both together that was seen.
  size_t made;           ///< Allocations.
  size_t freed_at_once;  ///< Given back with nothing in flight.
  size_t deferred;       ///< Given back while the device used them.
  size_t recycled;       ///< Deferred ones that came back.
} thole_heap_stats;

/// A heap on the arena. THOLE_INVALID_ARGUMENT for an alignment that is none.
THOLE_C_EXPORT thole_status thole_heap_create(const thole_arena* arena, const thole_heap_options* options,
                                              thole_heap** made) THOLE_C_NOEXCEPT;
/// Never waits. Memory that the heap has given and that is not back stays usable, but nobody can give it back then.
THOLE_C_EXPORT void thole_heap_destroy(thole_heap* heap) THOLE_C_NOEXCEPT;
/// Takes microseconds.
THOLE_C_EXPORT thole_status thole_heap_get_stats(const thole_heap* heap, thole_heap_stats* stats) THOLE_C_NOEXCEPT;
/// Reclaims what the device has finished with; `reclaimed`, which may be NULL, says how many blocks. Never waits.
THOLE_C_EXPORT thole_status thole_heap_collect(thole_heap* heap, size_t* reclaimed) THOLE_C_NOEXCEPT;
/// Blocks, so long at most, until the device has finished every recorded use of the heap's memory. THOLE_TIMED_OUT.
THOLE_C_EXPORT thole_status thole_heap_drain(thole_heap* heap, int64_t timeout) THOLE_C_NOEXCEPT;

// ---- Streams

/// A stream of the library's own, or a view of one that others made.
typedef struct thole_stream thole_stream;

/// A new stream that runs independently of the legacy default stream; lower priorities come first, 0 is the last.
THOLE_C_EXPORT thole_status thole_stream_create(const thole_device* device, int32_t priority,
                                                thole_stream** made) THOLE_C_NOEXCEPT;
/// A view of a stream that others made, a cudaStream_t on a GPU; it must live while it is used through the view.
THOLE_C_EXPORT thole_status thole_stream_from_native(const thole_device* device, void* native,
                                                     thole_stream** made) THOLE_C_NOEXCEPT;
/// Never waits: work in a stream still completes. A view's stream stays.
THOLE_C_EXPORT void thole_stream_destroy(thole_stream* stream) THOLE_C_NOEXCEPT;
/// The raw handle, a cudaStream_t on a GPU.
THOLE_C_EXPORT thole_status thole_stream_native(const thole_stream* stream, void** native) THOLE_C_NOEXCEPT;
/// Blocks, so long at most, until all that the stream was given is done, and reclaims what that frees.
THOLE_C_EXPORT thole_status thole_stream_synchronize(const thole_stream* stream, int64_t timeout) THOLE_C_NOEXCEPT;

// ---- Memory. `data` may lie inside of what was allocated but where memory is given back: there it is the start, or
// NULL, which does nothing. THOLE_NOT_FOUND: it is not this heap's, and nothing has happened.

/// A timeout that is never over.
#define THOLE_FOREVER INT64_MAX

/// What the device does with memory; a write may also read.
typedef enum thole_access { THOLE_READS = 1, THOLE_WRITES = 2 } thole_access;

/// What an address is part of.
typedef struct thole_block {
  void* data;         ///< Where the memory starts.
  size_t bytes;       ///< What was asked for.
  int32_t in_flight;  ///< Not 0: the device may still use it, as far as the library was told.
} thole_block;

/// Pinned memory at a multiple of `alignment` (a power of two, at most 4096; 0: 64); NULL for 0 bytes. Never waits for
/// the device. THOLE_OUT_OF_MEMORY, THOLE_TOO_LARGE, THOLE_INVALID_ARGUMENT, THOLE_DEVICE_LOST.
THOLE_C_EXPORT thole_status thole_allocate(const thole_heap* heap, size_t bytes, size_t alignment,
                                           void** data) THOLE_C_NOEXCEPT;
/// Gives memory back; it is reused when all recorded uses are done. Never waits.
THOLE_C_EXPORT thole_status thole_deallocate(const thole_heap* heap, void* data) THOLE_C_NOEXCEPT;
/// Gives memory back; it is not reused before the stream has done all that it has been given so far. Never waits. Where
/// it fails the memory stays the caller's.
THOLE_C_EXPORT thole_status thole_deallocate_on(const thole_heap* heap, void* data,
                                                const thole_stream* stream) THOLE_C_NOEXCEPT;
/// The same for all that the arena's device has been given so far, by whomever: for memory whose uses nobody recorded.
/// Never waits: a thread of the library's own does. Not beside a graph capture that the library cannot see:
/// <thole/heap.hpp> says which.
THOLE_C_EXPORT thole_status thole_deallocate_after_all(const thole_heap* heap, void* data) THOLE_C_NOEXCEPT;
/// Work that was enqueued in the stream just before reads or writes the memory. In a capture the graph keeps it.
THOLE_C_EXPORT thole_status thole_record_use(const thole_heap* heap, const void* data, const thole_stream* stream,
                                             thole_access access) THOLE_C_NOEXCEPT;
/// Runs `enqueue(context, native stream)`, which enqueues work that reads or writes the memory: ordered after its
/// earlier uses, and recorded, as one. It must neither throw nor begin or end a capture. THOLE_BORROWED beside another
/// that writes.
THOLE_C_EXPORT thole_status thole_use_on(const thole_heap* heap, void* data, const thole_stream* stream,
                                         thole_access access, void (*enqueue)(void* context, void* native),
                                         void* context) THOLE_C_NOEXCEPT;
/// What the address is part of. Asks the device, and never waits.
THOLE_C_EXPORT thole_status thole_find(const thole_heap* heap, const void* data, thole_block* block) THOLE_C_NOEXCEPT;
/// Waits, so long at most, until the CPU may read the memory (no recorded write goes on) or write it (no use does).
/// THOLE_TIMED_OUT, THOLE_BORROWED, THOLE_CAPTURING, THOLE_DEVICE_LOST.
THOLE_C_EXPORT thole_status thole_wait_for(const thole_heap* heap, const void* data, thole_access access,
                                           int64_t timeout) THOLE_C_NOEXCEPT;

// ---- A simulated device that is stepped, for tests. On a GPU: THOLE_INVALID_ARGUMENT. C enqueues nothing there: a
// use, recorded or by thole_use_on(), stands for the work. The first call that asks for the use, such as thole_find()
// or thole_heap_collect(), marks its end in the stream: ask, complete, and ask again.

/// Completes up to so many operations of the stream; `done`, which may be NULL, says how many it were.
/// THOLE_WRONG_DEVICE.
THOLE_C_EXPORT thole_status thole_simulation_step(const thole_device* device, const thole_stream* stream,
                                                  size_t operations, size_t* done) THOLE_C_NOEXCEPT;
/// Completes all that can go on.
THOLE_C_EXPORT thole_status thole_simulation_run_all(const thole_device* device, size_t* done) THOLE_C_NOEXCEPT;
/// A sticky error. The next call that needs the device meets it, and from then on each says THOLE_DEVICE_LOST.
THOLE_C_EXPORT thole_status thole_simulation_lose_device(const thole_device* device) THOLE_C_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif

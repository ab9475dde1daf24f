// <thole/thole.h>: C names for what <thole/heap.hpp> and its kin offer. No exception leaves it, and no handle is
// trusted.

#include <thole/thole.h>

#include <chrono>
#include <exception>
#include <initializer_list>
#include <iterator>
#include <new>
#include <optional>
#include <string>
#include <thole/config.hpp>
#include <thole/heap.hpp>
#include <thole/simulation.hpp>
#include <type_traits>
#include <utility>

struct thole_device {
  thole::Device handle;
  std::string name;
};
struct thole_arena {
  thole::PinnedArena handle;
};
struct thole_heap {
  thole::PinnedHeap handle;
};
struct thole_stream {
  thole::StreamRef view;
  std::optional<thole::Stream> own;
};

namespace {

using thole::Access;
using thole::Errc;
using thole::Error;
using thole::Result;

static_assert(THOLE_INVALID_ARGUMENT == static_cast<int>(Errc::invalid_argument) &&
              THOLE_DEVICE_ERROR == static_cast<int>(Errc::device_error));

/// True once the thread's last error is gone, which the destructors of its other variables may still ask for.
thread_local bool ended = false;

struct LastError {
  std::optional<Error> error;
  std::string text;  // of the call, and behind it the error's; empty where there was no memory for it
  ~LastError() { ended = true; }
};
thread_local LastError last_error;

/// Here each failure of a call becomes a code and a text that names the call as C has it. The error's own text names it
/// as C++ does.
thole_status keep(const char* call, const Error& error, thole_status status) noexcept {
  if (ended) return status;
  last_error.error = error;  // copies share their text: this cannot fail
  last_error.text.clear();
  try {
    last_error.text = std::string(call) + ": " + error.what();
  } catch (const std::bad_alloc&) {  // the error's own has to do
  }
  return status;
}
template <class F>
thole_status keep(const char* call, thole_status status, F&& text) noexcept {
  const auto code = status == THOLE_FAILED ? Errc::device_error : static_cast<Errc>(status);
  return keep(call, Error::make(code, std::forward<F>(text)), status);
}

/// What the function of run() returns, as a status.
thole_status answer(const char*, thole_status status) noexcept { return status; }
template <class T>
thole_status answer(const char* call, const Result<T>& result) noexcept {
  if (!result) return keep(call, result.error(), static_cast<thole_status>(result.error().errc()));
  if constexpr (std::is_same_v<T, bool>)  // false: the address is not the heap's
    if (!*result) return THOLE_NOT_FOUND;
  return THOLE_OK;
}

/// A parameter that must not be NULL.
struct Needed {
  const void* value;
  const char* name;
};

/// Runs `f()`, unless something that it needs is NULL; what it returns or throws becomes a status.
template <class F>
thole_status run(const char* call, std::initializer_list<Needed> all, F&& f) noexcept {
  for (const Needed& needed : all)
    if (needed.value == nullptr)
      return keep(call, THOLE_INVALID_ARGUMENT, [&] { return std::string(needed.name) + " is NULL"; });
  try {
    return answer(call, f());
  } catch (const Error& error) {
    return keep(call, error, static_cast<thole_status>(error.errc()));
  } catch (const std::bad_alloc&) {
    return keep(call, THOLE_OUT_OF_MEMORY, [] { return std::string("the system has no memory"); });
  } catch (const std::exception& other) {
    return keep(call, THOLE_FAILED, [&] { return std::string(other.what()); });
  } catch (...) {
    return keep(call, THOLE_FAILED, [] { return std::string("something was thrown"); });
  }
}

/// As run(), for what makes an object.
template <class T, class F>
thole_status make(const char* call, std::initializer_list<Needed> all, T** made, F&& f) noexcept {
  return run(call, all, [&] {
    if (made == nullptr) throw Error::make(Errc::invalid_argument, [] { return std::string("`made` is NULL"); });
    *made = new T(f());
    return THOLE_OK;
  });
}

/// `f(Access::Reads)` or `f(Access::Writes)`.
template <class F>
auto with_access(thole_access access, F&& f) {
  if (access == THOLE_READS) return f(Access::device_reads);
  if (access == THOLE_WRITES) return f(Access::device_writes);
  throw Error::make(Errc::invalid_argument, [&] {
    return "an access of " + std::to_string(static_cast<int>(access)) + "; there are THOLE_READS and THOLE_WRITES";
  });
}

std::chrono::nanoseconds time_of(int64_t timeout) noexcept { return std::chrono::nanoseconds(timeout); }

thole_device named(thole::Device device) {
  std::string name(device.name());
  return {std::move(device), std::move(name)};
}

thole::PinMethod pin_method_of(int32_t method) {
  if (method == THOLE_REGISTER_PAGES) return thole::PinMethod::register_pages;
  if (method == THOLE_HOST_ALLOC) return thole::PinMethod::host_alloc;
  throw Error(Errc::invalid_argument,
              "a pin_method of " + std::to_string(method) + "; there are THOLE_REGISTER_PAGES and THOLE_HOST_ALLOC");
}

}  // namespace

// ---- Errors

const char* thole_last_error(void) noexcept {
  if (ended || !last_error.error) return "";
  return last_error.text.empty() ? last_error.error->what() : last_error.text.c_str();
}

const char* thole_status_text(thole_status status) noexcept {
  static constexpr const char* words[] = {"ok",        "invalid argument", "out of memory", "a limit of the system",
                                          "too large", "too small",        "borrowed",      "in flight",
                                          "timed out", "moved from",       "wrong device",  "no such device",
                                          "capturing", "device lost",      "device error"};
  static_assert(std::size(words) == THOLE_DEVICE_ERROR + 1);
  const auto index = static_cast<std::size_t>(status);
  if (index < std::size(words)) return words[index];
  if (status == THOLE_NOT_FOUND) return "not found";
  if (status == THOLE_FAILED) return "failed";
  return "unknown status";
}

uint32_t thole_version(void) noexcept {
  uint32_t parts[3] = {};
  std::size_t at = 0;
  for (const char* letter = thole::config::version; *letter != '\0' && at != 3; ++letter) {
    if (*letter == '.')
      ++at;
    else
      parts[at] = parts[at] * 10 + static_cast<uint32_t>(*letter - '0');
  }
  return parts[0] * 10000 + parts[1] * 100 + parts[2];
}

const char* thole_version_text(void) noexcept { return thole::config::version; }

// ---- Devices

thole_status thole_device_cuda(int32_t ordinal, const thole_device_options* options, thole_device** made) noexcept {
  return make("thole_device_cuda", {}, made, [&] {
    thole::DeviceOptions wanted;
    if (options != nullptr)
      wanted = {.blocking_waits = options->blocking_waits != 0, .connections = options->connections};
    return named(thole::Device::cuda(ordinal, wanted));
  });
}

thole_status thole_device_simulated(const thole_simulation_options* options, thole_device** made) noexcept {
  return make("thole_device_simulated", {}, made, [&] {
    thole::SimulationOptions wanted;
    if (options != nullptr) {
      if (options->device_bytes != 0) wanted.device_bytes = options->device_bytes;
      if (options->max_pinned_bytes != 0) wanted.max_pinned_bytes = options->max_pinned_bytes;
      wanted.stepped = options->stepped != 0;
      wanted.seed = options->seed;
    }
    return named(thole::Device::simulated(wanted));
  });
}

thole_status thole_device_best(thole_device** made) noexcept {
  return make("thole_device_best", {}, made, [] { return named(thole::Device::best()); });
}

void thole_device_destroy(thole_device* device) noexcept { delete device; }

const char* thole_device_name(const thole_device* device) noexcept {
  return device != nullptr ? device->name.c_str() : "";
}

thole_status thole_device_check(const thole_device* device) noexcept {
  return run("thole_device_check", {{device, "device"}}, [&]() -> Result<void> {
    if (!device->handle.lost()) return {};
    return tl::unexpected(Error::make(Errc::device_lost, [&] { return device->name + " is lost"; }));
  });
}

thole_status thole_device_take_error(thole_device* device) noexcept {
  return run("thole_device_take_error", {{device, "device"}}, [&]() -> Result<void> {
    const auto error = device->handle.take_error();
    if (!error) return {};
    return tl::unexpected(*error);
  });
}

thole_status thole_device_trim_pinned(thole_device* device, size_t* bytes) noexcept {
  return run("thole_device_trim_pinned", {{device, "device"}}, [&] {
    const std::size_t trimmed = device->handle.trim_pinned();
    if (bytes != nullptr) *bytes = trimmed;
    return THOLE_OK;
  });
}

// ---- Arenas

thole_status thole_arena_create(const thole_device* device, const thole_arena_options* options,
                                thole_arena** made) noexcept {
  return make("thole_arena_create", {{device, "device"}}, made, [&] {
    thole::ArenaOptions wanted;
    if (options != nullptr) {
      if (options->bytes != 0) wanted.bytes = options->bytes;
      wanted.max_bytes = options->max_bytes;
      wanted.pin_method = pin_method_of(options->pin_method);
      if (options->on_numa_node != 0) wanted.numa_node = options->numa_node;
      wanted.in_core_dumps = options->in_core_dumps != 0;
    }
    return thole_arena{thole::PinnedArena(device->handle, wanted)};
  });
}

void thole_arena_destroy(thole_arena* arena) noexcept { delete arena; }

thole_status thole_arena_get_stats(const thole_arena* arena, thole_arena_stats* stats) noexcept {
  return run("thole_arena_get_stats", {{arena, "arena"}, {stats, "stats"}}, [&] {
    const auto now = arena->handle.stats();
    *stats = {.capacity = now.capacity,
              .max_capacity = now.max_capacity,
              .in_use = now.in_use,
              .in_flight = now.in_flight,
              .cached = now.cached,
              .largest_free = now.largest_free,
              .wasted = now.wasted,
              .peak = now.peak,
              .regions = now.regions,
              .grown = now.grown};
    return THOLE_OK;
  });
}

thole_status thole_arena_contains(const thole_arena* arena, const void* data) noexcept {
  return run("thole_arena_contains", {{arena, "arena"}},
             [&] { return arena->handle.contains(data) ? THOLE_OK : THOLE_NOT_FOUND; });
}

thole_status thole_arena_trim(thole_arena* arena, size_t* bytes) noexcept {
  return run("thole_arena_trim", {{arena, "arena"}}, [&] {
    const std::size_t trimmed = arena->handle.trim();
    if (bytes != nullptr) *bytes = trimmed;
    return THOLE_OK;
  });
}

// ---- Heaps

thole_status thole_heap_create(const thole_arena* arena, const thole_heap_options* options,
                               thole_heap** made) noexcept {
  return make("thole_heap_create", {{arena, "arena"}}, made, [&] {
    thole::HeapOptions wanted;
    if (options != nullptr) {
      if (options->alignment != 0) wanted.alignment = options->alignment;
      wanted.background_reclaim = options->background_reclaim != 0;
    }
    return thole_heap{thole::PinnedHeap(arena->handle, wanted)};
  });
}

void thole_heap_destroy(thole_heap* heap) noexcept { delete heap; }

thole_status thole_heap_get_stats(const thole_heap* heap, thole_heap_stats* stats) noexcept {
  return run("thole_heap_get_stats", {{heap, "heap"}, {stats, "stats"}}, [&] {
    const auto now = heap->handle.stats();
    *stats = {.in_use = now.in_use,
              .in_flight = now.in_flight,
              .peak = now.peak,
              .made = now.buffers_made,
              .freed_at_once = now.freed_at_once,
              .deferred = now.deferred,
              .recycled = now.recycled};
    return THOLE_OK;
  });
}

thole_status thole_heap_collect(thole_heap* heap, size_t* reclaimed) noexcept {
  return run("thole_heap_collect", {{heap, "heap"}}, [&] {
    const std::size_t blocks = heap->handle.collect();
    if (reclaimed != nullptr) *reclaimed = blocks;
    return THOLE_OK;
  });
}

thole_status thole_heap_drain(thole_heap* heap, int64_t timeout) noexcept {
  return run("thole_heap_drain", {{heap, "heap"}}, [&] { return heap->handle.drain_for(time_of(timeout)); });
}

// ---- Streams

thole_status thole_stream_create(const thole_device* device, int32_t priority, thole_stream** made) noexcept {
  return make("thole_stream_create", {{device, "device"}}, made, [&] {
    thole::Stream own(device->handle, {.priority = priority});
    const thole::StreamRef view = own;
    return thole_stream{view, std::move(own)};
  });
}

thole_status thole_stream_from_native(const thole_device* device, void* native, thole_stream** made) noexcept {
  return make("thole_stream_from_native", {{device, "device"}}, made, [&] {
    return thole_stream{thole::detail::unwrap(thole::detail::stream_from_native(device->handle, native)), std::nullopt};
  });
}

void thole_stream_destroy(thole_stream* stream) noexcept { delete stream; }

thole_status thole_stream_native(const thole_stream* stream, void** native) noexcept {
  return run("thole_stream_native", {{stream, "stream"}, {native, "native"}}, [&] {
    *native = stream->view.native();
    return THOLE_OK;
  });
}

thole_status thole_stream_synchronize(const thole_stream* stream, int64_t timeout) noexcept {
  return run("thole_stream_synchronize", {{stream, "stream"}}, [&]() -> Result<void> {
    if (timeout != THOLE_FOREVER) return stream->view.synchronize_for(time_of(timeout));
    stream->view.synchronize();  // without an event of its own
    return {};
  });
}

// ---- Memory

thole_status thole_allocate(const thole_heap* heap, size_t bytes, size_t alignment, void** data) noexcept {
  return run("thole_allocate", {{heap, "heap"}, {data, "data"}}, [&] {
    const auto made = heap->handle.try_allocate(bytes, alignment != 0 ? alignment : 64);
    if (made) *data = *made;
    return made;
  });
}

thole_status thole_deallocate(const thole_heap* heap, void* data) noexcept {
  return run("thole_deallocate", {{heap, "heap"}}, [&]() -> Result<bool> { return heap->handle.deallocate(data); });
}

thole_status thole_deallocate_on(const thole_heap* heap, void* data, const thole_stream* stream) noexcept {
  return run("thole_deallocate_on", {{heap, "heap"}, {stream, "stream"}},
             [&] { return heap->handle.try_deallocate(data, stream->view); });
}

thole_status thole_deallocate_after_all(const thole_heap* heap, void* data) noexcept {
  return run("thole_deallocate_after_all", {{heap, "heap"}},
             [&] { return heap->handle.try_deallocate_after_all(data); });
}

thole_status thole_record_use(const thole_heap* heap, const void* data, const thole_stream* stream,
                              thole_access access) noexcept {
  return run("thole_record_use", {{heap, "heap"}, {stream, "stream"}}, [&] {
    return with_access(access, [&](auto wanted) { return heap->handle.try_record_use(data, stream->view, wanted); });
  });
}

thole_status thole_use_on(const thole_heap* heap, void* data, const thole_stream* stream, thole_access access,
                          void (*enqueue)(void* context, void* native), void* context) noexcept {
  constexpr const char* call = "thole_use_on";
  return run(call, {{heap, "heap"}, {stream, "stream"}, {reinterpret_cast<const void*>(enqueue), "enqueue"}}, [&] {
    if (!heap->handle.find(data)) return THOLE_NOT_FOUND;
    return with_access(access, [&](auto wanted) {
      heap->handle.use_on(data, stream->view, wanted, [&](thole::NativeStream native) { enqueue(context, native); });
      return THOLE_OK;
    });
  });
}

thole_status thole_find(const thole_heap* heap, const void* data, thole_block* block) noexcept {
  return run("thole_find", {{heap, "heap"}, {block, "block"}}, [&] {
    const auto known = heap->handle.find(data);
    if (!known) return THOLE_NOT_FOUND;
    *block = {.data = known->data, .bytes = known->bytes, .in_flight = known->in_flight ? 1 : 0};
    return THOLE_OK;
  });
}

thole_status thole_wait_for(const thole_heap* heap, const void* data, thole_access access, int64_t timeout) noexcept {
  return run("thole_wait_for", {{heap, "heap"}}, [&]() -> Result<bool> {
    if (!heap->handle.find(data)) return false;
    return with_access(access, [&](auto wanted) {
      return heap->handle.try_wait_for(data, wanted, time_of(timeout)).map([] { return true; });
    });
  });
}

// ---- The simulated device

thole_status thole_simulation_step(const thole_device* device, const thole_stream* stream, size_t operations,
                                   size_t* done) noexcept {
  return run("thole_simulation_step", {{device, "device"}, {stream, "stream"}}, [&] {
    const std::size_t stepped = device->handle.simulation().step(stream->view, operations);
    if (done != nullptr) *done = stepped;
    return THOLE_OK;
  });
}

thole_status thole_simulation_run_all(const thole_device* device, size_t* done) noexcept {
  return run("thole_simulation_run_all", {{device, "device"}}, [&] {
    const std::size_t completed = device->handle.simulation().run_all();
    if (done != nullptr) *done = completed;
    return THOLE_OK;
  });
}

thole_status thole_simulation_lose_device(const thole_device* device) noexcept {
  return run("thole_simulation_lose_device", {{device, "device"}}, [&] {
    device->handle.simulation().lose_device();
    return THOLE_OK;
  });
}

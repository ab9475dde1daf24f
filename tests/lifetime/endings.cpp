// Rule 8, at the end of the process: handles that go in static destructors, in exit handlers, with the main thread's
// objects, on a thread that still runs, or not at all, with copies in flight, while the CUDA runtime unloads. One way
// to end for each run of the program: nothing throws, nothing hangs, and the exit status is that of main.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include <thole/thole.hpp>

namespace {

using Bytes = thole::PinnedBuffer<std::byte>;

/// A static object whose destructor is the last of this file's: it was made first.
struct Witness {
  ~Witness() { std::puts("the static destructors have run"); }
} witness;

bool held = false;  // whether a simulated device's copies stay in flight until the end

struct World {
  World()
      : device(thole::Device::best()),
        arena(device, {.bytes = std::size_t{8} << 20}),
        heap(arena, {.background_reclaim = true}),
        stream(device),
        target(stream, std::size_t{1} << 20) {
    if (held && device.backend() == thole::Backend::simulated) device.simulation().hold(stream);
    for (int i = 0; i != 8; ++i) {
      buffers.push_back(heap.make_buffer<std::byte>(std::size_t{1} << 19, std::byte{7}));
      buffers.back().async_to_device(stream, target.span());
    }
    borrow = buffers.front().borrow();
    event = stream.record();
  }
  // Members go in the opposite order; this goes through what a program would.
  ~World() {
    buffers.pop_back();
    const auto made = heap.try_make_buffer<std::byte>(1000);
    (void)heap.collect();
    if (made && made->borrow().size() != 1000) std::_Exit(9);
  }

  thole::Device device;
  thole::PinnedArena arena;
  thole::PinnedHeap heap;
  thole::Stream stream;
  thole::DeviceBuffer<std::byte> target;
  std::vector<Bytes> buffers;
  std::optional<thole::Borrow<std::byte>> borrow;
  std::optional<thole::Event> event;
};

std::unique_ptr<World> constructed_before_main;  // and so destroyed after what main made; empty where not asked for
thread_local std::unique_ptr<World> of_the_main_thread;
World* volatile never_dropped = nullptr;
World* dropped_at_exit = nullptr;

void work_for_ever() {
  try {
    const World world;
    for (;;) {
      auto buffer = world.heap.make_buffer<std::byte>(4096);
      (void)buffer.async_to_device(world.stream);
    }
  } catch (const thole::Error&) {
    // The runtime has gone: the thread ends, as the process does.
  }
}

bool end_by(std::string_view way) {
  if (way == "static_destructor") {
    static World world;
    return true;
  }
  if (way == "namespace_scope") {
    constructed_before_main = std::make_unique<World>();
    return true;
  }
  if (way == "main_thread") {
    of_the_main_thread = std::make_unique<World>();
    return true;
  }
  if (way == "exit_handler") {
    // Registered before the device is first used, so that it runs after whatever the driver has registered.
    if (std::atexit([] { delete dropped_at_exit; }) != 0) return false;
    dropped_at_exit = new World;
    return true;
  }
  if (way == "never") {
    never_dropped = new World;
    return true;
  }
  if (way == "running_thread") {
    const World beside;  // before the others fill their queues: then nothing could be pinned here
    for (int i = 0; i != 4; ++i) std::thread(work_for_ever).detach();
    return true;
  }
  if (way == "other_threads_object") {
    // Made on a thread that has ended, dropped by the main thread's static destructor.
    std::thread([] { constructed_before_main = std::make_unique<World>(); }).join();
    return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) return 2;
  held = argc > 2 && std::strcmp(argv[2], "held") == 0;
  if (!end_by(argv[1])) {
    std::fprintf(stderr, "endings: no such way to end: %s\n", argv[1]);
    return 2;
  }
  std::puts("main ends");
  return 0;
} catch (const thole::Error& error) {
  std::fprintf(stderr, "endings: %s\n", error.what());
  return 1;
}

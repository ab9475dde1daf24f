#pragma once

// What lifetime tests share: a device whose progress the test decides, with an arena and a heap on it.

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <thole/thole.hpp>

#include "api/handle_access.hpp"

namespace support {

using namespace thole;

inline constexpr std::size_t KiB = 1024;
inline constexpr std::size_t MiB = 1024 * KiB;

inline Device stepped(std::uint64_t seed = 0) { return Device::simulated({.stepped = true, .seed = seed}); }

/// THOLE_TEST_AS_GPU=1 has one simulated device that runs by itself stand in for the GPU: what cases do on a GPU, tried
/// without one. It lives as long as the process, as a GPU does; nullptr elsewhere.
inline const Device* stand_in() {
  static const Device* const device =
      std::getenv("THOLE_TEST_AS_GPU") != nullptr ? new Device(Device::simulated()) : nullptr;
  return device;
}

inline bool on_gpu() {
  const char* const name = std::getenv("THOLE_DEVICE");
  return name != nullptr && std::string_view(name).starts_with("cuda");
}

/// The GPU when THOLE_DEVICE asks for one, else a stepped simulated device: for rules that hold on both.
inline Device under_test(std::uint64_t seed = 0) {
  if (stand_in() != nullptr) return *stand_in();
  return on_gpu() ? Device::best() : stepped(seed);
}
/// As that, but a simulated one runs by itself, so that calls wait for running work where they do on a GPU.
inline Device running_under_test() {
  if (stand_in() != nullptr) return *stand_in();
  return on_gpu() ? Device::best() : Device::simulated();
}

inline detail::DeviceBackend& backend_of(const Device& device) { return *detail::HandleAccess::core(device)->backend; }

struct Rig {
  explicit Rig(Device on = stepped(), const ArenaOptions& arena_options = {.bytes = MiB},
               const HeapOptions& heap_options = {})
      : device(std::move(on)), arena(device, arena_options), heap(arena, heap_options) {}

  /// Whether its progress is the test's.
  bool simulated() const {
    return device.backend() == thole::Backend::simulated && (stand_in() == nullptr || device != *stand_in());
  }
  Simulation sim() const { return device.simulation(); }
  detail::DeviceBackend& backend() const { return backend_of(device); }

  /// Everything enqueued in the stream happens; on a simulated device, whatever can happen anywhere. thole is not told.
  void finish(const StreamRef& stream) const {
    if (simulated()) {
      sim().run_all();
    } else {
      REQUIRE(backend().synchronize_stream(detail::HandleAccess::raw(stream, "finish")).ok());
    }
  }
  /// As finish(), with an event behind everything, so that a borrow finds its answer without waiting.
  void settle(const StreamRef& stream) const {
    (void)stream.native();
    finish(stream);
  }
  /// What was dropped is destroyed, executables of graphs, too, which keep memory.
  void until_tidy() const {
    const auto& core = *detail::HandleAccess::core(device);
    while (!core.lost() && !core.leftovers.empty()) std::this_thread::yield();
  }
  /// Whether one more buffer of all the arena's bytes can be had.
  bool all_free() const {
    until_tidy();
    return heap.try_make_buffer<std::byte>(arena.capacity()).has_value();
  }
  /// Until the simulated device's memory is freed, with all there is done. More than one round: an event says when it
  /// may be freed, and a thread of thole's may have it in hand meanwhile.
  void until_device_memory_is_free() const {
    for (;;) {
      sim().run_all();
      (void)heap.collect();
      sim().run_all();
      if (sim().device_bytes() == 0) return;
      std::this_thread::yield();
    }
  }
  std::size_t calls(SimulatedCall call) const { return sim().calls(call); }

  Device device;
  PinnedArena arena;
  PinnedHeap heap;
};

/// While it lives the device has no event made ahead, and nobody makes any: whoever needs one makes it.
class EmptyStock {
 public:
  explicit EmptyStock(const Rig& rig) : core_(*detail::HandleAccess::core(rig.device)), stock_(core_.events) {
    while (!core_.begin_tidying()) std::this_thread::yield();  // a thread of thole's may be at it
    for (const auto made = rig.calls(SimulatedCall::create_event); rig.calls(SimulatedCall::create_event) == made;)
      REQUIRE(stock_.take(&taken_.emplace_back()).ok());
  }
  ~EmptyStock() {
    for (detail::EventHandle event : taken_) stock_.give(event);
    core_.end_tidying();
  }
  EmptyStock(const EmptyStock&) = delete;
  EmptyStock& operator=(const EmptyStock&) = delete;

 private:
  detail::DeviceCore& core_;
  detail::EventStock& stock_;
  std::vector<detail::EventHandle> taken_;
};

/// Nothing that is enqueued behind it happens before it is opened. One at a time where it is a GPU's.
class Gate {
 public:
  Gate(const Rig& rig, const StreamRef& stream) : rig_(rig), stream_(stream) {
    if (rig.simulated()) {
      rig.sim().hold(stream);
    } else {
      stream.launch_host_function([opened = opened_] { opened->wait(false, std::memory_order_acquire); });
    }
  }
  ~Gate() { open(); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void open() {
    if (opened_->exchange(true, std::memory_order_release)) return;
    opened_->notify_all();
    if (rig_.simulated()) rig_.sim().release(stream_);
  }

 private:
  const Rig& rig_;
  StreamRef stream_;
  std::shared_ptr<std::atomic<bool>> opened_ = std::make_shared<std::atomic<bool>>(false);
};

/// Until so many threads wait in the device.
inline void until_blocked(const Simulation& sim, std::size_t threads = 1) {
  while (sim.blocked_callers() != threads) std::this_thread::yield();
}

template <class F>
void until(F&& done) {
  while (!done()) std::this_thread::yield();
}

/// The code of the Error that the call throws; nothing else may come out of it.
template <class F>
std::string errc_text(F&& call, Errc wanted) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(static_cast<int>(error.errc()) == static_cast<int>(wanted));
    return error.what();
  }
  FAIL_CHECK("no Error was thrown");
  return {};
}

/// As errc_text, for a Result.
template <class T>
std::string errc_text_of(const Result<T>& result, Errc wanted) {
  if (result.has_value()) {
    FAIL_CHECK("a value instead of an Error");
    return {};
  }
  CHECK(static_cast<int>(result.error().errc()) == static_cast<int>(wanted));
  return result.error().what();
}

inline bool has(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return true;
  MESSAGE("text: ", text);
  return false;
}

inline void fill(PinnedBuffer<std::byte>& buffer, int value) {
  const auto borrow = buffer.borrow_mut();
  std::memset(borrow.data(), value, borrow.size());
}

inline bool all_are(const std::byte* data, std::size_t size, int value) {
  for (std::size_t i = 0; i != size; ++i)
    if (data[i] != std::byte(value)) return false;
  return true;
}

inline bool all_are(const PinnedBuffer<std::byte>& buffer, int value) {
  const auto borrow = buffer.borrow();
  return all_are(borrow.data(), borrow.size(), value);
}

/// What the device's memory holds, by a copy of its own.
inline bool device_holds(const Rig& rig, const StreamRef& stream, DeviceBuffer<std::byte>& memory, int value) {
  const PinnedHeap other(PinnedArena(rig.device, {.bytes = memory.size()}));
  const auto back = memory.async_to_host(stream, other);
  rig.finish(stream);
  return all_are(back, value);
}

}  // namespace support

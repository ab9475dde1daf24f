#pragma once

// A gate for many streams at once, and what is in use of the device's memory: with code of the tests' own on a GPU.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <utility>

#include "gpu_code.hpp"
#include "rig.hpp"

namespace support {

/// Whether the test can run on its device: one that needs code on the GPU does not where there was no nvcc. Where there
/// was one it fails, since to run nothing is not to pass.
inline bool has_what_it_needs(const Rig& rig) {
  if (stand_in() != nullptr) return rig.simulated();
  if (rig.simulated() || gpu::has_code()) return true;
#ifdef THOLE_TEST_HAS_NVCC
  FAIL("not on this GPU: nvcc is there, but the tests have none of its code");
#endif
  MESSAGE("not on this GPU: the tests were built without nvcc");
  return false;
}

/// As Gate, but as many as the test wants, and host functions run beside it.
class KernelGate {
 public:
  KernelGate(const Rig& rig, const StreamRef& stream) : rig_(rig), stream_(stream) {
    if (rig.simulated()) {
      rig.sim().hold(stream);
      return;
    }
    opened_ = next_flag(rig);
    const void* there = nullptr;
    REQUIRE(rig.backend().device_address(opened_, &there).ok());
    REQUIRE(gpu::launch_gate(rig.device.ordinal(), stream.native(), static_cast<const int*>(there)));
  }
  ~KernelGate() { open(); }
  KernelGate(const KernelGate&) = delete;
  KernelGate& operator=(const KernelGate&) = delete;
  void open() {
    if (std::exchange(is_open_, true)) return;
    if (rig_.simulated()) return rig_.sim().release(stream_);
    std::atomic_ref(*opened_).store(1, std::memory_order_release);
  }

 private:
  /// Each flag is used once and none is let go: freeing pinned memory would wait for the kernels that read it.
  static int* next_flag(const Rig& rig) {
    constexpr std::size_t all = 1024;
    static std::size_t used = all;
    static int* flags = nullptr;
    if (used == all) {
      void* made = nullptr;
      REQUIRE(rig.backend().allocate_host(all * sizeof(int), &made).ok());
      flags = static_cast<int*>(made);
      std::fill_n(flags, all, 0);
      used = 0;
    }
    return &flags[used++];
  }

  const Rig& rig_;
  StreamRef stream_;
  int* opened_ = nullptr;
  bool is_open_ = false;
};

/// How much of the device's memory thole has in use, `any` of it included.
inline std::size_t used_device_bytes(const Rig& rig, const DeviceBuffer<std::byte>& any) {
  return rig.simulated() ? rig.sim().device_bytes() : gpu::pool_bytes(any.span().native());
}

}  // namespace support

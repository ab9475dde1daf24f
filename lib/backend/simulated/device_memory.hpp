#pragma once

// The memory of a simulated device. Guarded by the machine's mutex.

#include <cstddef>
#include <map>

namespace thole::inline v0_1::detail::simulated {

/// A stretch of device memory. The CPU can do nothing at its address, as on a GPU: what the device does to it goes
/// through `view`, another mapping of the same pages.
struct DevicePiece {
  std::byte* address = nullptr;
  std::byte* view = nullptr;
};

/// The memory of one device. Freed pieces are filled with `poison`, so that a stale pointer shows, and up to
/// `most_kept` bytes of them wait for allocations of the same pages, so that no page is mapped twice.
class DeviceMemory {
 public:
  static constexpr unsigned char poison = 0xdb;
  static constexpr std::size_t most_kept = std::size_t{256} << 20;
  static constexpr std::size_t most_kept_pieces = 4096;

  explicit DeviceMemory(std::size_t capacity) noexcept : capacity_(capacity) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// Nothing when `bytes` more do not fit, not counting `leaving` bytes that will be free when it is first used.
  DevicePiece allocate(std::size_t bytes, std::size_t leaving) noexcept;
  void free(const DevicePiece& piece, std::size_t bytes) noexcept;
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void drop_kept() noexcept;

  std::size_t capacity_;
  std::size_t bytes_ = 0;
  std::size_t kept_bytes_ = 0;
  std::multimap<std::size_t, DevicePiece> kept_;  // by whole pages
};

/// A view of a part of device memory for one kernel: reading past its pages, or writing where it may only read, ends
/// the process as it would break a GPU.
class DeviceView {
 public:
  /// `place` lies in the view of a DevicePiece.
  DeviceView(std::byte* place, std::size_t bytes, bool writable) noexcept;
  ~DeviceView();
  DeviceView(const DeviceView&) = delete;
  DeviceView& operator=(const DeviceView&) = delete;
  std::byte* data() const noexcept { return data_; }  ///< nullptr: there is no memory for it

 private:
  std::byte* mapped_ = nullptr;  // with a page before and behind that nobody may touch
  std::size_t mapped_bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace thole::inline v0_1::detail::simulated

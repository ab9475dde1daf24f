#pragma once

// A heap as a memory resource of CUDA's C++ libraries (cuda::mr, in CCCL), which RMM and cuDF take, too:
//
//     cudf::set_pinned_memory_resource(resource);  // which must live on: cuDF keeps a reference

// CCCL before 3.1 (CUDA 13.0 and earlier) has its memory resources behind this.
#ifndef LIBCUDACXX_ENABLE_EXPERIMENTAL_MEMORY_RESOURCE
#define LIBCUDACXX_ENABLE_EXPERIMENTAL_MEMORY_RESOURCE
#endif
#if !__has_include(<cuda/memory_resource>) || !__has_include(<cuda/stream_ref>)
#error "<thole/cuda_mr.hpp> needs CCCL, the CUDA toolkit's include/cccl, on the include path"
#endif
#include <cuda/memory_resource>
#include <cuda/stream_ref>

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

#include <thole/heap.hpp>

namespace thole::inline v0_1 {

/// Pinned memory of a heap, which it keeps open: host and device can reach it. Copies are cheap, and equal where the
/// heap is the same. It has the names of CCCL 3.1 (`allocate_sync`, `allocate` with the stream first) and those before
/// it (`allocate`, `allocate_async`).
///
/// Memory is there for the CPU and all streams when it is allocated, whatever stream is named. What is deallocated on a
/// stream is reused when the stream has done all that it has been given so far: neither another stream nor the CPU gets
/// it earlier. The stream may be any device's; a default stream is the current device's. Without a stream it is reused
/// at once, but for what was recorded (`PinnedHeap::record_use`): that call is for memory that nothing uses any more.
///
/// Aligned to 256 bytes at least; 0 bytes are memory, too; std::bad_alloc where there is none or the alignment is above
/// 4096. Deallocating throws nothing: memory whose use cannot be noted, on a stream that is gone, stays allocated, and
/// `Device::take_error` says why; `heap().deallocate(data)` frees it.
///
/// Thread safety: any thread, at any time; assigning it needs exclusive access.
class CudaPinnedResource {
 public:
  /// Of all that it allocates, in bytes.
  static constexpr std::size_t least_alignment = 256;

  /// Allocates from the heap.
  explicit CudaPinnedResource(PinnedHeap heap) noexcept : heap_(std::move(heap)) {}
  // Not moved: one that is moved from stays what it was, for what it has allocated.
  CudaPinnedResource(const CudaPinnedResource&) noexcept = default;
  CudaPinnedResource& operator=(const CudaPinnedResource&) noexcept = default;
  ~CudaPinnedResource() = default;

  /// The heap that it allocates from.
  const PinnedHeap& heap() const noexcept { return heap_; }

  // ---- CCCL 3.1 and later

  /// Memory that is there at once.
  void* allocate_sync(std::size_t bytes, std::size_t alignment = least_alignment) {
    auto made = heap_.try_allocate(std::max(bytes, std::size_t{1}), std::max(alignment, least_alignment));
    if (!made) throw std::bad_alloc();
    return *made;
  }
  /// Of memory that nothing uses any more.
  void deallocate_sync(void* data, std::size_t, std::size_t = least_alignment) noexcept {
    (void)heap_.deallocate(data);
  }
  /// As `allocate_sync`: it is there for every stream.
  void* allocate(::cuda::stream_ref, std::size_t bytes, std::size_t alignment = least_alignment) {
    return allocate_sync(bytes, alignment);
  }
  /// Reused when the stream has done all that it has been given so far.
  void deallocate(::cuda::stream_ref stream, void* data, std::size_t, std::size_t = least_alignment) noexcept {
    detail::deallocate_on_native(heap_, data, stream.get());
  }

  // ---- CCCL 3.0 and earlier

  /// As `allocate_sync`.
  void* allocate(std::size_t bytes, std::size_t alignment = least_alignment) { return allocate_sync(bytes, alignment); }
  /// As `deallocate_sync`.
  void deallocate(void* data, std::size_t bytes, std::size_t alignment = least_alignment) noexcept {
    deallocate_sync(data, bytes, alignment);
  }
  /// As `allocate`, on a stream.
  void* allocate_async(std::size_t bytes, std::size_t alignment, ::cuda::stream_ref) {
    return allocate_sync(bytes, alignment);
  }
  /// As `allocate`, on a stream.
  void* allocate_async(std::size_t bytes, ::cuda::stream_ref) { return allocate_sync(bytes); }
  /// As `deallocate`, on a stream.
  void deallocate_async(void* data, std::size_t bytes, std::size_t alignment, ::cuda::stream_ref stream) noexcept {
    deallocate(stream, data, bytes, alignment);
  }
  /// As `deallocate`, on a stream.
  void deallocate_async(void* data, std::size_t bytes, ::cuda::stream_ref stream) noexcept {
    deallocate(stream, data, bytes);
  }

  friend bool operator==(const CudaPinnedResource& one, const CudaPinnedResource& other) noexcept {
    return one.heap_ == other.heap_;
  }
  friend constexpr void get_property(const CudaPinnedResource&, ::cuda::mr::host_accessible) noexcept {}
  friend constexpr void get_property(const CudaPinnedResource&, ::cuda::mr::device_accessible) noexcept {}

 private:
  PinnedHeap heap_;
};

}  // namespace thole::inline v0_1

#pragma once

// A heap as the standard library's allocators see memory: containers whose elements lie in pinned memory.
//
//     thole::PinnedMemoryResource resource(heap);
//     std::pmr::vector<float> samples(&resource);
//
// The memory of a container that is destroyed is reused when the device is done with it, as far as thole was told: tell
// it by `heap.use_on(samples.data(), ...)` for work that uses the elements, or `heap.record_use` behind such work.

#include <cstddef>
#include <limits>
#include <memory_resource>
#include <new>
#include <type_traits>
#include <utility>

#include <thole/heap.hpp>

namespace thole::inline v0_1 {
namespace detail {

/// As operator new: never nullptr, and std::bad_alloc where the heap says why not.
inline void* allocate_or_bad_alloc(const PinnedHeap& heap, std::size_t bytes, std::size_t alignment) {
  auto made = heap.try_allocate(bytes == 0 ? 1 : bytes, alignment);
  if (!made) throw std::bad_alloc();
  return *made;
}

}  // namespace detail

/// Memory of a heap, which it keeps open. Alignments up to 4096; more than the heap has is std::bad_alloc. Deallocating
/// never waits, as `PinnedHeap::deallocate`.
///
/// Thread safety: any thread, at any time.
class PinnedMemoryResource final : public std::pmr::memory_resource {
 public:
  /// Allocates from the heap.
  explicit PinnedMemoryResource(PinnedHeap heap) noexcept : heap_(std::move(heap)) {}

  /// The heap that it allocates from.
  const PinnedHeap& heap() const noexcept { return heap_; }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    return detail::allocate_or_bad_alloc(heap_, bytes, alignment);
  }
  void do_deallocate(void* data, std::size_t, std::size_t) noexcept override { (void)heap_.deallocate(data); }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    const auto* const same = dynamic_cast<const PinnedMemoryResource*>(&other);
    return same != nullptr && same->heap_ == heap_;
  }

  const PinnedHeap heap_;
};

/// An allocator of pinned memory that belongs to its container: it moves, is swapped and is copied with it (those of
/// std::pmr stay where they are, so that moving such a container may copy its elements). Keeps the heap open; errors
/// and deallocation as PinnedMemoryResource.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
template <class T>
class PinnedAllocator {
 public:
  /// Of an element.
  using value_type = T;
  /// It goes with its container.
  using propagate_on_container_copy_assignment = std::true_type;
  /// It goes with its container.
  using propagate_on_container_move_assignment = std::true_type;
  /// It goes with its container.
  using propagate_on_container_swap = std::true_type;
  /// Two of different heaps are not.
  using is_always_equal = std::false_type;

  /// Allocates from the heap.
  explicit PinnedAllocator(PinnedHeap heap) noexcept : heap_(std::move(heap)) {}
  // Not moved: an allocator that is moved from stays what it was, for the container that it is left in.
  PinnedAllocator(const PinnedAllocator&) noexcept = default;
  PinnedAllocator& operator=(const PinnedAllocator&) noexcept = default;
  ~PinnedAllocator() = default;
  /// For elements of another type, from the same heap.
  template <class Other>
  PinnedAllocator(const PinnedAllocator<Other>& other) noexcept : heap_(other.heap()) {}  // as allocators convert

  /// Elements.
  [[nodiscard]] T* allocate(std::size_t count) {
    if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
    return static_cast<T*>(detail::allocate_or_bad_alloc(heap_, count * sizeof(T), alignof(T)));
  }
  /// Never waits.
  void deallocate(T* data, std::size_t) noexcept { (void)heap_.deallocate(data); }

  /// The heap that it allocates from.
  const PinnedHeap& heap() const noexcept { return heap_; }
  template <class Other>
  friend bool operator==(const PinnedAllocator& one, const PinnedAllocator<Other>& other) noexcept {
    return one.heap() == other.heap();
  }

 private:
  PinnedHeap heap_;
};

}  // namespace thole::inline v0_1

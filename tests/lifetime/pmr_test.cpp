// Containers of the standard library in pinned memory.

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <memory_resource>
#include <numeric>
#include <string>
#include <vector>

#include <thole/pmr.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

template <class T>
using PinnedVector = std::vector<T, PinnedAllocator<T>>;

}  // namespace

TEST_CASE("a pmr vector lies in pinned memory, and its memory comes back") {
  const Rig rig(under_test());
  PinnedMemoryResource resource(rig.heap);
  {
    std::pmr::vector<int> numbers(1000, &resource);
    std::iota(numbers.begin(), numbers.end(), 0);
    CHECK(rig.arena.contains(numbers.data()));
    const std::pmr::vector<int> copy(numbers, &resource);
    for (int i = 0; i != 10000; ++i) numbers.push_back(i);
    CHECK(rig.arena.contains(numbers.data()));
    CHECK(copy[999] == 999);
    CHECK(numbers.back() == 9999);
  }
  CHECK(rig.heap.stats().in_use == 0);
}

TEST_CASE("a container that is destroyed while the device reads it leaves its memory alone until that is done") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  rig.settle(stream);
  PinnedMemoryResource resource(rig.heap);
  Gate gate(rig, stream);
  {
    std::pmr::vector<std::byte> bytes(4 * KiB, std::byte{9}, &resource);
    rig.heap.use_on(bytes.data(), stream, Access::device_reads, [&](NativeStream native) {
      REQUIRE(rig.backend()
                  .copy(target.span().native(), bytes.data(), bytes.size(), detail::CopyKind::host_to_device, native)
                  .ok());
    });
  }
  CHECK(!rig.all_free());
  gate.open();
  rig.settle(stream);
  CHECK(rig.all_free());
  CHECK(device_holds(rig, stream, target, 9));
}

TEST_CASE("a pmr resource gives every alignment up to a page, memory for 0 bytes, and bad_alloc for too much") {
  const Rig rig(under_test());
  PinnedMemoryResource resource(rig.heap);
  for (std::size_t alignment = 1; alignment <= 4096; alignment *= 2) {
    void* const data = resource.allocate(100, alignment);
    CHECK(reinterpret_cast<std::uintptr_t>(data) % alignment == 0);
    resource.deallocate(data, 100, alignment);
  }
  void* const nothing = resource.allocate(0);
  CHECK(nothing != nullptr);
  resource.deallocate(nothing, 0);
  CHECK_THROWS_AS((void)resource.allocate(8 * MiB), std::bad_alloc);
  CHECK_THROWS_AS((void)resource.allocate(64, 8192), std::bad_alloc);
  CHECK(rig.heap.stats().in_use == 0);
}

TEST_CASE("pmr resources of one heap are equal, those of two are not") {
  const Rig rig(under_test());
  const PinnedMemoryResource one(rig.heap), same(rig.heap), other{PinnedHeap(rig.arena)};
  CHECK(one.is_equal(same));
  CHECK(!one.is_equal(other));
  CHECK(!one.is_equal(*std::pmr::new_delete_resource()));
}

TEST_CASE("a pinned allocator goes with its container when that is moved, assigned or swapped") {
  const Rig rig(under_test());
  const PinnedHeap other(rig.arena);
  PinnedVector<int> one(100, 1, PinnedAllocator<int>(rig.heap));
  PinnedVector<int> two(200, 2, PinnedAllocator<int>(other));
  const int* const data = one.data();
  std::swap(one, two);
  CHECK(two.data() == data);
  CHECK(two.get_allocator().heap() == rig.heap);
  one = std::move(two);
  CHECK(one.data() == data);
  CHECK(one.get_allocator().heap() == rig.heap);
  CHECK(other.stats().in_use == 0);
  PinnedVector<int> three{PinnedAllocator<int>(other)};
  three = one;
  CHECK(three.get_allocator().heap() == rig.heap);
  CHECK(three == one);
  using Text = std::basic_string<char, std::char_traits<char>, PinnedAllocator<char>>;
  const Text text(1000, 'x', PinnedAllocator<char>(rig.heap));
  CHECK(rig.arena.contains(text.data()));
  CHECK_THROWS_AS(one.reserve(std::size_t{1} << 40), std::bad_alloc);
}

TEST_CASE("a container that was moved from keeps its pinned allocator, and can be used again") {
  const Rig rig(under_test());
  {
    PinnedVector<int> one(100, 1, PinnedAllocator<int>(rig.heap));
    const PinnedVector<int> two = std::move(one);
    one.assign(10, 2);
    CHECK(rig.arena.contains(one.data()));
    std::deque<int, PinnedAllocator<int>> three(1000, 3, PinnedAllocator<int>(rig.heap));
    const auto four = std::move(three);
    three.push_back(4);
    CHECK(four.size() == 1000);
  }
  CHECK(rig.heap.stats().in_use == 0);
}

TEST_CASE("a pinned allocator gives as many bytes as its elements take, at their alignment, and none for too many") {
  struct alignas(1024) Page {
    std::byte bytes[1024];
  };
  const Rig rig(under_test());
  PinnedAllocator<double> doubles(rig.heap);
  double* const numbers = doubles.allocate(300);
  CHECK(rig.heap.find(numbers).value().bytes == 300 * sizeof(double));
  doubles.deallocate(numbers, 300);
  double* const none = doubles.allocate(0);
  CHECK(none != nullptr);
  doubles.deallocate(none, 0);
  PinnedAllocator<Page> pages(rig.heap);
  std::vector<Page*> made;
  for (std::size_t count = 1; count != 20; ++count) {
    made.push_back(pages.allocate(count));
    CHECK(reinterpret_cast<std::uintptr_t>(made.back()) % alignof(Page) == 0);
  }
  for (Page* const page : made) pages.deallocate(page, 1);
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  CHECK_THROWS_AS((void)doubles.allocate(most / sizeof(double) + 2), std::bad_array_new_length);
  CHECK_THROWS_AS((void)doubles.allocate(most / sizeof(double)), std::bad_alloc);
  CHECK(rig.heap.stats().in_use == 0);
}

TEST_CASE("pinned allocators of one heap are equal whatever their elements, those of two are not") {
  const Rig rig(under_test());
  const PinnedAllocator<int> one(rig.heap), other{PinnedHeap(rig.arena)};
  const PinnedAllocator<double> same(one);
  CHECK(one == same);
  CHECK(!(one == other));
  CHECK(!(same == other));
  CHECK(!std::allocator_traits<PinnedAllocator<int>>::is_always_equal::value);
}

// What RMM and cuDF ask of a resource for pinned host memory, in our own words. One case needs to see when a stream has
// been destroyed, which the simulated device counts.

#include <thole/cuda_mr.hpp>

#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

static_assert(cuda::mr::resource_with<CudaPinnedResource, cuda::mr::host_accessible, cuda::mr::device_accessible>);
static_assert(
    cuda::mr::async_resource_with<CudaPinnedResource, cuda::mr::host_accessible, cuda::mr::device_accessible>);
static_assert(std::is_nothrow_copy_constructible_v<CudaPinnedResource>);

namespace {

constexpr std::size_t bytes = 4 * KiB;

cuda::stream_ref of(const StreamRef& stream) { return static_cast<cudaStream_t>(stream.native()); }

}  // namespace

TEST_CASE("a cuda::mr resource gives memory of any size at any alignment, of its arena") {
  const Rig rig(under_test(), {.bytes = 4 * MiB});
  CudaPinnedResource resource(rig.heap);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{255}, std::size_t{4096}, MiB})
    for (std::size_t alignment = 1; alignment <= 4096; alignment *= 2) {
      void* const data = resource.allocate_sync(size, alignment);
      REQUIRE(data != nullptr);
      CHECK(rig.arena.contains(data));
      CHECK(reinterpret_cast<std::uintptr_t>(data) % std::max(alignment, std::size_t{256}) == 0);
      std::memset(data, 1, size);
      resource.deallocate_sync(data, size, alignment);
    }
  CHECK_THROWS_AS((void)resource.allocate_sync(8 * MiB), std::bad_alloc);
  CHECK_THROWS_AS((void)resource.allocate_sync(64, 8192), std::bad_alloc);
  CHECK(rig.heap.stats().in_use == 0);
}

TEST_CASE(
    "what a cuda::mr resource deallocates on a stream is reused when the stream has come so far, and not before") {
  for (const bool old_names : {false, true}) {
    const Rig rig(under_test());
    const Stream stream(rig.device);
    DeviceBuffer<std::byte> target(stream, bytes);
    rig.settle(stream);
    CudaPinnedResource resource(rig.heap);
    void* const data =
        old_names ? resource.allocate_async(bytes, 256, of(stream)) : resource.allocate(of(stream), bytes);
    std::memset(data, 3, bytes);
    Gate gate(rig, stream);
    REQUIRE(rig.backend()
                .copy(target.span().native(), data, bytes, detail::CopyKind::host_to_device, stream.native())
                .ok());
    if (old_names)
      resource.deallocate_async(data, bytes, 256, of(stream));
    else
      resource.deallocate(of(stream), data, bytes);
    (void)rig.heap.collect();
    CHECK(!rig.all_free());
    gate.open();
    rig.settle(stream);
    CHECK(rig.all_free());
    CHECK(device_holds(rig, stream, target, 3));
  }
}

TEST_CASE("where a deallocation cannot be noted the memory is kept, and the device says why") {
  Rig rig;
  CudaPinnedResource resource(rig.heap);
  void* const data = resource.allocate_sync(bytes);
  std::optional<Stream> stream(std::in_place, rig.device);
  const cuda::stream_ref native = of(*stream);
  stream.reset();
  until([&] { return rig.calls(SimulatedCall::destroy_stream) != 0; });
  resource.deallocate(native, data, bytes);
  const auto error = rig.device.take_error();
  REQUIRE(error.has_value());
  CHECK(!rig.all_free());
}

TEST_CASE("copies of a cuda::mr resource are equal, and take back what the other gave") {
  const Rig rig(under_test());
  CudaPinnedResource one(rig.heap);
  CudaPinnedResource same = one;
  CHECK(one == same);
  CHECK(one != CudaPinnedResource(PinnedHeap(rig.arena)));
  void* const data = one.allocate(bytes);
  same.deallocate(data, bytes);
  CHECK(rig.heap.stats().in_use == 0);
  cuda::mr::resource_ref<cuda::mr::host_accessible, cuda::mr::device_accessible> ref(one);
  ref.deallocate(ref.allocate(bytes), bytes);
  CHECK(rig.heap.stats().in_use == 0);
}

TEST_CASE("random allocations from several threads never meet, and all come back") {
  const Rig rig(running_under_test(), {.bytes = 32 * MiB});
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed != 4; ++seed)
    threads.emplace_back([&, seed] {
      CudaPinnedResource resource(rig.heap);
      const Stream stream(rig.device);
      std::minstd_rand random(seed + 1);
      // What is in flight may be all that there is: an allocation does not wait for it, but a program can.
      const auto allocate = [&](std::size_t size) {
        for (;;) try {
            return static_cast<unsigned char*>(resource.allocate(of(stream), size));
          } catch (const std::bad_alloc&) {
            rig.heap.drain();
          }
      };
      struct Held {
        unsigned char* data;
        std::size_t size;
      };
      std::vector<Held> held;
      for (int round = 0; round != 2000; ++round) {
        if (held.size() < 30 && random() % 2 == 0) {
          const std::size_t size = 1 + random() % (64 * KiB);
          held.push_back({allocate(size), size});
          std::memset(held.back().data, static_cast<int>(seed), size);
        } else if (!held.empty()) {
          std::swap(held[random() % held.size()], held.back());
          const auto [data, size] = held.back();
          held.pop_back();
          if (data[0] != seed || data[size - 1] != seed) ++wrong;
          resource.deallocate(of(stream), data, size);
        }
      }
      for (const auto [data, size] : held) resource.deallocate_sync(data, size);
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  rig.heap.drain();
  CHECK(rig.heap.stats().in_use == 0);
}

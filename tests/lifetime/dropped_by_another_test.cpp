// Device memory that was made on one thread's default stream, and that another thread drops. When the memory is freed
// is seen by the bytes that the simulated device has given.

#include <memory>
#include <optional>
#include <thread>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

StreamRef of_this_thread(const Device& device) {
  return detail::unwrap(detail::stream_from_native(device, reinterpret_cast<void*>(2)));  // cudaStreamPerThread
}

}  // namespace

TEST_CASE(
    "memory made on a thread's default stream and dropped by another thread is freed behind the first one's copy") {
  Rig rig;
  const StreamRef here = of_this_thread(rig.device);
  const auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{5});
  std::optional<DeviceBuffer<std::byte>> memory(std::in_place, here, bytes);
  rig.settle(here);
  rig.sim().hold(here);
  buffer.async_to_device(here, memory->span());
  std::thread([&] {
    const StreamRef there = of_this_thread(rig.device);
    memory.reset();
    rig.settle(there);
  }).join();
  (void)rig.heap.collect();
  rig.sim().run_all();
  CHECK(rig.sim().device_bytes() == bytes);
  rig.sim().release(here);
  rig.sim().run_all();
  here.synchronize();
  CHECK(!rig.device.lost());
  rig.until_device_memory_is_free();
}

TEST_CASE("memory made on a thread's default stream and dropped by another thread ends no use of the first one's") {
  for (const bool kept_by_a_list : {false, true}) {
    CAPTURE(kept_by_a_list);
    // On a thread of its own: where the main thread has used its default stream on a GPU, a child that it forks
    // crashes.
    std::thread([&] {
      Rig rig(under_test());
      const StreamRef here = of_this_thread(rig.device);
      const Stream other(rig.device);
      auto source = rig.heap.make_buffer<std::byte>(bytes, std::byte{5});
      auto second = rig.heap.make_buffer<std::byte>(bytes);
      std::optional<DeviceBuffer<std::byte>> memory(std::in_place, here, bytes);
      DeviceBuffer<std::byte> more(here, bytes);
      rig.settle(here);
      Gate gate(rig, here);
      source.async_to_device(here, more.span());
      UseList uses;
      if (kept_by_a_list)
        uses.reads(*memory);
      else
        second.async_from_device(other, memory->span());
      std::thread([&] {
        const StreamRef there = of_this_thread(rig.device);
        memory.reset();
        rig.settle(there);
        rig.settle(other);
        (void)rig.heap.collect();
      }).join();
      errc_text_of(source.try_borrow_mut(), Errc::in_flight);
      gate.open();
      rig.settle(here);
      CHECK(source.try_borrow_mut().has_value());
      CHECK(!rig.device.lost());
    }).join();
  }
}

TEST_CASE(
    "a stream of the program's is not touched for device memory whose handle went where nothing can be enqueued") {
  const Rig rig;
  const Stream own(rig.device);
  detail::StreamHandle native = nullptr, next = nullptr;
  REQUIRE(rig.backend().create_stream(&native).ok());
  UseList list;
  {
    const auto theirs = detail::unwrap(detail::stream_from_native(rig.device, native));
    auto memory = std::make_shared<std::optional<DeviceBuffer<std::byte>>>(std::in_place, theirs, bytes);
    list.reads(**memory);
    rig.settle(theirs);
    own.launch_host_function([memory = std::move(memory)] { memory->reset(); });
    rig.finish(own);
  }
  REQUIRE(rig.backend().destroy_stream(native).ok());
  REQUIRE(rig.backend().create_stream(&next).ok());  // which may have the handle of the one that is gone
  rig.sim().hold(detail::unwrap(detail::stream_from_native(rig.device, next)));
  list.clear();
  rig.until_device_memory_is_free();  // and not behind what the other stream has
  CHECK(!Device(rig.device).take_error());
}

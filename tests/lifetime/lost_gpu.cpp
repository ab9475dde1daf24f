// Rule 9 on a GPU: a kernel's illegal access ends the device, for good and for the whole process, so that this is a
// program of its own. Exit status 77: there is no GPU, or THOLE_DEVICE does not ask for one.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <thole/thole.hpp>

#include "fault_kernel.hpp"

namespace {

using thole::Access, thole::Errc, thole::Error;
using Bytes = thole::PinnedBuffer<std::byte>;

constexpr std::size_t bytes = std::size_t{1} << 20;
bool good = true;

void must(bool condition, const std::string& what) {
  std::printf("%s: %s\n", condition ? "good" : "WRONG", what.c_str());
  good = good && condition;
}

void says_lost(const char* what, const std::function<void()>& call) {
  try {
    call();
    must(false, std::string(what) + " succeeded");
  } catch (const Error& error) {
    must(error.errc() == Errc::device_lost && std::string_view(error.what()).find("cudaError") != std::string::npos,
         std::string(what) + ": " + error.what());
  }
}

bool works(const thole::Device& device) {
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = bytes}));
  const thole::Stream stream(device);
  const auto there = heap.make_buffer<std::byte>(1000, std::byte{5}).async_to_device(stream);
  return there.async_to_host(stream, heap).borrow()[999] == std::byte{5};
}

void lose(thole::Device device) {
  std::optional<thole::PinnedHeap> heap(std::in_place, thole::PinnedArena(device, {.bytes = 16 * bytes}));
  std::optional<thole::Stream> stream(std::in_place, device), other(std::in_place, device);
  std::optional<thole::DeviceBuffer<std::byte>> target(std::in_place, *stream, bytes);
  stream->synchronize();
  auto idle = heap->make_buffer<std::byte>(bytes, std::byte{1});
  auto in_flight = heap->make_buffer<std::byte>(bytes, std::byte{2});
  in_flight.use_on(*stream, Access::device_reads, [](const std::byte*, thole::NativeStream native) {
    must(launch_fault(native), "the kernel is launched");
  });
  in_flight.async_to_device(*stream, target->span());
  std::optional<Bytes> back(target->async_to_host(*stream, *heap));
  std::optional<thole::Event> event(stream->record());
  const void* const address = in_flight.unsynchronized_data();

  says_lost("borrow of what is written", [&] { (void)back->borrow(); });
  must(device.lost(), "the device knows that it is lost");
  says_lost("borrow_mut of what is read", [&] { (void)in_flight.borrow_mut(); });
  says_lost("Stream::synchronize", [&] { stream->synchronize(); });
  says_lost("another stream's", [&] { other->synchronize(); });
  says_lost("Event::synchronize", [&] { event->synchronize(); });
  says_lost("Event::ready", [&] { (void)event->ready(); });
  says_lost("Stream::record", [&] { (void)stream->record(); });
  says_lost("drain", [&] { heap->drain(); });
  says_lost("make_buffer", [&] { (void)heap->make_buffer<std::byte>(1); });
  says_lost("async_to_device", [&] { (void)idle.async_to_device(*other); });
  says_lost("a new stream", [&] { const thole::Stream made(device); });
  says_lost("a new arena", [&] { const thole::PinnedArena made(device, {.bytes = bytes}); });
  must(idle.borrow()[bytes - 1] == std::byte{1}, "what the device does not use can be read");
  idle.borrow_mut()[0] = std::byte{3};
  must(in_flight.borrow()[0] == std::byte{2}, "what it only reads can be read");

  const auto arena = heap->arena();
  { const auto dropped = std::move(in_flight); }
  back.reset();
  (void)heap->collect();
  must(heap->stats().in_flight >= 2 * bytes && arena.contains(address), "what was in flight stays where it is");
  target.reset();
  event.reset();
  stream.reset();
  heap.reset();
  other.reset();
  const auto error = device.take_error();
  std::printf("the destructors met: %s\n", error ? error->what() : "nothing");
}

}  // namespace

int main() try {
  const char* const name = std::getenv("THOLE_DEVICE");
  if (name == nullptr || !std::string_view(name).starts_with("cuda")) return 77;
  const auto device = thole::Device::best();
  must(works(device), "a copy there and back before");
  lose(device);
  must(works(thole::Device::simulated()), "a simulated device beside it works on");
  return good ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}

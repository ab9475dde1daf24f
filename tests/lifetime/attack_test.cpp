// What a program may do with the safe calls alone, however odd: no promise breaks. Each case was an attack first.
// Devices that end, and steps that show each state in between, are the simulated device's.

#include <array>
#include <functional>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "../support/allocations.hpp"
#include "../support/rig.hpp"
#include "../support/sanitized.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

constexpr std::size_t bytes = 4 * KiB;

/// Work that reads the memory when the stream gets there, and counts what is
/// not as it was.
class Looks {
 public:
  explicit Looks(const Rig& rig) : backend_(&rig.backend()) {}
  /// In a function of use_on.
  void enqueue(const std::byte* data, NativeStream native, int value) {
    wanted_.push_back(std::make_unique<Wanted>(Wanted{this, data, value}));
    const auto look = [](void* argument) {
      const auto& self = *static_cast<Wanted*>(argument);
      ++self.looks->done;
      if (!all_are(self.data, bytes, self.value)) ++self.looks->wrong;
    };
    REQUIRE(backend_->launch_host_function(native, look, wanted_.back().get()).ok());
  }
  std::atomic<int> done{0};
  std::atomic<int> wrong{0};

 private:
  struct Wanted {
    Looks* looks;
    const std::byte* data;
    int value;
  };
  detail::DeviceBackend* backend_;
  std::vector<std::unique_ptr<Wanted>> wanted_;
};

void overwrite_what_is_free(const Rig& rig) {
  std::vector<Bytes> others;
  while (auto made = rig.heap.try_make_buffer<std::byte>(bytes)) {
    fill(*made, 1);
    others.push_back(std::move(*made));
  }
}

}  // namespace

TEST_CASE(
    "a function of use_on may move its buffer away, or put another one "
    "in its place") {
  for (const int way : {0, 1, 2}) {
    const Rig rig(under_test());
    const Stream stream(rig.device);
    Looks looks(rig);
    auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
    std::optional<Bytes> elsewhere;
    Gate gate(rig, stream);
    buffer.use_on(stream, Access::device_writes, [&](std::byte* data, NativeStream native) {
      if (way == 0) elsewhere = std::move(buffer);
      if (way == 1) buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{2});
      if (way == 2) {
        auto other = rig.heap.make_buffer<std::byte>(bytes, std::byte{2});
        std::swap(buffer, other);
      }
      looks.enqueue(data, native, 7);
    });
    if (way == 0) {
      errc_text_of(elsewhere->try_borrow(), Errc::in_flight);
      errc_text_of(buffer.try_borrow(), Errc::moved_from);
    } else {
      CHECK(all_are(buffer, 2));
      CHECK(buffer.try_borrow_mut().has_value());
    }
    overwrite_what_is_free(rig);
    gate.open();
    rig.settle(stream);
    CHECK(looks.done == 1);
    CHECK(looks.wrong == 0);
  }
}

TEST_CASE("a function of use_on may end its stream, also while that captures") {
  for (const bool captures : {false, true})
    for (const auto& [drop_buffer, of_many] : {std::pair(false, false), {true, false}, {false, true}, {true, true}}) {
      const Rig rig;
      Looks looks(rig);
      auto stream = std::make_optional<Stream>(rig.device);
      auto buffer = std::make_optional(rig.heap.make_buffer<std::byte>(bytes, std::byte{7}));
      if (captures) rig.sim().begin_capture(*stream);
      const auto f = [&, drop = drop_buffer](const std::byte* data, NativeStream native) {
        looks.enqueue(data, native, 7);
        stream.reset();
        if (drop) buffer.reset();
        // Nobody but this call knows the stream any more: others
        // forget what is done.
        if (buffer) (void)std::as_const(*buffer).try_borrow();
      };
      of_many ? use_on(*stream, reads(*buffer), f) : buffer->use_on(*stream, Access::device_reads, f);
      overwrite_what_is_free(rig);
      rig.sim().run_all();
      CHECK(looks.done == (captures ? 0 : 1));
      CHECK(looks.wrong == 0);
      buffer.reset();
      (void)rig.heap.collect();
      rig.sim().run_all();
      (void)rig.heap.collect();
      CHECK(rig.all_free());
    }
}

TEST_CASE("a function that throws in the function of another use loses neither use") {
  const Rig rig(under_test());
  const Stream one(rig.device), other(rig.device);
  Looks looks(rig);
  auto outer = std::make_optional(rig.heap.make_buffer<std::byte>(bytes, std::byte{3}));
  auto inner = std::make_optional(rig.heap.make_buffer<std::byte>(bytes, std::byte{4}));
  struct Thrown {};
  try {
    outer->use_on(one, Access::device_reads, [&](const std::byte* first, NativeStream first_stream) {
      looks.enqueue(first, first_stream, 3);
      inner->use_on(other, Access::device_reads, [&](const std::byte* second, NativeStream second_stream) {
        looks.enqueue(second, second_stream, 4);
        outer.reset();
        inner.reset();
        throw Thrown{};
      });
    });
    FAIL_CHECK("nothing was thrown");
  } catch (const Thrown&) {
  }
  overwrite_what_is_free(rig);
  rig.finish(one);
  rig.finish(other);
  CHECK(looks.done == 2);
  CHECK(looks.wrong == 0);
  rig.settle(one);
  rig.settle(other);
  CHECK(rig.all_free());
}

TEST_CASE("a function of use_on may wait for everything: its own use is none yet") {
  const Rig rig(running_under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
  const auto there = buffer.async_to_device(stream);
  buffer.use_on(stream, Access::device_writes, [&](std::byte*, NativeStream) {
    buffer.wait();
    stream.synchronize();
    stream.record().synchronize();
    rig.heap.drain();
    CHECK(!buffer.busy());
    errc_text([&] { (void)buffer.borrow(); }, Errc::borrowed);
  });
  buffer.wait();
  CHECK(all_are(buffer, 7));
}

TEST_CASE(
    "two threads that use two buffers in opposite orders, one in the "
    "function of the other, do not wait for ever") {
  const Rig rig(running_under_test());
  auto first = rig.heap.make_buffer<std::byte>(bytes), second = rig.heap.make_buffer<std::byte>(bytes);
  const auto use_both = [&](const Bytes& outer, const Bytes& inner) {
    const Stream stream(rig.device);
    for (int i = 0; i != 200; ++i)
      outer.use_on(stream, Access::device_reads, [&](const std::byte*, NativeStream) {
        inner.use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {});
      });
  };
  std::thread other([&] { use_both(second, first); });
  use_both(first, second);
  other.join();
  CHECK(first.borrow_mut().size() == bytes);
}

TEST_CASE(
    "a function in a stream may own the last handle of everything, its "
    "own stream and device too") {
  struct All {
    Device device;
    PinnedArena arena;
    PinnedHeap heap;
    Stream stream, other;
    Event event;
    Bytes buffer, borrowed;
    Borrow<std::byte> borrow;
    DeviceBuffer<std::byte> memory;
  };
  for (int round = 0; round != 100; ++round) {
    auto device = Device::simulated({.seed = static_cast<std::uint64_t>(round)});
    const PinnedArena arena(device, {.bytes = MiB});
    const PinnedHeap heap(arena);
    Stream stream(device), other(device);
    auto buffer = heap.make_buffer<std::byte>(bytes), borrowed = heap.make_buffer<std::byte>(bytes);
    auto borrow = borrowed.borrow();
    auto memory = buffer.async_to_device(other);
    auto event = other.record();
    const StreamRef view(stream);
    auto all =
        std::make_shared<All>(All{std::move(device), arena, heap, std::move(stream), std::move(other), std::move(event),
                                  std::move(buffer), std::move(borrowed), std::move(borrow), std::move(memory)});
    std::atomic<bool> ran{false};
    view.launch_host_function([all = std::move(all), &ran]() mutable {
      if (ran.exchange(true)) return;
    });
    until([&] { return ran.load(); });
  }
}

TEST_CASE("a function in a stream may own the last handle of its device, which ends after it") {
  struct Both {
    Device device;
    Stream stream;
  };
  for (int round = 0; round != 20; ++round) {
    auto device = Device::simulated();
    Stream stream(device);
    std::atomic<bool> alone{false}, gone{false};
    {
      const StreamRef view(stream);
      auto both = std::make_shared<Both>(Both{std::move(device), std::move(stream)});
      const auto last = std::shared_ptr<void>(nullptr, [&gone](void*) { gone = true; });
      view.launch_host_function([last, both = std::move(both), &alone] { until([&] { return alone.load(); }); });
    }
    alone = true;
    until([&] { return gone.load(); });  // `last` goes after `both`
  }
}

TEST_CASE(
    "memory goes from one arena over the device into another, while all "
    "that made it ends in any order") {
  for (int order = 0; order != 24; ++order) {
    const auto device = stepped();
    auto from = std::make_optional<PinnedHeap>(PinnedArena(device, {.bytes = MiB}));
    auto to = std::make_optional<PinnedHeap>(PinnedArena(device, {.bytes = MiB}));
    auto out = std::make_optional<Stream>(device), in = std::make_optional<Stream>(device);
    auto memory = std::make_optional(from->make_buffer<std::byte>(bytes, std::byte(order)).async_to_device(*out));
    auto back = memory->async_to_host(*in, *to);
    std::array<std::function<void()>, 4> drops{[&] { from.reset(); }, [&] { to.reset(); },
                                               [&] {
                                                 out.reset();
                                                 in.reset();
                                               },
                                               [&] { memory.reset(); }};
    for (int left = 4, at = order; left != 0; at /= left, --left) {
      std::swap(drops[static_cast<std::size_t>(at % left)], drops[static_cast<std::size_t>(left - 1)]);
      drops[static_cast<std::size_t>(left - 1)]();
    }
    errc_text_of(back.try_borrow(), Errc::in_flight);
    device.simulation().run_all();
    CHECK(all_are(back, order));
  }
}

TEST_CASE(
    "a stream that waits for another device's event goes on though that "
    "device's handles are all gone") {
  for (const bool waiting : {true, false}) {
    const auto near = stepped();
    const Stream stream(near);
    {
      const auto far = stepped();
      const Stream other(far);
      const DeviceBuffer<std::byte> memory(other, bytes);
      const Event event = other.record();
      if (waiting) stream.wait(event);
      far.simulation().run_all();
    }
    near.simulation().run_all();
    CHECK(near.simulation().pending(stream) == 0);
    CHECK(!near.lost());
  }
}

TEST_CASE("who waits keeps the device: its other handles may all go meanwhile") {
  for (const int way : {0, 1, 2}) {
    std::optional<Rig> rig(std::in_place);
    auto sim = rig->sim();
    auto stream = std::make_optional<Stream>(rig->device);
    DeviceBuffer<std::byte> memory(*stream, bytes);
    auto buffer = rig->heap.make_buffer<std::byte>(bytes, std::byte{3});
    buffer.async_to_device(*stream, memory.span());
    Event event = stream->record();
    StreamRef view(*stream);
    std::thread waits;
    if (way == 0)
      waits = std::thread([kept = std::move(event)] { kept.synchronize(); });
    else if (way == 1)
      waits = std::thread([kept = std::move(buffer)]() mutable { (void)kept.borrow_mut(); });
    else
      waits = std::thread([kept = view] { kept.synchronize(); });
    until_blocked(sim);
    {
      // All that this thread has.
      const Event gone_event = std::move(event);
      const Bytes gone_buffer = std::move(buffer);
      const StreamRef gone_view = std::move(view);
      const DeviceBuffer<std::byte> gone_memory = std::move(memory);
    }
    stream.reset();
    rig.reset();
    sim.run_all();
    waits.join();
  }
}

TEST_CASE("errors have a text, or at least a code, where the system has no memory" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  auto stream = std::make_optional<Stream>(rig.device);
  const StreamRef view(*stream);
  const Stream other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  const auto dangling = DeviceBuffer<std::byte>(other, bytes).span();
  auto held = rig.heap.make_buffer<std::byte>(bytes);
  const auto borrow = held.borrow_mut();
  stream.reset();
  Bytes moved = std::move(buffer);
  const auto code = [](const auto& result) { return result ? 0 : static_cast<int>(result.error().errc()); };
  std::vector<std::pair<int, Errc>> seen;
  seen.reserve(32);
  {
    const NoMemory no_memory;
    seen.emplace_back(code(view.try_record()), Errc::invalid_argument);
    seen.emplace_back(code(moved.try_async_to_device(view)), Errc::invalid_argument);
    seen.emplace_back(code(buffer.try_borrow()), Errc::moved_from);
    seen.emplace_back(code(held.try_borrow()), Errc::borrowed);
    seen.emplace_back(code(held.try_async_to_device(other)), Errc::borrowed);
    seen.emplace_back(code(moved.try_async_to_device(other, dangling)), Errc::invalid_argument);
    seen.emplace_back(code(rig.heap.try_make_buffer<std::byte>(std::size_t{1} << 40)), Errc::too_large);
    rig.sim().fail_call(SimulatedCall::allocate_device, 1);
    seen.emplace_back(code(DeviceBuffer<std::byte>::try_make(other, std::size_t{2} << 30)), Errc::out_of_memory);
  }
  for (const auto& [is, wanted] : seen) CHECK(is == static_cast<int>(wanted));
}

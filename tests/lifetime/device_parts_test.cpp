// Parts of device memory, used at once: each a buffer of its own, and the memory is freed with the last. What holds two
// streams apart, or counts, needs the simulated device.

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <thole/graph.hpp>

#include "../support/allocations.hpp"
#include "../support/rig.hpp"

using namespace support;

namespace {

using Memory = DeviceBuffer<std::byte>;
constexpr std::size_t bytes = 4 * KiB;
const auto nothing = [](auto&&...) {};

/// Memory of three parts, and what is in them.
std::vector<Memory> three(const Rig& rig, const Stream& stream) {
  auto parts = Memory(stream, 3 * bytes).split({bytes, bytes, bytes});
  rig.settle(stream);
  stream.synchronize();
  return parts;
}

}  // namespace

TEST_CASE("parts of device memory are buffers of their own, one behind the other in the memory that they share") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(10, 7).async_to_device(stream);
  int* const data = buffer.span().native();
  auto [left, right] = std::move(buffer).split_at(4);
  errc_text([&] { (void)buffer.async_to_host(stream, rig.heap); }, Errc::moved_from);
  CHECK(buffer.span().empty());
  CHECK(left.size() == 4);
  CHECK(right.size() == 6);
  CHECK(left.span().native() == data);
  CHECK(right.span().native() == data + 4);
  auto parts = std::move(right).split({1, 0, 2, 3});
  REQUIRE(parts.size() == 4);
  CHECK(parts[1].empty());
  CHECK(parts[1].async_to_host(stream, rig.heap).empty());
  CHECK(parts[3].span().native() == data + 7);
  rig.heap.make_buffer<int>(3, 5).async_to_device(stream, parts[3].span());
  const auto last = parts[3].async_to_host(stream, rig.heap);
  const auto before = parts[2].async_to_host(stream, rig.heap);
  rig.settle(stream);
  CHECK(last.borrow()[2] == 5);
  CHECK(before.borrow()[1] == 7);
}

TEST_CASE("streams that use different parts of device memory do not wait for each other") {
  const Rig rig;
  const Stream first(rig.device), second(rig.device), third(rig.device);
  auto parts = three(rig, first);
  const Stream* const streams[] = {&first, &second, &third};
  const auto waits = rig.calls(SimulatedCall::wait_event);
  for (int round = 0; round != 5; ++round)
    for (std::size_t i = 0; i != 3; ++i) use_on(*streams[i], writes(parts[i]), nothing);
  CHECK(rig.calls(SimulatedCall::wait_event) == waits);
  use_on(first, reads(parts[1]), nothing);
  CHECK(rig.calls(SimulatedCall::wait_event) == waits + 1);
}

TEST_CASE("what uses device memory that is split uses each of its parts") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(2 * bytes, std::byte{1}).async_to_device(stream);
  rig.settle(stream);
  Gate gate(rig, stream);
  rig.heap.make_buffer<std::byte>(2 * bytes, std::byte{2}).async_to_device(stream, buffer.span());
  auto [left, right] = std::move(buffer).split_at(bytes);
  const auto read = right.async_to_host(other, rig.heap);
  if (rig.simulated()) rig.sim().run_all();  // all that can
  errc_text_of(read.try_borrow(), Errc::in_flight);
  gate.open();
  rig.settle(stream);
  rig.settle(other);
  CHECK(all_are(read, 2));
}

TEST_CASE("the memory is freed when all parts are gone, and the device is done with each, in any order") {
  std::vector<std::size_t> order{0, 1, 2};
  do {
    const Rig rig;
    const Stream a(rig.device), b(rig.device);
    auto parts = three(rig, a);
    const auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
    buffer.async_to_device(a, parts[0].span());
    buffer.async_to_device(b, parts[1].span());
    for (const std::size_t which : order) {
      CHECK(rig.sim().device_bytes() == 3 * bytes);
      { const auto part = std::move(parts[which]); }
    }
    CHECK(rig.sim().device_bytes() == 3 * bytes);
    rig.sim().step(a, 100);
    (void)rig.heap.collect();
    CHECK(rig.sim().device_bytes() == 3 * bytes);
    rig.settle(b);
    rig.until_device_memory_is_free();
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("parts that one stream alone has used are freed in its order, and no call waits") {
  const Rig rig;
  const Stream stream(rig.device);
  auto parts = three(rig, stream);
  for (auto& part : parts) use_on(stream, writes(part), nothing);
  parts.clear();
  CHECK(rig.calls(SimulatedCall::free_device) == 1);
  rig.sim().run_all();
  CHECK(rig.sim().device_bytes() == 0);
}

TEST_CASE("a span of memory that was split, or of a part that was joined or dropped, is dangling") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  Memory memory(stream, 2 * bytes);
  const auto of_all = memory.span();
  auto [left, right] = std::move(memory).split_at(bytes);
  const auto of_left = left.span(), of_right = right.span();
  const auto dangles = [&](DeviceSpan<std::byte> span) {
    errc_text([&] { buffer.async_to_device(stream, span.subspan(0, bytes)); }, Errc::invalid_argument);
  };
  dangles(of_all);
  buffer.async_to_device(stream, of_left);
  memory = join(std::move(left), std::move(right));
  for (const auto& span : {of_all, of_left, of_right}) dangles(span);
  buffer.async_to_device(stream, memory.span());
  auto parts = std::move(memory).split({bytes, bytes});
  const auto of_first = parts[0].span();
  parts.erase(parts.begin());
  dangles(of_first);
  buffer.async_to_device(stream, parts[0].span());
  rig.settle(stream);
}

TEST_CASE("a graph, a list or a call keeps a part's memory, and stands in the way of a split") {
  const Rig rig;
  const Stream stream(rig.device);
  auto parts = three(rig, stream);
  auto graph = std::make_optional(capture(stream, [&] { use_on(stream, writes(parts[0]), nothing); }));
  UseList list;
  list.reads(parts[1]);
  CHECK(has(errc_text_of(std::move(parts[0]).try_split_at(1), Errc::borrowed), "4096 bytes"));
  errc_text_of(std::move(parts[1]).try_split(std::vector<std::size_t>{1, bytes - 1}), Errc::borrowed);
  errc_text_of(try_join(std::move(parts)), Errc::borrowed);
  errc_text([&] { (void)join(std::move(parts[1])); }, Errc::borrowed);  // as of pinned memory
  REQUIRE(parts.size() == 3);
  use_on(stream, writes(parts[2]),
         [&](std::byte*, NativeStream) { errc_text_of(std::move(parts[2]).try_split_at(1), Errc::borrowed); });
  for (auto& part : parts) CHECK(part.size() == bytes);
  const auto of_first = parts[0].span();
  const auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  buffer.async_to_device(stream, of_first);  // what was refused has changed nothing
  parts.clear();
  rig.settle(stream);
  (void)rig.heap.collect();
  CHECK(rig.sim().device_bytes() == 3 * bytes);
  list.clear();
  (void)rig.heap.collect();
  CHECK(rig.sim().device_bytes() == 3 * bytes);
  graph.reset();
  until([&] {
    (void)rig.heap.collect();
    rig.sim().run_all();
    return rig.sim().device_bytes() == 0;
  });
}

TEST_CASE("neighbours of device memory are joined, and what uses a part uses the buffer") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device), third(rig.device);
  auto parts = three(rig, stream);
  use_on(stream, writes(parts[0]), nothing);
  use_on(other, writes(parts[2]), nothing);
  auto all = join(std::move(parts));
  CHECK(all.size() == 3 * bytes);
  const auto waits = rig.calls(SimulatedCall::wait_event);
  use_on(third, reads(all), nothing);
  CHECK(rig.calls(SimulatedCall::wait_event) == waits + 2);
  errc_text([&] { (void)join(std::move(parts[0])); }, Errc::moved_from);
}

TEST_CASE("what is no neighbour is not joined, and nothing has changed") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto parts = three(rig, stream);
  auto others = three(rig, stream);
  Memory alone(stream, bytes), none(stream, 0);
  for (auto* const wrong : {&parts[2], &others[1], &alone})
    CHECK(has(errc_text([&] { (void)join(std::move(parts[0]), std::move(*wrong)); }, Errc::invalid_argument),
              "4096 bytes before"));
  errc_text([&] { (void)join(std::move(parts[1]), std::move(parts[0])); }, Errc::invalid_argument);
  errc_text_of(std::move(parts[0]).try_split_at(bytes + 1), Errc::invalid_argument);
  errc_text_of(std::move(parts[0]).try_split(std::vector<std::size_t>{1, 2}), Errc::invalid_argument);
  errc_text([&] { (void)join(std::move(parts[0]), std::move(parts[0])); }, Errc::invalid_argument);
  errc_text([&] { (void)join(std::move(alone), std::move(alone)); }, Errc::invalid_argument);
  const auto of_alone = alone.span();
  const auto same = join(std::move(alone));
  CHECK(same.size() == bytes);
  rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream, of_alone);  // it is what it was
  CHECK(join(std::move(none), std::move(parts[0]), Memory(), std::move(parts[1])).size() == 2 * bytes);
  CHECK(join(std::vector<Memory>()).empty());
  CHECK(Memory().split({0, 0}).size() == 2);
  CHECK(Memory(stream, 0).split({0}).at(0).empty());
}

TEST_CASE("a split or a join that the system has no memory for changes nothing") {
  const Rig rig;
  std::vector<Stream> streams;
  for (int i = 0; i != 20; ++i) streams.emplace_back(rig.device);
  auto parts = three(rig, streams[0]);
  for (const Stream& stream : streams) use_on(stream, reads(parts[0]), nothing);
  const auto span = parts[0].span();
  std::vector<Memory> many, kept;
  const std::vector<std::size_t> sizes(64, bytes / 64);
  for (std::size_t but_for = 0; many.empty(); ++but_for) {  // records are used again: at last none is needed
    Result<std::vector<Memory>> split;
    {
      const NoMemory none(but_for);
      split = std::move(parts[0]).try_split(sizes);
    }
    if (split) {
      many = std::move(*split);
      break;
    }
    CHECK(split.error().errc() == Errc::out_of_memory);
    rig.heap.make_buffer<std::byte>(bytes).async_to_device(streams[0], span);
    kept.emplace_back(streams[0], 1);  // takes a record that the call has left
    REQUIRE(but_for < 10'000);
  }
  rig.sim().run_all();
  many.clear();
  kept.clear();
  parts.clear();
  rig.settle(streams[0]);
  (void)rig.heap.collect();
  rig.sim().run_all();
  CHECK(rig.sim().device_bytes() == 0);
}

TEST_CASE("parts are dropped by many threads at once, and in host functions, and the memory is freed once") {
  for (int round = 0; round != 50; ++round) {
    const Rig rig(running_under_test());
    const Stream stream(rig.device), other(rig.device);
    auto parts = Memory(stream, 8 * bytes).split(std::vector<std::size_t>(8, bytes));
    for (auto& part : parts) use_on(round % 2 == 0 ? stream : other, writes(part), nothing);
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i != 8; ++i)
      threads.emplace_back([part = std::move(parts[i])]() mutable { const auto gone = std::move(part); });
    stream.launch_host_function([part = std::make_shared<Memory>(std::move(parts[0]))]() mutable { part.reset(); });
    for (auto& thread : threads) thread.join();
    rig.settle(stream);
    rig.settle(other);
    if (rig.simulated()) until([&] { return rig.heap.collect(), rig.sim().device_bytes() == 0; });
  }
}

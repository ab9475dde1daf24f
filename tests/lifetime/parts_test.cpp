// Parts of one allocation, used at once: each a buffer of its own, and the memory comes back with the last. What holds
// two streams apart, or counts waits, needs the simulated device.

#include <numeric>
#include <vector>

#include "../support/allocations.hpp"
#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;
const auto nothing = [](auto&&...) {};

/// A buffer of the whole arena.
Bytes whole(const Rig& rig, int value = 1) {
  return rig.heap.make_buffer<std::byte>(rig.arena.capacity(), std::byte(value));
}

}  // namespace

TEST_CASE("parts are buffers of their own, one behind the other in the memory that they share") {
  const Rig rig(under_test());
  auto buffer = rig.heap.make_buffer<int>(10);
  auto filled = buffer.borrow_mut();
  std::iota(filled.begin(), filled.end(), 0);
  filled.drop();
  const int* const data = buffer.unsynchronized_data();
  auto [left, right] = std::move(buffer).split_at(4);
  errc_text([&] { (void)buffer.borrow(); }, Errc::moved_from);
  CHECK(left.size() == 4);
  CHECK(right.size() == 6);
  CHECK(left.unsynchronized_data() == data);
  CHECK(right.unsynchronized_data() == data + 4);
  CHECK(right.borrow()[0] == 4);
  auto parts = std::move(right).split({1, 0, 2, 3});
  REQUIRE(parts.size() == 4);
  CHECK(parts[1].empty());
  CHECK(parts[3].borrow()[2] == 9);
  const auto mutable_part = parts[0].borrow_mut();
  CHECK(parts[2].try_borrow_mut().has_value());
}

TEST_CASE("a borrow or a use of one part does not touch another") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto [left, right] = whole(rig).split_at(100);
  Gate gate(rig, stream);
  left.use_on(stream, Access::device_writes, nothing);
  CHECK(right.try_borrow_mut().has_value());
  right.use_on(other, Access::device_reads, nothing);
  rig.finish(other);
  CHECK(right.try_borrow_mut().has_value());
  errc_text_of(left.try_borrow(), Errc::in_flight);
  const auto borrow = right.borrow_mut();
  use_on(stream, writes(left), nothing);
  errc_text_of(try_use_on(stream, writes(left), reads(right), nothing), Errc::borrowed);
  gate.open();
  rig.finish(stream);
  CHECK(left.try_borrow_mut().has_value());
}

TEST_CASE("four slices on four streams cost no wait of one stream for another") {
  const Rig rig;
  std::vector<Stream> streams;
  auto parts = whole(rig).split(std::vector<std::size_t>(4, rig.arena.capacity() / 4));
  for (int round = 0; round != 5; ++round)
    for (std::size_t i = 0; i != 4; ++i) {
      if (round == 0) streams.emplace_back(rig.device);
      use_on(streams[i], writes(parts[i]), nothing);
    }
  CHECK(rig.calls(SimulatedCall::wait_event) == 0);
}

TEST_CASE("the memory comes back when all parts are gone, and the device is done with each, in any order") {
  std::vector<std::size_t> order{0, 1, 2};
  do {
    const Rig rig;
    const Stream a(rig.device), b(rig.device);
    DeviceBuffer<std::byte> memory(a, rig.arena.capacity());
    rig.settle(a);
    auto parts = whole(rig, 3).split({100, 4 * KiB, rig.arena.capacity() - 100 - 4 * KiB});
    parts[0].async_to_device(a, memory.span());
    parts[1].async_to_device(b, memory.span());
    (void)a.native();  // each stream has its event, so that nobody need ask for one
    (void)b.native();
    for (const std::size_t which : order) {
      CHECK(!rig.all_free());
      { auto part = std::move(parts[which]); }
    }
    CHECK(!rig.all_free());
    rig.sim().step(b, 100);
    CHECK(!rig.all_free());
    rig.sim().run_all();
    CHECK(rig.all_free());
    CHECK(rig.heap.stats().in_use == 0);
    CHECK(rig.heap.stats().in_flight == 0);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("a borrow, a graph or a list of one part keeps the memory") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto [left, right] = whole(rig).split_at(10);
  auto borrow = left.borrow();
  UseList uses;
  uses.reads(right);
  auto graph = std::make_optional(capture(stream, [&] { left.use_on(stream, Access::device_reads, nothing); }));
  { auto gone = std::move(left), too = std::move(right); }
  CHECK(!rig.all_free());
  borrow.drop();
  CHECK(!rig.all_free());
  uses.clear();
  CHECK(!rig.all_free());
  graph.reset();
  until([&] { return rig.all_free(); });
}

TEST_CASE("what uses a buffer that is split uses each of its parts") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  auto buffer = whole(rig);
  buffer.use_on(stream, Access::device_writes, nothing);
  buffer.use_on(other, Access::device_reads, nothing);
  auto [left, right] = std::move(buffer).split_at(10);
  for (auto* part : {&left, &right}) {
    errc_text_of(part->try_borrow(), Errc::in_flight);
    CHECK(part->busy());
  }
  rig.sim().step(stream, 100);
  CHECK(left.try_borrow().has_value());
  errc_text_of(right.try_borrow_mut(), Errc::in_flight);
  CHECK(rig.heap.report().streams.size() == 1);
  rig.sim().run_all();
  CHECK(right.try_borrow_mut().has_value());
}

TEST_CASE("what is in the way of a split or a join is an error, and nothing has changed") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(10, 7);
  CHECK(has(errc_text_of(std::move(buffer).try_split_at(11), Errc::invalid_argument), "split_at"));
  errc_text_of(std::move(buffer).try_split(std::vector<std::size_t>{4, 5}), Errc::invalid_argument);
  errc_text_of(std::move(buffer).try_split(std::vector<std::size_t>{4, SIZE_MAX}), Errc::invalid_argument);
  {
    const auto borrow = buffer.borrow();
    errc_text([&] { (void)std::move(buffer).split_at(5); }, Errc::borrowed);
  }
  {
    UseList uses;
    uses.reads(buffer);
    CHECK(has(errc_text_of(std::move(buffer).try_split_at(5), Errc::borrowed), "UseList"));
  }
  auto parts = std::move(buffer).split({3, 3, 4});
  auto stranger = rig.heap.make_buffer<int>(3);
  errc_text([&] { (void)join(std::move(parts[0]), std::move(parts[2])); }, Errc::invalid_argument);
  errc_text([&] { (void)join(std::move(parts[1]), std::move(parts[0])); }, Errc::invalid_argument);
  errc_text([&] { (void)join(std::move(parts[0]), std::move(stranger)); }, Errc::invalid_argument);
  {
    const auto borrow = parts[1].borrow();
    errc_text_of(try_join(std::move(parts)), Errc::borrowed);
  }
  auto joined = join(std::move(parts));
  CHECK(joined.borrow()[9] == 7);
  CHECK(stranger.try_borrow_mut().has_value());
  errc_text([&] { (void)std::move(buffer).split_at(0); }, Errc::moved_from);
}

TEST_CASE("where there is no memory to join parts, or one is named twice, all of them are as before") {
  const Rig rig(under_test());
  auto parts = rig.heap.make_buffer<int>(100, 7).split({50, 50});
  errc_text([&] { (void)join(std::move(parts[0]), std::move(parts[0])); }, Errc::invalid_argument);
  CHECK(parts[0].size() == 50);
  auto a = std::move(parts[0]), b = std::move(parts[1]);
  const auto refused = [&](std::size_t but_for, auto&& join_them) {
    Result<PinnedBuffer<int>> joined;
    {
      const NoMemory none(but_for);
      joined = join_them();
    }
    if (joined) return false;
    errc_text_of(joined, Errc::out_of_memory);
    return true;
  };
  for (std::size_t left = 0; left != 8; ++left) {
    const auto as_result = [&]() -> Result<PinnedBuffer<int>> {
      try {
        return join(std::move(a), std::move(b));
      } catch (const Error& error) {
        return tl::unexpected(error);
      }
    };
    if (!refused(left, as_result)) break;
    CHECK(a.size() == 50);
    CHECK(b.borrow()[49] == 7);
  }
  auto again = rig.heap.make_buffer<int>(100, 7).split({50, 50});
  for (std::size_t left = 0; left != 8; ++left) {
    if (!refused(left, [&] { return try_join(std::move(again)); })) break;
    CHECK(again.size() == 2);
    CHECK(again[1].borrow()[49] == 7);
  }
}

TEST_CASE("parts that are joined are one buffer again, with the uses of all") {
  const Rig rig;
  const Stream a(rig.device), b(rig.device);
  auto parts = whole(rig).split({100, 0, 200, rig.arena.capacity() - 300});
  parts[0].use_on(a, Access::device_reads, nothing);
  parts[2].use_on(b, Access::device_writes, nothing);
  auto two = join(std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
  CHECK(two.size() == 300);
  errc_text_of(two.try_borrow(), Errc::in_flight);
  rig.sim().step(b, 100);
  CHECK(two.try_borrow().has_value());
  errc_text_of(two.try_borrow_mut(), Errc::in_flight);
  auto all = join(std::move(two), std::move(parts[3]));
  CHECK(all.size() == rig.arena.capacity());
  rig.sim().run_all();
  CHECK(all_are(all, 1));
  { auto gone = std::move(all); }
  CHECK(rig.all_free());
}

TEST_CASE("an empty buffer may be split and joined") {
  const Rig rig(under_test());
  auto parts = PinnedBuffer<int>().split({0, 0});
  REQUIRE(parts.size() == 2);
  CHECK(join(std::move(parts)).empty());
  auto [left, right] = rig.heap.make_buffer<int>(3, 5).split_at(0);
  CHECK(left.empty());
  CHECK(join(std::move(left), std::move(right)).borrow()[2] == 5);
}

TEST_CASE("drain and reports see parts, and threads may use and drop them at once") {
  const Rig rig(running_under_test());
  for (int round = 0; round != 20; ++round) {
    auto parts = whole(rig, round).split(std::vector<std::size_t>(8, rig.arena.capacity() / 8));
    std::vector<std::thread> threads;
    for (auto& part : parts)
      threads.emplace_back([&rig, round, part = std::move(part)]() mutable {
        const Stream stream(rig.device);
        auto memory = part.async_to_device(stream);
        part.async_from_device(stream, memory.span());
        CHECK(all_are(part, round));
      });
    (void)rig.heap.report().text();
    for (auto& thread : threads) thread.join();
    rig.heap.drain();
    CHECK(rig.all_free());
  }
}

TEST_CASE("drain waits for parts") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto [left, right] = whole(rig).split_at(100);
  Gate gate(rig, stream);
  left.use_on(stream, Access::device_reads, nothing);
  errc_text_of(rig.heap.drain_for(std::chrono::nanoseconds(0)), Errc::timed_out);
  CHECK(rig.heap.report().live.size() == 2);
  gate.open();
  CHECK(rig.heap.drain_for(forever).has_value());
}

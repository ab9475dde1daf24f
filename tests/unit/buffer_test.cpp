// <thole/buffer.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/rig.hpp"

using namespace support;

TEST_CASE("an empty buffer is valid in every call") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(0);
  CHECK(buffer.empty());
  CHECK(buffer.size() == 0);
  CHECK(buffer.size_bytes() == 0);
  CHECK(buffer.unsynchronized_data() == nullptr);
  CHECK_FALSE(buffer.busy());
  buffer.wait();
  CHECK(buffer.borrow().empty());
  CHECK(buffer.borrow_mut().empty());
  CHECK(buffer.try_borrow().has_value());
  CHECK(buffer.try_borrow_mut().has_value());
  const auto there = buffer.async_to_device(stream);
  CHECK(there.empty());
  CHECK(there.async_to_host(stream, rig.heap).empty());
  DeviceBuffer<int> some(stream, 4);
  buffer.async_to_device(stream, some.span());
  buffer.async_from_device(stream, there.span());
  errc_text([&] { buffer.async_from_device(stream, some.span()); }, Errc::too_small);
  CHECK(buffer.use_on(stream, Access::device_reads, [](const int* data, NativeStream) { return data == nullptr; }));
  const auto moved = std::move(buffer);
  CHECK(moved.empty());
}

TEST_CASE("a moved-from buffer says so in every call") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<int> there(stream, 4);
  auto from = rig.heap.make_buffer<int>(4, 1);
  const auto to = std::move(from);
  for (const std::string& text : {
           errc_text([&] { (void)from.borrow(); }, Errc::moved_from),
           errc_text([&] { (void)from.borrow_mut(); }, Errc::moved_from),
           errc_text([&] { from.wait(); }, Errc::moved_from),
           errc_text([&] { (void)from.async_to_device(stream); }, Errc::moved_from),
           errc_text([&] { from.async_to_device(stream, there.span()); }, Errc::moved_from),
           errc_text([&] { from.async_from_device(stream, there.span()); }, Errc::moved_from),
           errc_text([&] { from.use_on(stream, Access::device_reads, [](const int*, NativeStream) {}); },
                     Errc::moved_from),
           errc_text_of(from.try_borrow(), Errc::moved_from),
           errc_text_of(from.try_borrow_mut(), Errc::moved_from),
           errc_text_of(from.try_async_to_device(stream), Errc::moved_from),
       })
    CHECK(has(text, "PinnedBuffer::"));
  CHECK(from.empty());
  CHECK_FALSE(from.busy());
  CHECK(to.borrow()[3] == 1);
  from = rig.heap.make_buffer<int>(2, 5);
  CHECK(from.borrow()[1] == 5);
}

TEST_CASE("a destination that is too small is an error with both counts, and nothing is copied") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<int> there(stream, 3);
  auto four = rig.heap.make_buffer<int>(4, 1);
  auto two = rig.heap.make_buffer<int>(2, 1);
  const auto copies = rig.calls(SimulatedCall::copy);
  auto text = errc_text([&] { four.async_to_device(stream, there.span()); }, Errc::too_small);
  CHECK(has(text, "4 elements"));
  CHECK(has(text, "only 3"));
  text = errc_text([&] { two.async_from_device(stream, there.span()); }, Errc::too_small);
  CHECK(has(text, "3 elements"));
  CHECK(has(text, "only 2"));
  CHECK(rig.calls(SimulatedCall::copy) == copies);
  two.async_to_device(stream, there.span());
  four.async_from_device(stream, there.span());
  CHECK(rig.calls(SimulatedCall::copy) == copies + 2);
}

TEST_CASE("a part of a buffer is copied there and back, and a part outside of it is an error with the numbers") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<int> there(stream, 3);
  const auto from = rig.heap.make_buffer_from(std::vector<int>{0, 1, 2, 3, 4, 5});
  auto to = rig.heap.make_buffer<int>(6, 9);
  from.async_to_device(stream, there.span(), 2, 3);
  to.async_from_device(stream, there.span(), 1);
  rig.settle(stream);
  const auto got = to.borrow();
  CHECK(std::vector<int>(got.begin(), got.end()) == std::vector<int>{9, 2, 3, 4, 9, 9});
  auto text = errc_text([&] { from.async_to_device(stream, there.span(), 5, 2); }, Errc::invalid_argument);
  CHECK(has(text, "2 elements from element 5 on, of a buffer of 6"));
  errc_text([&] { from.async_to_device(stream, there.span(), 7, 0); }, Errc::invalid_argument);
  errc_text([&] { from.async_to_device(stream, there.span(), 0, 4); }, Errc::too_small);
}

TEST_CASE("memory of another device than the stream's is an error") {
  const Rig rig;
  const Device other = stepped();
  const Stream here(rig.device), elsewhere(other);
  DeviceBuffer<int> there(elsewhere, 4);
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  CHECK(has(errc_text([&] { buffer.async_to_device(here, there.span()); }, Errc::wrong_device), "16 bytes"));
  errc_text([&] { buffer.async_from_device(here, there.span()); }, Errc::wrong_device);
  buffer.async_to_device(elsewhere, there.span());
  (void)elsewhere.native();  // an event behind the copy
  other.simulation().run_all();
  buffer.wait();
}

TEST_CASE("use_on returns what the function returns: nothing, a value, a reference") {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  int count = 0;
  buffer.use_on(stream, Access::device_reads, [&](const int*, NativeStream) { ++count; });
  CHECK(count == 1);
  CHECK(buffer.use_on(stream, Access::device_reads, [](const int* data, NativeStream) { return data[0] + 1; }) == 2);
  int& reference = buffer.use_on(stream, Access::device_reads, [&](const int*, NativeStream) -> int& { return count; });
  CHECK(&reference == &count);
}

TEST_CASE("what was written comes back from the device") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  for (const auto count : std::initializer_list<std::size_t>{1, 3, 1000, 100000}) {
    auto buffer = rig.heap.make_buffer<char>(count);
    {
      const auto borrow = buffer.borrow_mut();
      for (std::size_t i = 0; i != count; ++i) borrow[i] = static_cast<char>(i * 7);
    }
    const auto there = buffer.async_to_device(stream);
    const auto back = there.async_to_host(stream, rig.heap);
    rig.settle(stream);
    const auto got = back.borrow();
    REQUIRE(got.size() == count);
    CHECK(std::memcmp(got.data(), buffer.borrow().data(), count) == 0);
  }
}

// <thole/borrow.hpp>, <thole/range_v3.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <gsl/span>
#include <numeric>
#include <range/v3/algorithm/copy.hpp>
#include <range/v3/numeric/accumulate.hpp>
#include <range/v3/view/chunk.hpp>
#include <range/v3/view/transform.hpp>
#include <ranges>
#include <thole/range_v3.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/rig.hpp"

using namespace support;

static_assert(std::ranges::contiguous_range<Borrow<int>> && std::ranges::sized_range<Borrow<int>>);
static_assert(std::ranges::contiguous_range<BorrowMut<int>> && std::ranges::sized_range<BorrowMut<int>>);
static_assert(std::same_as<std::ranges::range_reference_t<Borrow<int>>, const int&>);
static_assert(std::same_as<std::ranges::range_reference_t<BorrowMut<int>>, int&>);
static_assert(!std::is_copy_constructible_v<Borrow<int>> && !std::is_copy_constructible_v<BorrowMut<int>>);
template <class Handle>
concept has_span = requires(Handle&& handle) {
  std::forward<Handle>(handle).span();
};
static_assert(has_span<const Borrow<int>&> && has_span<BorrowMut<int>&>);
// The span would outlive a temporary borrow; its iterators go no further than the statement in most programs.
static_assert(!has_span<Borrow<int>> && !has_span<BorrowMut<int>> && !has_span<const BorrowMut<int>>);
static_assert(std::is_nothrow_move_constructible_v<Borrow<int>> && std::is_nothrow_move_assignable_v<Borrow<int>>);

TEST_CASE("a borrow is a gsl::span while it lives") {
  const Rig rig;
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  {
    const auto writer = buffer.borrow_mut();
    const gsl::span<int> span = writer.span();
    CHECK(span.size() == 4);
    span[2] = 7;
    writer[3] = 9;
  }
  const auto reader = buffer.borrow();
  const gsl::span<const int> span = reader.span();
  CHECK(span.data() == buffer.unsynchronized_data());
  CHECK(std::accumulate(reader.begin(), reader.end(), 0) == 18);
  CHECK(reader[2] == 7);
  CHECK_FALSE(reader.empty());
}

template <class Handle>
concept has_bytes = requires(Handle&& handle) {
  std::forward<Handle>(handle).as_bytes();
};
template <class Handle>
concept has_writable_bytes = requires(Handle&& handle) {
  std::forward<Handle>(handle).as_writable_bytes();
};
template <class Handle>
concept can_be_shared = requires(Handle&& handle) {
  std::forward<Handle>(handle).share();
};
static_assert(has_bytes<const Borrow<int>&> && has_bytes<BorrowMut<int>&> && !has_bytes<Borrow<int>>);
static_assert(has_writable_bytes<BorrowMut<int>&> && !has_writable_bytes<Borrow<int>&>);
static_assert(!has_writable_bytes<BorrowMut<int>>);
static_assert(can_be_shared<BorrowMut<int>> && !can_be_shared<BorrowMut<int>&> && !can_be_shared<Borrow<int>>);

TEST_CASE("a borrow's elements are bytes, too, which a BorrowMut may write") {
  const Rig rig;
  auto buffer = rig.heap.make_buffer<std::uint32_t>(3, 0x01010101);
  {
    const auto writer = buffer.borrow_mut();
    const gsl::span<std::byte> bytes = writer.as_writable_bytes();
    CHECK(bytes.size() == 12);
    bytes[4] = bytes[5] = bytes[6] = bytes[7] = std::byte{2};
    CHECK(writer.as_bytes()[3] == std::byte{1});
  }
  const auto reader = buffer.borrow();
  CHECK(reader[1] == 0x02020202);
  const gsl::span<const std::byte> bytes = reader.as_bytes();
  CHECK(static_cast<const void*>(bytes.data()) == reader.data());
  CHECK(BorrowMut<int>().share().empty());
  CHECK(PinnedBuffer<int>().borrow_mut().share().empty());
}

TEST_CASE("a temporary borrow goes through range-v3's views and lives as long as what the pipe made") {
  const Rig rig;
  const auto buffer = rig.heap.make_buffer_from(std::vector<int>{1, 2, 3, 4, 5});
  std::vector<int> sums;
  for (auto&& chunk : buffer.borrow() | ranges::views::chunk(2)) sums.push_back(ranges::accumulate(chunk, 0));
  CHECK(sums == std::vector<int>{3, 7, 5});
  {
    auto view = buffer.borrow() | ranges::views::chunk(2) |
                ranges::views::transform([](auto&& chunk) { return ranges::accumulate(chunk, 0); });
    CHECK(ranges::accumulate(view, 0) == 15);
    auto& written = const_cast<PinnedBuffer<int>&>(buffer);
    errc_text([&] { (void)written.borrow_mut(); }, Errc::borrowed);
  }
  CHECK(const_cast<PinnedBuffer<int>&>(buffer).try_borrow_mut().has_value());
}

TEST_CASE("std's algorithms and views take a borrow") {
  const Rig rig;
  auto buffer = rig.heap.make_buffer<int>(5);
  ranges::copy(std::vector<int>{5, 3, 1, 4, 2}, buffer.borrow_mut().begin());
  std::ranges::sort(buffer.borrow_mut());
  CHECK(std::ranges::is_sorted(buffer.borrow()));
  const auto borrow = buffer.borrow();
  int even = 0;
  for (const int value : borrow | std::views::filter([](int n) { return n % 2 == 0; })) even += value;
  CHECK(even == 6);
}

TEST_CASE("a borrow that was moved from borrows nothing, and the borrow ends once") {
  const Rig rig;
  auto buffer = rig.heap.make_buffer<int>(3, 1);
  {
    auto first = buffer.borrow();
    auto second = std::move(first);
    CHECK(second.size() == 3);
    first = std::move(second);
    CHECK(first.size() == 3);
    errc_text([&] { (void)buffer.borrow_mut(); }, Errc::borrowed);
  }
  CHECK(buffer.borrow_mut().size() == 3);
}

TEST_CASE("an element outside a borrow is an error that names the borrow, the element and the size") {
  const Rig rig;
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  {
    const auto reader = buffer.borrow();
    CHECK(reader.at(3) == 1);
    for (const auto& text : {errc_text([&] { (void)reader[4]; }, Errc::invalid_argument),
                             errc_text([&] { (void)reader.at(4); }, Errc::invalid_argument)})
      CHECK(text.starts_with("Borrow::operator[]: 1 element from element 4 on, of 4"));
  }
  {
    auto writer = buffer.borrow_mut();
    writer.at(0) = 2;
    CHECK(has(errc_text([&] { writer[SIZE_MAX] = 1; }, Errc::invalid_argument), "BorrowMut::operator[]"));
    const auto moved = std::move(writer);
    CHECK(has(errc_text([&] { writer[0] = 1; }, Errc::invalid_argument), "of 0"));
  }
  CHECK(buffer.borrow()[0] == 2);
}

TEST_CASE("a part outside a DeviceSpan is an error with the numbers") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<int> memory(stream, 4);
  const auto span = memory.span();
  CHECK(span.subspan(1, 3).size() == 3);
  CHECK(span.subspan(4, 0).empty());
  CHECK(has(errc_text([&] { (void)span.subspan(2, 3); }, Errc::invalid_argument),
            "DeviceSpan::subspan: 3 elements from element 2 on, of 4"));
  errc_text([&] { (void)span.subspan(5, 0); }, Errc::invalid_argument);
  errc_text([&] { (void)span.subspan(1, SIZE_MAX); }, Errc::invalid_argument);
}

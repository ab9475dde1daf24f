// A program that has a short name for std::ranges, and that names thole's handles before it includes them.

#include <thole/fwd.hpp>

#include <algorithm>
#include <ranges>

#include <thole/thole.hpp>

namespace ranges = std::ranges;
namespace views = std::views;

int main() {
  const auto device = thole::Device::simulated();
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = std::size_t{1} << 20}));
  auto buffer = heap.make_buffer<int>(10);
  ranges::copy(views::iota(0, 10), buffer.borrow_mut().begin());
  int sum = 0;
  for (const int number : buffer.borrow() | views::filter([](int n) { return n % 2 == 0; })) sum += number;
  for (const int number : heap.make_buffer_from(views::iota(0, 5)).borrow() | views::take(2)) sum += number;
  return sum == 21 && ranges::max(buffer.borrow()) == 9 ? 0 : 1;
}

// Every public header, and what their templates make of it, by a compiler that has no std::source_location: places in
// the program are known all the same, to a library that another compiler made.

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "all_headers.hpp"

namespace {

/// The place that the report gives for the only live buffer.
bool is_known_to_be_made_at(const thole::PinnedHeap& heap, std::uint32_t line) {
  const auto report = heap.report();
  if (report.live.size() == 1 && report.live[0].made_at.line() == line &&
      std::string_view(report.live[0].made_at.file_name()).ends_with("oldest_clang.cpp") &&
      report.text().find("oldest_clang.cpp:" + std::to_string(line)) != std::string::npos)
    return true;
  std::fprintf(stderr, "line %u is not in\n%s", line, report.text().c_str());
  return false;
}

}  // namespace

int main() {
  const auto device = thole::Device::simulated();
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = std::size_t{1} << 20}));
  const thole::Stream stream(device);
  auto buffer = heap.make_buffer<int>(100, 7);
  constexpr std::uint32_t line = __LINE__ - 1;
  const bool known = is_known_to_be_made_at(heap, line);

  auto [front, rest] = std::move(buffer).split_at(10);
  auto there = thole::DeviceBuffer<int>(stream, 10);
  thole::launch(
      stream, thole::reads(front), thole::writes(there), [](const int*, int*, thole::NativeStream) {},
      [](gsl::span<const int> from, gsl::span<int> to) {
        for (std::size_t i = 0; i != from.size(); ++i) to[i] = from[i] + 1;
      });
  int sum = 0;
  for (const int value : there.async_to_host(stream, heap).borrow()) sum += value;
  const auto tensor = thole::to_dlpack(front.borrow());
  thole::PinnedMemoryResource resource(heap);
  const std::pmr::vector<int> numbers(5, 1, &resource);
  return known && sum == 80 && tensor->dl_tensor.shape[0] == 10 && numbers.size() == 5 &&
                 thole::join(std::move(rest)).size() == 90
             ? 0
             : 1;
}

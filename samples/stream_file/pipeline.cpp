#include "pipeline.hpp"

#include <algorithm>
#include <chrono>
#include <queue>
#include <range/v3/view/take.hpp>
#include <utility>

#include "device_histogram.hpp"

namespace stream_file {

Pass stream_through(InputFile& input, const thole::PinnedHeap& heap, const thole::StreamRef& stream, Shape shape,
                    std::uint64_t limit, OutputFile* output, Progress* progress) {
  const auto start = std::chrono::steady_clock::now();
  Pass pass;
  Checksum read, back;
  DeviceHistogram on_device(stream, heap);
  std::queue<thole::PinnedBuffer<unsigned char>> on_the_way_back;

  const auto check_oldest = [&] {
    const auto bytes = on_the_way_back.front().borrow();  // waits for this one copy; later chunks go on
    back.add(bytes.span());
    on_device.add_returned(bytes.span());
    if (output != nullptr) output->write(bytes.span());
    on_the_way_back.pop();
  };

  bool at_end = false;
  while (!at_end && pass.bytes < limit) {
    if (on_the_way_back.size() == shape.window) check_oldest();

    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(shape.chunk, limit - pass.bytes));
    auto chunk = heap.make_buffer<unsigned char>(wanted);
    const std::size_t got = input.read(chunk.borrow_mut());
    at_end = got < wanted;
    if (got == 0) break;
    if (at_end)
      chunk = heap.make_buffer_from(chunk.borrow() | ranges::views::take(got));  // the last piece, of its own size

    auto there = chunk.async_to_device(stream);
    on_device.add(std::as_const(there).span());
    on_the_way_back.push(there.async_to_host(stream, heap));

    // The device reads the chunk at this moment; so may we.
    const auto bytes = chunk.borrow();
    read.add(bytes.span());
    count_bytes(bytes.span(), pass.on_cpu);

    pass.bytes += got;
    pass.chunks += 1;
    pass.copies += 2;
    if (progress != nullptr) progress->show(pass.bytes);
  }  // `chunk` and `there` are dropped each time round, mostly in flight: nobody waits for them

  while (!on_the_way_back.empty()) check_oldest();
  pass.on_device = on_device.result();
  pass.checksum_read = read.text();
  pass.checksum_back = back.text();
  pass.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return pass;
}

}  // namespace stream_file

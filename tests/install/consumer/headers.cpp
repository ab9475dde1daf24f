// Every header that is installed, as check.sh lists them; each by one call of what it declares, so that it links, too.

#define OMPI_SKIP_MPICXX 1  // else the header wants the library of its old C++ interface
#include "every_header.hpp"

void use_headers(const thole::PinnedHeap& heap, const thole::Stream& stream) {
  thole::PinnedMemoryResource resource(heap);
  const std::pmr::vector<int> numbers(10, 1, &resource);
  heap.record_use(numbers.data(), stream, thole::Access::device_reads);
  const auto buffer = heap.make_buffer<int>(10, 1);
  const auto tensor = thole::to_dlpack(buffer.borrow());
  const thole::TraceSpan span("headers");
  const thole::Graph graph =
      thole::capture(stream, [&] { buffer.use_on(stream, thole::Access::device_reads, [](auto...) {}); });
  stream.record().on_ready([](thole::Result<void>) {});
}

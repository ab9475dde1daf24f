#include "naive.hpp"

#include <algorithm>
#include <chrono>

namespace stream_file {

std::unique_ptr<NaiveDevice> make_naive(NaiveMemory memory, const thole::PinnedHeap& heap,
                                        const thole::StreamRef& stream, std::size_t chunk) {
  if (stream.device().backend() == thole::Backend::simulated) return make_naive_simulated(memory, heap, stream, chunk);
#ifdef THOLE_SAMPLE_HAS_CUDA
  return make_naive_cuda(memory, stream, chunk);
#else
  return nullptr;
#endif
}

Pass stream_naively(NaiveDevice& device, InputFile& input, const thole::PinnedHeap& heap,
                    const thole::StreamRef& stream, std::size_t chunk, std::uint64_t limit) {
  const auto start = std::chrono::steady_clock::now();
  Pass pass;
  Checksum read, back;
  DeviceHistogram on_device(stream, heap);

  bool at_end = false;
  while (!at_end && pass.bytes < limit) {
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(chunk, limit - pass.bytes));
    const auto memory = device.fresh(wanted);
    const std::size_t got = input.read(memory->in);
    at_end = got < wanted;
    if (got == 0) break;

    read.add(memory->in.first(got));
    count_bytes(memory->in.first(got), pass.on_cpu);
    device.there_and_back(*memory, got, on_device);
    back.add(memory->out.first(got));
    on_device.add_returned(memory->out.first(got));

    pass.bytes += got;
    pass.chunks += 1;
    pass.copies += 2;
  }

  pass.on_device = on_device.result();
  pass.checksum_read = read.text();
  pass.checksum_back = back.text();
  pass.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return pass;
}

}  // namespace stream_file

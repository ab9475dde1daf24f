// The naive ways on the simulated device. It has no driver that would stage pageable memory, so this file stages it, as
// a driver does: through one pinned buffer that is made once.

#include <algorithm>

#include "naive.hpp"

namespace stream_file {
namespace {

using Buffer = thole::PinnedBuffer<unsigned char>;

struct PageableChunk final : FreshChunk {
  explicit PageableChunk(std::size_t bytes)
      : there(std::make_unique_for_overwrite<unsigned char[]>(bytes)),
        back(std::make_unique_for_overwrite<unsigned char[]>(bytes)) {
    in = {there.get(), bytes};
    out = {back.get(), bytes};
  }
  std::unique_ptr<unsigned char[]> there, back;
};

class Pageable final : public NaiveDevice {
 public:
  Pageable(const thole::PinnedHeap& heap, const thole::StreamRef& stream, std::size_t chunk)
      : stream_(stream), staging_(heap.make_buffer<unsigned char>(chunk)), on_device_(stream, chunk) {}

  std::unique_ptr<FreshChunk> fresh(std::size_t bytes) override { return std::make_unique<PageableChunk>(bytes); }

  void there_and_back(FreshChunk& chunk, std::size_t bytes, DeviceHistogram& histogram) override {
    std::copy_n(chunk.in.begin(), bytes, staging_.borrow_mut().begin());
    staging_.async_to_device(stream_, on_device_.span());
    histogram.add(on_device_.span().subspan(0, bytes));
    staging_.async_from_device(stream_, on_device_.span().subspan(0, bytes));
    std::copy_n(staging_.borrow().begin(), bytes, chunk.out.begin());
  }

  std::string name() const override { return "fresh pageable memory for each chunk"; }

 private:
  thole::StreamRef stream_;
  Buffer staging_;
  thole::DeviceBuffer<unsigned char> on_device_;
};

struct PinnedChunk final : FreshChunk {
  PinnedChunk(const thole::Device& device, std::size_t bytes)
      : heap(thole::PinnedArena(
            device, {.bytes = 2 * bytes + (std::size_t{128} << 10), .pin_method = thole::PinMethod::host_alloc})),
        there(heap.make_buffer<unsigned char>(bytes)),
        back(heap.make_buffer<unsigned char>(bytes)) {
    // There is one thread and it waits after each copy, so the unchecked pointers will do.
    in = {there.unsynchronized_data(), bytes};
    out = {back.unsynchronized_data(), bytes};
  }
  thole::PinnedHeap heap;
  Buffer there, back;
};

class Pinned final : public NaiveDevice {
 public:
  Pinned(const thole::StreamRef& stream, std::size_t chunk) : stream_(stream), on_device_(stream, chunk) {}

  std::unique_ptr<FreshChunk> fresh(std::size_t bytes) override {
    return std::make_unique<PinnedChunk>(stream_.device(), bytes);
  }

  void there_and_back(FreshChunk& chunk, std::size_t bytes, DeviceHistogram& histogram) override {
    auto& pinned = static_cast<PinnedChunk&>(chunk);
    pinned.there.async_to_device(stream_, on_device_.span());
    histogram.add(on_device_.span().subspan(0, bytes));
    pinned.back.async_from_device(stream_, on_device_.span().subspan(0, bytes));
    pinned.back.wait();
  }

  std::string name() const override { return "a fresh pinned arena for each chunk"; }

 private:
  thole::StreamRef stream_;
  thole::DeviceBuffer<unsigned char> on_device_;
};

}  // namespace

std::unique_ptr<NaiveDevice> make_naive_simulated(NaiveMemory memory, const thole::PinnedHeap& heap,
                                                  const thole::StreamRef& stream, std::size_t chunk) {
  if (memory == NaiveMemory::pageable) return std::make_unique<Pageable>(heap, stream, chunk);
  return std::make_unique<Pinned>(stream, chunk);
}

}  // namespace stream_file

// A mapped file, adopted where it lies and copied to the device, beside CUDA's copy from a mapping.

#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <future>
#include <memory>
#include <stdexcept>
#include <thole/thole.hpp>

#include "figures.hpp"
#include "waste.hpp"
#ifdef THOLE_BENCH_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace bench {

#ifdef THOLE_BENCH_HAS_CUDA
namespace {

/// A file in the page cache.
class File {
 public:
  explicit File(std::size_t bytes) : bytes_(bytes), file_(std::tmpfile(), &std::fclose) {
    const std::vector<std::byte> some(16 * MiB, std::byte{7});
    for (std::size_t at = 0; file_ != nullptr && at < bytes; at += some.size())
      if (std::fwrite(some.data(), 1, some.size(), file_.get()) != some.size()) file_.reset();
    if (file_ == nullptr || std::fflush(file_.get()) != 0) throw std::runtime_error("no room for a file");
  }
  gsl::span<const std::byte> map() const {
    void* const data = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fileno(file_.get()), 0);
    if (data == MAP_FAILED) throw std::runtime_error("the file cannot be mapped");
    return {static_cast<const std::byte*>(data), bytes_};
  }
  static void unmap(gsl::span<const std::byte> span) { munmap(const_cast<std::byte*>(span.data()), span.size()); }

 private:
  const std::size_t bytes_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

}  // namespace
#endif

void adopted_file(Figures& figures, [[maybe_unused]] const thole::Device& device) {
  const char* const what =
      "a mapped file of 4 GiB, adopted to be read, and copied, against cudaMemcpy from the mapping";
#ifdef THOLE_BENCH_HAS_CUDA
  if (device.backend() == thole::Backend::cuda) {
    cudaSetDevice(device.ordinal());
    constexpr std::size_t bytes = 4 * GiB;
    const File file(bytes);
    const thole::Stream stream(device);
    thole::DeviceBuffer<std::byte> there(stream, bytes);
    stream.synchronize();
    const auto by_cuda = [&] {
      const double began = nanoseconds();
      const auto mapped = file.map();
      if (cudaMemcpy(there.span().native(), mapped.data(), bytes, cudaMemcpyHostToDevice) != cudaSuccess)
        throw std::runtime_error("cudaMemcpy failed");
      const double took = nanoseconds() - began;
      File::unmap(mapped);
      return took;
    };
    double pinning = 0;
    const auto by_thole = [&] {
      const auto unmapped = std::make_shared<std::promise<void>>();
      const double began = nanoseconds();
      const auto mapped = file.map();
      double took = 0;
      {
        const auto buffer = thole::PinnedArena::adopt_buffer(device, mapped, [mapped, unmapped] {
          File::unmap(mapped);
          unmapped->set_value();
        });
        pinning = nanoseconds() - began;
        buffer.async_to_device(stream, there.span());
        stream.synchronize();
        took = nanoseconds() - began;
      }
      unmapped->get_future().wait();
      return took;
    };
    const auto [peer, ours] = by_turns(by_cuda, by_thole);
    const auto speed = [](double nanoseconds) { return static_cast<double>(bytes) / nanoseconds; };
    return figures.at_least(what, peer / ours, 2, "x",
                            fmt::format("{:.1f} GB/s, {:.0f} ms of it to pin; cudaMemcpy {:.1f} GB/s", speed(ours),
                                        pinning / 1e6, speed(peer)));
  }
#endif
  figures.skip(what, "needs a GPU");
}

}  // namespace bench

// An arena's memory in somebody else's books, too: io_uring registers each region, so that a read into any buffer goes
// by the slot of its region and pins nothing again. RDMA and UCX are told in the same way. Where liburing (Debian:
// liburing-dev) was missing when this was compiled, or the kernel has no io_uring for us, it says so, and shows who is
// told of what.

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thole/thole.hpp>
#ifdef THOLE_SAMPLE_HAS_URING
#include <liburing.h>
#endif

namespace {

using Span = gsl::span<std::byte>;

/// Which slot each region has, and the ring that knows them. Regions come and go on several threads.
class Ring {
 public:
  static constexpr unsigned most = 16;
#ifdef THOLE_SAMPLE_HAS_URING
  Ring() : begun_(io_uring_queue_init(4, &ring_, 0)), failed_(begun_) {
    if (begun_ == 0) failed_ = io_uring_register_buffers_sparse(&ring_, most);
  }
  ~Ring() {
    if (begun_ == 0) io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  std::string trouble() const { return failed_ == 0 ? "" : std::generic_category().message(-failed_); }
#else
  static std::string trouble() { return "compiled without liburing"; }
#endif

  void add(Span region) {
    const std::scoped_lock lock(mutex_);
    const auto slot = std::ranges::find_if(regions_, [](Span known) { return known.empty(); });
    if (slot == regions_.end()) throw std::runtime_error("no slot is left");  // the arena does not grow then
    set(slot - regions_.begin(), region);
    *slot = region;
    fmt::print("slot {}: {} KiB\n", slot - regions_.begin(), region.size() >> 10);
  }
  void remove(Span region) {
    const std::scoped_lock lock(mutex_);
    const auto slot = std::ranges::find(regions_, region.data(), &Span::data);
    set(slot - regions_.begin(), {});
    *slot = {};
    fmt::print("slot {}: empty again\n", slot - regions_.begin());
  }
  /// Returns bytes.
  long read(int file, Span into) {
    const std::scoped_lock lock(mutex_);
#ifdef THOLE_SAMPLE_HAS_URING
    if (failed_ == 0) {
      const auto slot = std::ranges::find_if(regions_, [&](Span region) {
        return into.data() >= region.data() && into.data() < region.data() + region.size();
      });
      io_uring_prep_read_fixed(io_uring_get_sqe(&ring_), file, into.data(), static_cast<unsigned>(into.size()), 0,
                               static_cast<int>(slot - regions_.begin()));
      io_uring_submit_and_wait(&ring_, 1);
      io_uring_cqe* done = nullptr;
      if (io_uring_peek_cqe(&ring_, &done) != 0) return -1;
      const long bytes = done->res;
      io_uring_cqe_seen(&ring_, done);
      return bytes;
    }
#endif
    return pread(file, into.data(), into.size(), 0);
  }

 private:
  void set([[maybe_unused]] long slot, [[maybe_unused]] Span region) {
#ifdef THOLE_SAMPLE_HAS_URING
    const iovec place{region.data(), region.size()};
    if (failed_ != 0) return;
    if (const int set = io_uring_register_buffers_update_tag(&ring_, static_cast<unsigned>(slot), &place, nullptr, 1);
        set < 0)
      throw std::system_error(-set, std::generic_category(), "io_uring");
  }
  io_uring ring_{};
  const int begun_;
  int failed_;
#else
  }
#endif
  std::mutex mutex_;
  std::array<Span, most> regions_{};
};

}  // namespace

int main() try {
  auto device = thole::Device::best();
  const auto ring = std::make_shared<Ring>();  // the functions hold it: the arena's end is told on another thread
  if (const auto trouble = ring->trouble(); !trouble.empty()) fmt::print("no io_uring ({}): only told\n", trouble);
  auto arena = thole::PinnedArena(device, {.bytes = 1 << 20,
                                           .max_bytes = 4 << 20,
                                           .on_region_added = [ring](Span region) { ring->add(region); },
                                           .on_region_removed = [ring](Span region) { ring->remove(region); }});
  auto heap = thole::PinnedHeap(arena);
  auto stream = thole::Stream(device);

  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  for (const std::size_t bytes : {std::size_t{4096}, std::size_t{2} << 20}) {  // the second makes the arena grow
    auto buffer = heap.make_buffer<std::byte>(bytes);
    auto borrow = buffer.borrow_mut();
    const long got = ring->read(file, borrow.span());
    borrow.drop();
    const auto there = buffer.async_to_device(stream);
    fmt::print("{} of {} bytes, and on to the device\n", got, bytes);
  }
  close(file);
  stream.synchronize();
  heap.collect();
  const std::size_t regions = arena.regions().size(), trimmed = arena.trim();
  fmt::print("of {} regions {} KiB were trimmed\n", regions, trimmed >> 10);
} catch (const std::exception& error) {
  fmt::print(stderr, "16_register_regions: {}\n", error.what());
  return 1;
}

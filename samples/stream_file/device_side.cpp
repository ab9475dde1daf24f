#include "device_side.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef THOLE_SAMPLE_HAS_KERNEL
#include "../histogram.hpp"
#include "../piece_sum.hpp"
#endif

namespace stream_file {
namespace {

constexpr std::size_t counters_of_a_lane = 1 + Histogram{}.size();  // the sum, then the histogram

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

thole::DeviceBuffer<unsigned char> allocate(const thole::Stream& stream, std::uint64_t all, std::uint64_t limit,
                                            std::size_t ring, bool& holds_all) {
  if (all > 0 && all <= limit) {
    auto made = thole::DeviceBuffer<unsigned char>::try_make(stream, static_cast<std::size_t>(all));
    holds_all = made.has_value();
    if (made) return std::move(*made);
    if (made.error().errc() != thole::Errc::out_of_memory) throw made.error();
  }
  return thole::DeviceBuffer<unsigned char>(stream, ring);
}

#ifdef THOLE_SAMPLE_HAS_KERNEL
void launch_kernels(int gpu, thole::NativeStream stream, gsl::span<const unsigned char> bytes, std::uint64_t position,
                    unsigned long long* counters, Check check) {
  const char* wrong = launch_piece_sum(gpu, stream, bytes.data(), bytes.size(), position, counters);
  if (wrong == nullptr && check == Check::full)
    wrong = launch_byte_histogram(gpu, stream, bytes.data(), bytes.size(), counters + 1);
  if (wrong != nullptr) throw std::runtime_error(std::string("the check's kernel could not be started: ") + wrong);
}
#endif

}  // namespace

bool DeviceSide::can_check(const thole::Device& device) {
#ifdef THOLE_SAMPLE_HAS_KERNEL
  (void)device;
  return true;
#else
  return device.backend() == thole::Backend::simulated;
#endif
}

std::uint64_t DeviceSide::limit(std::uint64_t wanted, const thole::Device& device) {
  if (wanted != 0) return wanted;
  return device.backend() == thole::Backend::simulated ? std::uint64_t{256} << 20 : UINT64_MAX;
}

const char* DeviceSide::method(const thole::Device& device) {
  if (!can_check(device)) return "nothing: built without nvcc";
  return device.backend() == thole::Backend::simulated ? "a function for the CPU in the stream" : "a kernel on the GPU";
}

DeviceSide::DeviceSide(const thole::PinnedHeap& heap, const Plan& plan, const Feed& feed, std::uint64_t limit)
    : heap_(heap),
      plan_(plan),
      slot_(aligned(plan.chunk)),
      base_(feed.base()),
      stream_(heap.arena().device()),
      memory_(allocate(stream_, plan.mode == Mode::load && feed.total() ? feed.extent() : 0, limit, slot_ * plan.window,
                       holds_all_)),
      counters_(stream_, plan.threads * counters_of_a_lane),
      on_(stream_.device()),
      all_(memory_.span()),
      all_counters_(counters_.span()) {
  stream_.synchronize();
}

thole::DeviceSpan<const unsigned char> DeviceSide::front(std::size_t most) const {
  return memory_.span().subspan(0, std::min(most, memory_.size()));
}

thole::DeviceSpan<unsigned char> DeviceSide::place(std::size_t lane, std::uint64_t number, const Piece& piece) {
  const std::size_t at =
      holds_all_ ? static_cast<std::size_t>(piece.position - base_)
                 : slot_ * (plan_.share_before(lane) + static_cast<std::size_t>(number % plan_.share(lane)));
  // Not as a part of `memory_`'s span: the lanes' copies do not touch each other, and thole need not order them.
  return thole::DeviceSpan<unsigned char>::from_native(on_, all_.native() + at, piece.bytes);
}

/// At least so large that it comes from whole pages, as the pieces do: for a small one the arena would set 32 MiB aside
/// for small ones, and the window needs them.
thole::PinnedBuffer<unsigned long long> DeviceSide::host_counters() const {
  constexpr std::size_t least = (std::size_t{256} << 10) / sizeof(unsigned long long);
  return heap_.make_buffer<unsigned long long>(std::max(counters_.size(), least));
}

void DeviceSide::start_checks(Check check) {
  plan_.check = check;
  if (plan_.check == Check::none || !can_check(stream_.device())) return;
#ifdef THOLE_SAMPLE_HAS_KERNEL
  // The first launch of a kernel loads it, which is not what the job measures.
  if (stream_.device().backend() == thole::Backend::cuda)
    launch_kernels(stream_.device().ordinal(), stream_.native(), {memory_.span().native(), 1}, 0,
                   counters_.span().native(), plan_.check);
#endif
  auto zeros = host_counters();
  std::fill_n(zeros.borrow_mut().begin(), counters_.size(), 0ULL);
  zeros.async_to_device(stream_, counters_.span(), 0, counters_.size());
  stream_.synchronize();
}

void DeviceSide::look_at(std::size_t lane, const thole::StreamRef& stream, thole::DeviceSpan<const unsigned char> bytes,
                         std::uint64_t position) {
  const Check check = plan_.check;
  if (check == Check::none) return;
  // Not as a part of `counters_`'s span, as in place(): each lane has counters of its own.
  const auto counters = thole::DeviceSpan<unsigned long long>::from_native(
      stream.device(), all_counters_.native() + lane * counters_of_a_lane, counters_of_a_lane);
  thole::launch(
      stream, thole::reads(bytes), thole::writes(counters),
      [&]([[maybe_unused]] const unsigned char* data, [[maybe_unused]] unsigned long long* found,
          [[maybe_unused]] thole::NativeStream native) {
#ifdef THOLE_SAMPLE_HAS_KERNEL
        launch_kernels(stream.device().ordinal(), native, {data, bytes.size()}, position, found, check);
#endif
      },
      [position, check](gsl::span<const unsigned char> data, gsl::span<unsigned long long> sums) {
        Findings found;
        found.look_at({data.data(), data.size()}, position, check);
        sums[0] += found.sum;
        std::transform(found.histogram.begin(), found.histogram.end(), sums.begin() + 1, sums.begin() + 1,
                       std::plus<>());
      });
}

Findings DeviceSide::findings() {
  Findings all;
  if (plan_.check == Check::none || !can_check(stream_.device())) return all;
  auto on_host = host_counters();
  on_host.async_from_device(stream_, counters_.span());
  const auto counters = on_host.borrow();
  for (std::size_t lane = 0; lane < plan_.threads; ++lane) {
    const auto* const from = counters.begin() + lane * counters_of_a_lane;
    all.sum += from[0];
    std::transform(all.histogram.begin(), all.histogram.end(), from + 1, all.histogram.begin(), std::plus<>());
  }
  return all;
}

}  // namespace stream_file

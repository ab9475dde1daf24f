#include "host_memory.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <new>
#include <string>
#include <thread>

namespace thole_torch {
namespace {

/// As PyTorch aligns memory of the CPU.
constexpr std::size_t alignment = 64;

}  // namespace

thole::PinnedArena HostMemory::make_arena(const thole::Device& device, std::size_t bytes, std::size_t max_bytes,
                                          const std::shared_ptr<Tally>& tally) {
  return thole::PinnedArena(device, {.bytes = bytes,
                                     .max_bytes = max_bytes > bytes ? max_bytes : 0,
                                     .on_region_added =
                                         [tally](gsl::span<std::byte> region) {
                                           tally->segments.add(1);
                                           tally->segment_bytes.add(static_cast<std::int64_t>(region.size()));
                                           tally->segments_by_size[std::bit_width(region.size() - 1) % 64].fetch_add(1);
                                         },
                                     .on_region_removed =
                                         [tally](gsl::span<std::byte> region) {
                                           tally->segments.take(1);
                                           tally->segment_bytes.take(static_cast<std::int64_t>(region.size()));
                                         }});
}

HostMemory::HostMemory(const thole::Device& device, std::size_t bytes, std::size_t max_bytes)
    : arena_(make_arena(device, bytes, max_bytes, tally_)), heap_(arena_, {.alignment = alignment}) {}

thole::Result<Given*> HostMemory::allocate(std::size_t bytes) noexcept {
  std::unique_ptr<Given> given(new (std::nothrow) Given{nullptr, bytes});
  if (given == nullptr)
    return tl::unexpected(thole::Error::make(
        thole::Errc::out_of_memory, [] { return std::string("the system has no memory for a record of 16 bytes"); }));
  auto made = heap_.try_allocate(bytes, alignment);
  // What is in flight comes back in any stream, so that there is no single copy to wait for: look again and again.
  const auto end = std::chrono::steady_clock::now() + longest_wait;
  for (auto pause = std::chrono::microseconds(10);
       !made && made.error().errc() == thole::Errc::out_of_memory && heap_.stats().in_flight != 0 &&
       std::chrono::steady_clock::now() < end;
       pause = std::min(2 * pause, std::chrono::microseconds(1000))) {
    std::this_thread::sleep_for(pause);
    made = heap_.try_allocate(bytes, alignment);
  }
  if (!made) return tl::unexpected(std::move(made.error()));
  given->data = *made;
  tally_->requests.add(1);
  tally_->request_bytes.add(static_cast<std::int64_t>(bytes));
  return given.release();
}

void HostMemory::release(Given* given) noexcept {
  if (given == nullptr) return;
  // First: another thread may have the memory at once, and what there is at most must not count it twice.
  tally_->requests.take(1);
  tally_->request_bytes.take(static_cast<std::int64_t>(given->bytes));
  (void)heap_.deallocate(given->data);  // false in a forked child, whose parent has it
  delete given;
}

bool HostMemory::record_use(const void* address, const thole::StreamRef& stream) const {
  // PyTorch does not say in which direction it copied: a write forbids what a read does, and more.
  return heap_.record_use(address, stream, thole::Access::device_writes);
}

bool HostMemory::contains(const void* address) const { return arena_.contains(address); }

void HostMemory::begin_capture(PoolId pool) {
  const std::scoped_lock lock(pools_mutex_);
  pools_.push_back(pool);
  captures_.store(pools_.size(), std::memory_order_release);
}

void HostMemory::end_capture(PoolId pool) {
  const std::scoped_lock lock(pools_mutex_);
  // A capture that began before this object was made is not there.
  if (const auto found = std::find(pools_.begin(), pools_.end(), pool); found != pools_.end()) pools_.erase(found);
  captures_.store(pools_.size(), std::memory_order_release);
}

void HostMemory::keep_in_capture(const Given& given, const thole::StreamRef& stream) const {
  if (stream.capturing()) (void)record_use(given.data, stream);
}

void HostMemory::empty_cache() {
  (void)heap_.collect();
  (void)arena_.trim();
}

Figures HostMemory::figures() const noexcept {
  Figures figures{tally_->requests.read(), tally_->request_bytes.read(), tally_->segments.read(),
                  tally_->segment_bytes.read()};
  for (std::size_t i = 0; i != figures.segments_by_size.size(); ++i)
    figures.segments_by_size[i] = tally_->segments_by_size[i].load();
  return figures;
}

void HostMemory::forget_totals() noexcept {
  for (Counted* one : {&tally_->requests, &tally_->request_bytes, &tally_->segments, &tally_->segment_bytes})
    one->forget_totals();
}

void HostMemory::forget_peaks() noexcept {
  for (Counted* one : {&tally_->requests, &tally_->request_bytes, &tally_->segments, &tally_->segment_bytes})
    one->forget_peak();
}

}  // namespace thole_torch

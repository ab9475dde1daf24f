// What is done to a store while nobody waits for it.

#include <algorithm>
#include <string>
#include <utility>

#include "base/bytes.hpp"
#include "base/trace_log.hpp"
#include "memory/pinned_pool.hpp"
#include "memory/store.hpp"

namespace thole::inline v0_1::detail {

/// One more region of StoreOptions::bytes. growing_ is held, or nobody else has the store yet.
Result<void> Store::pin_piece(std::size_t bytes, Unpinning unpinning) {
  const std::size_t left = options_.bytes - std::min(options_.bytes, capacity());
  auto region = obtain_region(device_, std::min(left, bytes), options_.region, unpinning);
  if (!region) return tl::unexpected(std::move(region.error()));
  return take_in(*region);
}

bool Store::pin_more() noexcept try {
  const std::lock_guard growing(growing_);
  if (device_ == nullptr || capacity() >= options_.bytes) return false;
  const TraceScope scope("pin in the background", options_.piece);
  auto pinned = pin_piece(whole_pages(options_.piece), Unpinning::never);
  if (!pinned) {
    stop_pinning(pinned.error());
    return false;
  }
  {
    const std::lock_guard lock(mutex_);
    ++pieces_;
    // Who is about to grow, since there was no memory, looks again.
    growths_.fetch_add(1, std::memory_order_release);
  }
  return capacity() < options_.bytes;
} catch (const std::bad_alloc&) {
  stop_pinning(Error::make(Errc::out_of_memory, [] { return std::string("PinnedArena: the system has no memory"); }));
  return false;
}

void Store::stop_pinning(const Error& why) noexcept try {
  device_->keep_error(why);
  const std::lock_guard lock(mutex_);
  pinning_failed_ = why.what();
} catch (const std::bad_alloc&) {
  // The device has the error.
}

bool Store::Look::finds_idle(Region& region, bool empty) const noexcept {
  const bool taken_from = std::exchange(region.taken_from, false);
  if (!empty) {
    region.empty_since.reset();
    return false;
  }
  if (taken_from || !region.empty_since) region.empty_since = now;
  return now - *region.empty_since >= age;
}

std::size_t Store::trim_idle(std::chrono::steady_clock::time_point now, std::chrono::nanoseconds age) noexcept {
  const Look look{now, age};
  std::size_t bytes = 0;
  Region* list = nullptr;
  {
    const std::lock_guard growing(growing_);
    list = take_empty_regions(&bytes, options_.bytes, &look);
  }
  unpin(list);
  return bytes;
}

void Store::unpin(Region* list) noexcept {
  while (list != nullptr) {
    Region* const region = list;
    list = region->next;
    region->next = nullptr;
    if (hooks() != nullptr) tell_removed(*hooks(), *region, this);
    give_back_region(region);
  }
}

}  // namespace thole::inline v0_1::detail

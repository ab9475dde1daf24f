#pragma once

// A figure of PyTorch's kind: how much there is, how much there was at most, and how much came and went in all.

#include <atomic>
#include <cstdint>

namespace thole_torch {

/// What `Counted` says at one moment; PyTorch's `Stat` has these names.
struct Count {
  std::int64_t current = 0, peak = 0, allocated = 0, freed = 0;
};

/// Any thread may call anything. With one thread at a time the figures are exact; what others do at the same moment may
/// be in them or not.
class Counted {
 public:
  void add(std::int64_t amount) noexcept {
    // What goes at this moment may be seen before what came: then `now` is low, and the peak stays as it is.
    const std::int64_t now = came_.fetch_add(amount, relaxed) + amount - went_.load(relaxed);
    std::int64_t peak = peak_.load(relaxed);
    while (now > peak && !peak_.compare_exchange_weak(peak, now, relaxed)) {
    }
  }
  void take(std::int64_t amount) noexcept { went_.fetch_add(amount, relaxed); }

  Count read() const noexcept {
    const std::int64_t went = went_.load(relaxed);  // first, so that no more went than came
    const std::int64_t came = came_.load(relaxed);
    return {came - went, peak_.load(relaxed), came - came_before_.load(relaxed), went - went_before_.load(relaxed)};
  }
  /// What came and went is counted from 0 again.
  void forget_totals() noexcept {
    went_before_.store(went_.load(relaxed), relaxed);
    came_before_.store(came_.load(relaxed), relaxed);
  }
  /// The peak is what there is now.
  void forget_peak() noexcept { peak_.store(came_.load(relaxed) - went_.load(relaxed), relaxed); }

 private:
  static constexpr std::memory_order relaxed = std::memory_order_relaxed;
  std::atomic<std::int64_t> came_{0}, went_{0}, peak_{0}, came_before_{0}, went_before_{0};
};

}  // namespace thole_torch

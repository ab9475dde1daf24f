#pragma once

// Which other streams' work a stream waits for already: the same wait once more would be one more call and one more
// place in its queue.

#include <array>
#include <cstddef>
#include <cstdint>

namespace thole::inline v0_1::detail {

/// Of the last few streams. Thread safety: the caller's lock.
class WaitedFor {
 public:
  /// Whether all of that stream up to the position has been waited for. `stream`: the number of its record, which no
  /// other record ever has.
  bool covers(std::uint64_t stream, std::uint64_t position) const noexcept {
    for (const Wait& wait : waits_)
      if (wait.stream == stream) return position <= wait.position;
    return false;
  }
  void add(std::uint64_t stream, std::uint64_t position) noexcept {
    for (Wait& wait : waits_) {
      if (wait.stream != stream) continue;
      if (wait.position < position) wait.position = position;
      return;
    }
    waits_[next_] = {stream, position};
    next_ = (next_ + 1) % waits_.size();
  }

 private:
  struct Wait {
    std::uint64_t stream = 0;  // no record has this number
    std::uint64_t position = 0;
  };
  std::array<Wait, 4> waits_;
  std::size_t next_ = 0;  // the one that was added first
};

}  // namespace thole::inline v0_1::detail

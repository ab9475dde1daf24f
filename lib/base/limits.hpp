#pragma once

// What the system lets this process have: asked before memory is touched, so that the OOM killer is not met. Memory in
// the page cache, which the kernel drops when it is wanted, counts as free.

#include <cstddef>
#include <cstdint>
#include <string>

namespace thole::inline v0_1::detail {

/// The tightest of the limits on memory.
struct MemoryRoom {
  std::size_t bytes = SIZE_MAX;  ///< that may still be taken
  std::string limit;             ///< which limit that is, with its numbers
};

/// Reads what the machine has available, the limits of the process's cgroup and of those above it (version 2 or 1), and
/// what `numa_node` has free (-1: any node will do). `root` is where /proc and /sys are.
MemoryRoom memory_room(int numa_node = -1, const std::string& root = "/");

/// The same, less what is reserved below.
MemoryRoom unreserved_memory(const std::string& root = "/");

/// Whether the system has the NUMA node.
bool numa_node_exists(int node, const std::string& root = "/");

/// Room for `bytes` that are about to be touched, from the look at the limits until they are touched: what one thread
/// has reserved is not there for another. Where reservations of other threads are all that is in the way, it waits
/// until one of them ends, and looks again: what was touched shows in the system's figures by then.
class MemoryReservation {
 public:
  MemoryReservation(std::size_t bytes, int numa_node, const std::string& root = "/");
  ~MemoryReservation();
  MemoryReservation(const MemoryReservation&) = delete;
  MemoryReservation& operator=(const MemoryReservation&) = delete;

  bool granted() const noexcept { return granted_ != 0; }
  /// Where nothing was granted: the limit, in words.
  const std::string& limit() const noexcept { return limit_; }

  /// How many threads wait for another's reservation to end.
  static unsigned waiting() noexcept;

 private:
  std::size_t granted_ = 0;  // bytes
  std::string limit_;
};

}  // namespace thole::inline v0_1::detail

#pragma once

// What the system lets this process have: asked before memory is touched, so that the OOM killer is not met. Memory in
// the page cache, which the kernel drops when it is wanted, counts as free.

#include <cstddef>
#include <cstdint>
#include <string>

namespace thole::inline v0_1::detail {

/// Where /proc and /sys are for whoever names no other place: "/", but in tests.
std::string machine_root();

/// For tests: while it lives, /proc and /sys are in this folder.
class MachineRoot {
 public:
  explicit MachineRoot(std::string root);
  ~MachineRoot();
  MachineRoot(const MachineRoot&) = delete;
  MachineRoot& operator=(const MachineRoot&) = delete;

 private:
  std::string before_;
};

/// The tightest of the limits on memory.
struct MemoryRoom {
  std::size_t bytes = SIZE_MAX;  ///< that may still be taken
  std::string limit;             ///< which limit that is, with its numbers
};

/// Reads what the machine has available, the limits of the process's cgroup and of those above it (version 2 or 1), and
/// what `numa_node` has free (-1: any node will do). `root` is where /proc and /sys are.
MemoryRoom memory_room(int numa_node = -1, const std::string& root = machine_root());

/// The same, less what is reserved below.
MemoryRoom unreserved_memory(const std::string& root = machine_root());

/// Whether the system has the NUMA node.
bool numa_node_exists(int node, const std::string& root = machine_root());

/// So much of the room is never pinned: for the records of what is, and for what else the program does.
inline constexpr std::size_t spare_memory = std::size_t{4} << 20;

/// Room for `bytes` that are about to be touched, from the look at the limits until they are touched: what one thread
/// has reserved is not there for another. Where reservations of other threads are all that is in the way, it waits
/// until one of them ends, and looks again: what was touched shows in the system's figures by then.
class MemoryReservation {
 public:
  MemoryReservation(std::size_t bytes, int numa_node, const std::string& root = machine_root());
  ~MemoryReservation();
  MemoryReservation(const MemoryReservation&) = delete;
  MemoryReservation& operator=(const MemoryReservation&) = delete;

  bool granted() const noexcept { return granted_; }
  /// Where nothing was granted: the limit, in words.
  const std::string& limit() const noexcept { return limit_; }

  /// So much of it has been touched: it shows in the system's figures, and is reserved no more. By any thread.
  void touched(std::size_t bytes) noexcept;

  /// Waits until a reservation of another thread's ends; false: there is none. The caller has none.
  static bool wait_for_another() noexcept;
  /// How many threads wait for another's reservation to end.
  static unsigned waiting() noexcept;

 private:
  bool granted_ = false;
  std::size_t left_ = 0;  // bytes; under the lock of all reservations
  std::string limit_;
};

}  // namespace thole::inline v0_1::detail

#include "base/limits.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <fstream>
#include <initializer_list>
#include <mutex>
#include <string_view>
#include <utility>

#include "base/bytes.hpp"
#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {

namespace {

// Plain strings: joining std::filesystem::path frees memory twice in libstdc++ where there is none left.
std::string in(const std::string& folder, std::string_view name) {
  std::string path = folder;
  if (!path.ends_with('/')) path += '/';
  return path.append(name);
}

bool read_number(const std::string& path, std::size_t& number) {
  std::ifstream file(path);
  return static_cast<bool>(file >> number);  // not where it says "max"
}

/// The sum of the lines "key value" of a file that have one of these keys. Words before the key are skipped.
std::size_t read_keys(const std::string& path, std::initializer_list<std::string_view> keys) {
  std::ifstream file(path);
  std::string word;
  std::size_t sum = 0;
  while (file >> word)
    if (std::size_t value = 0; std::find(keys.begin(), keys.end(), word) != keys.end() && file >> value) sum += value;
  return sum;
}

void lower(MemoryRoom& room, std::size_t bytes, const std::string& limit) {
  if (bytes >= room.bytes) return;
  room.bytes = bytes;
  room.limit = limit;
}

void look_at_machine(MemoryRoom& room, const std::string& root) {
  const std::size_t available = read_keys(in(root, "proc/meminfo"), {"MemAvailable:"}) * 1024;
  if (available == 0) return;  // a system that does not say
  lower(room, available, "the machine has " + bytes_text(available) + " available (MemAvailable)");
}

// The kernel says of no node what is available, so it is counted here as it counts for the machine: what is free, and
// the page cache, less what it keeps for itself.
void look_at_node(MemoryRoom& room, int node, const std::string& root) {
  const std::string meminfo = in(root, "sys/devices/system/node/node" + std::to_string(node) + "/meminfo");
  const std::size_t total = read_keys(meminfo, {"MemTotal:"}) * 1024;
  if (total == 0) return;
  const std::size_t kept = total / 64;
  const std::size_t free = read_keys(meminfo, {"MemFree:", "Active(file):", "Inactive(file):"}) * 1024;
  const std::size_t available = free - std::min(free, kept);
  lower(room, available,
        "NUMA node " + std::to_string(node) + " has " + bytes_text(available) + " available of " + bytes_text(total));
}

struct GroupLimit {
  const char* limit;
  const char* usage;
};
constexpr std::array<GroupLimit, 2> limits_of_version_2{
    {{"memory.max", "memory.current"}, {"memory.high", "memory.current"}}};  // above high, the kernel slows us down
constexpr std::array<GroupLimit, 2> limits_of_version_1{
    {{"memory.limit_in_bytes", "memory.usage_in_bytes"},
     {"memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"}}};  // memsw: memory and swap together

std::size_t page_cache_of(const std::string& group, bool version_2) {
  if (version_2) return read_keys(in(group, "memory.stat"), {"active_file", "inactive_file"});
  return read_keys(in(group, "memory.stat"), {"total_active_file", "total_inactive_file"});
}

void look_at_group(MemoryRoom& room, const std::string& group, bool version_2) {
  for (const GroupLimit& names : version_2 ? limits_of_version_2 : limits_of_version_1) {
    std::size_t limit = 0, usage = 0;
    if (!read_number(in(group, names.limit), limit) || !read_number(in(group, names.usage), usage)) continue;
    if (limit >= std::size_t{1} << 60) continue;  // version 1 says so when there is none
    usage -= std::min(usage, page_cache_of(group, version_2));
    lower(room, limit - std::min(limit, usage),
          "the container's " + in(group, names.limit) + " is " + bytes_text(limit) + ", of which " + bytes_text(usage) +
              " is in use");
  }
}

void look_at_groups(MemoryRoom& room, const std::string& root) {
  std::ifstream file(in(root, "proc/self/cgroup"));
  std::string line;
  while (std::getline(file, line)) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool version_2 = controllers.empty();
    if (!version_2 && controllers != "memory") continue;
    const std::string groups = in(root, version_2 ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    // Inside a container the path may be the host's, and absent here; then the root is the container's own group.
    for (std::string path = line.substr(second + 1);;) {
      while (path.ends_with('/')) path.pop_back();
      look_at_group(room, groups + path, version_2);
      if (path.empty()) break;
      path.erase(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
    }
  }
}

struct Root {
  std::mutex mutex;
  std::string path = "/";
};

std::string exchange_root(std::string path) {
  auto& root = immortal<Root>();
  const std::lock_guard lock(root.mutex);
  return std::exchange(root.path, std::move(path));
}

// What the threads of this process have reserved.
struct Reservations {
  std::mutex mutex;
  std::condition_variable ended;
  std::size_t bytes = 0;
  unsigned count = 0;
  unsigned waiting = 0;

  void wait_for_one(std::unique_lock<std::mutex>& lock) {
    ++waiting;
    ended.wait(lock);
    --waiting;
  }
};

}  // namespace

std::string machine_root() {
  auto& root = immortal<Root>();
  const std::lock_guard lock(root.mutex);
  return root.path;
}

MachineRoot::MachineRoot(std::string root) : before_(exchange_root(std::move(root))) {}
MachineRoot::~MachineRoot() { exchange_root(std::move(before_)); }

MemoryRoom memory_room(int numa_node, const std::string& root) {
  MemoryRoom room;
  look_at_machine(room, root);
  look_at_groups(room, root);
  if (numa_node >= 0) look_at_node(room, numa_node, root);
  return room;
}

MemoryRoom unreserved_memory(const std::string& root) {
  auto& reservations = immortal<Reservations>();
  const std::lock_guard lock(reservations.mutex);  // from the look on: else what is touched meanwhile shows nowhere
  MemoryRoom room = memory_room(-1, root);
  room.bytes -= std::min(room.bytes, reservations.bytes);
  return room;
}

bool numa_node_exists(int node, const std::string& root) {
  const auto exists = [](const std::string& path) { return access(path.c_str(), F_OK) == 0; };
  const std::string nodes = in(root, "sys/devices/system/node");
  if (exists(in(nodes, "node" + std::to_string(node)))) return true;
  return node == 0 && !exists(nodes);  // a kernel without NUMA has one node
}

MemoryReservation::MemoryReservation(std::size_t bytes, int numa_node, const std::string& root) {
  // The page tables and the driver's list of the pages take 8 bytes each for a page, and count as memory, too.
  const std::size_t wanted = bytes + bytes / 256;
  auto& reservations = immortal<Reservations>();
  std::unique_lock lock(reservations.mutex);
  for (;;) {
    MemoryRoom room = memory_room(numa_node, root);
    room.bytes -= std::min(room.bytes, spare_memory);
    if (wanted > room.bytes) {
      limit_ = room.limit + ", and " + bytes_text(spare_memory) + " are spared for the program";
      return;
    }
    if (wanted <= room.bytes - std::min(room.bytes, reservations.bytes)) break;
    reservations.wait_for_one(lock);
  }
  reservations.bytes += wanted;
  ++reservations.count;
  left_ = wanted;
  granted_ = true;
}

MemoryReservation::~MemoryReservation() {
  if (!granted_) return;
  auto& reservations = immortal<Reservations>();
  const std::lock_guard lock(reservations.mutex);
  reservations.bytes -= left_;
  --reservations.count;
  reservations.ended.notify_all();
}

void MemoryReservation::touched(std::size_t bytes) noexcept {
  auto& reservations = immortal<Reservations>();
  const std::lock_guard lock(reservations.mutex);
  const std::size_t less = std::min(bytes, left_);
  left_ -= less;
  reservations.bytes -= less;
}

bool MemoryReservation::wait_for_another() noexcept {
  auto& reservations = immortal<Reservations>();
  std::unique_lock lock(reservations.mutex);
  if (reservations.count == 0) return false;
  reservations.wait_for_one(lock);
  return true;
}

unsigned MemoryReservation::waiting() noexcept {
  auto& reservations = immortal<Reservations>();
  const std::lock_guard lock(reservations.mutex);
  return reservations.waiting;
}

}  // namespace thole::inline v0_1::detail

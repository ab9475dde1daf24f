#include "memory/limits.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace thole::detail {

namespace {

namespace fs = std::filesystem;

bool read_number(const fs::path& path, std::size_t& number) {
  std::ifstream file(path);
  return static_cast<bool>(file >> number);
}

void lower(MemoryRoom& room, std::size_t bytes, const std::string& limit) {
  if (bytes >= room.bytes) return;
  room.bytes = bytes;
  room.limit = limit;
}

void look_at_meminfo(MemoryRoom& room) {
  std::ifstream file("/proc/meminfo");
  std::string key, rest;
  std::size_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") {
      lower(room, kib * 1024, "the machine has " + bytes_text(kib * 1024) + " available (MemAvailable)");
      return;
    }
    std::getline(file, rest);
  }
}

// One cgroup's limit, less what it has in use; memory in its page cache can be had back.
void look_at_group(MemoryRoom& room, const fs::path& group, const char* limit_name, const char* usage_name,
                   const char* cache_key) {
  std::size_t limit = 0, usage = 0;
  if (!read_number(group / limit_name, limit) || !read_number(group / usage_name, usage)) return;
  if (limit >= std::size_t{1} << 60) return;  // version 1 says so when there is none
  std::ifstream stat(group / "memory.stat");
  std::string key;
  std::size_t value = 0;
  while (stat >> key >> value)
    if (key == cache_key) usage -= std::min(usage, value);
  lower(room, limit - std::min(limit, usage),
        "the container's " + (group / limit_name).string() + " is " + bytes_text(limit) + ", of which " +
            bytes_text(usage) + " is in use");
}

void look_at_cgroups(MemoryRoom& room) {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool two = controllers.empty();
    if (!two && controllers != "memory") continue;
    const fs::path root = two ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    // Inside a container the path may be the host's, and absent here; then the root is the container's own group.
    for (fs::path path = line.substr(second + 1);; path = path.parent_path()) {
      const fs::path group = root / path.relative_path();
      if (two)
        look_at_group(room, group, "memory.max", "memory.current", "inactive_file");
      else
        look_at_group(room, group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
      if (path.relative_path().empty()) break;
    }
  }
}

}  // namespace

MemoryRoom memory_room() {
  MemoryRoom room;
  look_at_meminfo(room);
  look_at_cgroups(room);
  return room;
}

std::string memlock_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "RLIMIT_MEMLOCK is unknown";
  if (limit.rlim_cur == RLIM_INFINITY) return "RLIMIT_MEMLOCK is unlimited";
  return "RLIMIT_MEMLOCK is " + bytes_text(limit.rlim_cur);
}

bool numa_node_exists(int node) {
  std::error_code ignored;
  if (fs::exists("/sys/devices/system/node/node" + std::to_string(node), ignored)) return true;
  return node == 0 && !fs::exists("/sys/devices/system/node", ignored);  // a kernel without NUMA has one node
}

}  // namespace thole::detail

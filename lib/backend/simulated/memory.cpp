#include "backend/simulated/memory.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "base/bytes.hpp"

namespace thole::detail::simulated {

namespace {

std::uintptr_t address(const void* data) noexcept { return reinterpret_cast<std::uintptr_t>(data); }

}  // namespace

RangeTable::Found RangeTable::find(const void* data, std::size_t bytes) noexcept {
  const auto from = address(data);
  auto next = ranges_.upper_bound(from);
  const bool reaches_next = next != ranges_.end() && next->first - from < bytes;
  if (next == ranges_.begin()) return {nullptr, reaches_next};
  Range& before = std::prev(next)->second;
  const std::uintptr_t offset = from - address(before.data);
  if (offset >= before.bytes) return {nullptr, reaches_next};
  if (bytes <= before.bytes - offset) return {&before, true};
  return {nullptr, true};
}

Range* RangeTable::at(const void* data) noexcept {
  const auto found = ranges_.find(address(data));
  return found == ranges_.end() ? nullptr : &found->second;
}

void RangeTable::insert(const Range& range) { ranges_.emplace(address(range.data), range); }

void RangeTable::erase(const void* data) noexcept { ranges_.erase(address(data)); }

bool is_writable(const void* data, std::size_t bytes) {
  const std::uintptr_t from = address(data);
  if (bytes > UINTPTR_MAX - from) return false;
  std::ifstream maps("/proc/self/maps");  // lines "from-to perms ...", by address
  if (!maps) return true;
  std::uintptr_t checked = from;
  for (std::string line; checked < from + bytes && std::getline(maps, line);) {
    char* end = nullptr;
    const std::uintptr_t begin = std::strtoull(line.c_str(), &end, 16);
    const std::uintptr_t behind = std::strtoull(end + 1, &end, 16);
    if (behind <= checked) continue;
    if (begin > checked || end[2] != 'w') return false;
    checked = behind;
  }
  return checked >= from + bytes;
}

DeviceMemory::~DeviceMemory() { drop_kept(); }

std::byte* DeviceMemory::allocate(std::size_t bytes, std::size_t leaving) noexcept {
  const std::size_t in_use = bytes_ - leaving;
  if (bytes == 0 || in_use > capacity_ || bytes > capacity_ - in_use) return nullptr;
  if (const auto same = kept_.find(bytes); same != kept_.end()) {
    std::byte* data = same->second;
    kept_.erase(same);
    kept_bytes_ -= bytes;
    bytes_ += bytes;
    return data;
  }
  const std::size_t rounded = round_up(bytes, alignment);
  if (rounded < bytes) return nullptr;
  if (kept_bytes_ > 0 && kept_bytes_ + bytes > capacity_ - in_use) drop_kept();
  auto* data = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (data != nullptr) bytes_ += bytes;
  return data;
}

void DeviceMemory::free(std::byte* data, std::size_t bytes) noexcept {
  std::memset(data, poison, bytes);
  bytes_ -= bytes;
  if (bytes > most_kept - kept_bytes_) {
    std::free(data);
    return;
  }
  try {
    kept_.emplace(bytes, data);
    kept_bytes_ += bytes;
  } catch (...) {
    std::free(data);
  }
}

void DeviceMemory::drop_kept() noexcept {
  for (const auto& [bytes, data] : kept_) std::free(data);
  kept_.clear();
  kept_bytes_ = 0;
}

}  // namespace thole::detail::simulated

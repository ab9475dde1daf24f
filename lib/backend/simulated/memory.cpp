#include "backend/simulated/memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "base/bytes.hpp"

namespace thole::inline v0_1::detail::simulated {

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

bool is_accessible(const void* data, std::size_t bytes, bool writes) {
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
    if (begin > checked || end[1] != 'r' || (writes && end[2] != 'w')) return false;
    checked = behind;
  }
  return checked >= from + bytes;
}

std::byte* reserve_addresses(const void* data, std::size_t bytes) noexcept {
  const std::size_t offset = address(data) % page;
  void* const reserved =
      mmap(nullptr, whole_pages(offset + bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return reserved == MAP_FAILED ? nullptr : static_cast<std::byte*>(reserved) + offset;
}

void give_back_addresses(std::byte* address, std::size_t bytes) noexcept {
  std::byte* const first = align_down(address, page);
  munmap(first, whole_pages(static_cast<std::size_t>(address - first) + bytes));
}

void mark_pages(void* data, std::size_t bytes, bool marked) noexcept {
  std::byte* const first = align_down(static_cast<std::byte*>(data), page);
  const std::size_t pages = whole_pages(static_cast<std::size_t>(static_cast<std::byte*>(data) - first) + bytes);
  (void)posix_madvise(first, pages, marked ? POSIX_MADV_SEQUENTIAL : POSIX_MADV_NORMAL);
}

bool are_marked(const void* data, std::size_t bytes) {
  const std::uintptr_t from = address(data);
  std::ifstream maps("/proc/self/smaps");  // "from-to perms ...", then lines "Key: value", the last "VmFlags: rd wr sr"
  std::uintptr_t begin = 0, behind = 0;
  bool any = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with("VmFlags:")) {
      any = true;
      if (begin < from + bytes && behind > from && line.find(" sr") == std::string::npos) return false;
    } else if (line.find(':') > line.find('-')) {
      char* end = nullptr;
      begin = std::strtoull(line.c_str(), &end, 16);
      behind = std::strtoull(end + 1, nullptr, 16);
      if (any && begin >= from + bytes) return true;
    }
  }
  return true;
}

}  // namespace thole::inline v0_1::detail::simulated

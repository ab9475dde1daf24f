#pragma once

// Which memory the simulated machine knows: ranges of pinned host memory, shared by all its devices as portable
// registrations are, and the devices' own allocations. Guarded by the machine's mutex.

#include <cstddef>
#include <cstdint>
#include <map>

namespace thole::inline v0_1::detail::simulated {

struct SimulatedDevice;

struct Range {
  std::byte* data = nullptr;
  std::byte* view = nullptr;    ///< where its bytes can be touched: the same place, but for what only the device can
  std::byte* mapped = nullptr;  ///< pinned: the device's own address of it, where that differs
  std::size_t bytes = 0;
  std::uint64_t id = 0;  ///< never used again, so that a copy can tell memory from its successor at one address
  SimulatedDevice* device = nullptr;  ///< whose books it is on
  bool from_machine = false;          ///< pinned: came from allocate_host; false: registered
  bool read_only = false;             ///< pinned: the device must not write it
  bool usable = true;                 ///< device memory: its allocation has run in stream order
  bool free_enqueued = false;         ///< device memory: a free waits in a stream
  std::uint64_t free_stream = 0;      ///< the id of that stream
};

/// Ranges that do not overlap, by address.
class RangeTable {
 public:
  struct Found {
    Range* range = nullptr;  ///< the range that holds all the bytes
    bool overlaps = false;   ///< some of the bytes lie in a range
  };
  Found find(const void* data, std::size_t bytes) noexcept;
  /// The range that starts exactly here, or nullptr.
  Range* at(const void* data) noexcept;
  void insert(const Range& range);
  void erase(const void* data) noexcept;

  auto begin() noexcept { return ranges_.begin(); }
  auto end() noexcept { return ranges_.end(); }

 private:
  std::map<std::uintptr_t, Range> ranges_;
};

/// Whether the process may read all of [data, data + bytes), which has no hole, and write it where that is asked. True
/// where the system does not say.
bool is_accessible(const void* data, std::size_t bytes, bool writes);

/// Addresses at which nothing can be touched, for so many bytes, with the same place in their first page as `data`; or
/// nullptr.
std::byte* reserve_addresses(const void* data, std::size_t bytes) noexcept;
void give_back_addresses(std::byte* address, std::size_t bytes) noexcept;

/// Marks the pages of [data, data + bytes) in the system's records, where nobody minds; a mapping that takes their
/// place has no mark.
void mark_pages(void* data, std::size_t bytes, bool marked) noexcept;
/// Whether all the pages have their mark. True where the system does not say.
bool are_marked(const void* data, std::size_t bytes);

}  // namespace thole::inline v0_1::detail::simulated

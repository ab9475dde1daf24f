#pragma once

// What the simulated device has enqueued and what it has completed, read from its own tables: the truth that the model
// is held against. thole is not asked.

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "backend/backend.hpp"

namespace model {

/// Holds all devices still while it lives: no operation is in the middle of its run, also not on a thread of the
/// library's, and none begins.
class AtRest {
 public:
  AtRest();
  /// Whether the bytes are device memory that is allocated now.
  bool device_memory_exists(const void* data, std::size_t bytes) const;

 private:
  std::unique_lock<std::mutex> lock_;
};

/// How far each stream is, as of the last look().
class Queues {
 public:
  void look(const AtRest& still);
  /// Whether the stream has completed its `position`-th operation. A stream that is gone has completed all of its own,
  /// unless the device was lost before.
  bool done(std::uint64_t stream, std::uint64_t position) const {
    const auto found = completed_.find(stream);
    return found == completed_.end() || found->second >= position;
  }
  bool empty(std::uint64_t stream) const;

 private:
  std::unordered_map<std::uint64_t, std::uint64_t> completed_;
};

/// Where the devices that have addresses of their own find pinned memory, as the machine says; there, or at the host's
/// address where its arena's device has none.
const void* own_address(const void* data);
/// The position of the newest copy in the stream between these two; 0: it is not enqueued, or complete already.
std::uint64_t position_of_copy(std::uint64_t stream, const void* destination, const void* source);
struct Parts {
  std::uint64_t first = 0;  // 0: complete already
  std::uint64_t last = 0;
};
/// The same for a copy that may be moved in parts, in any order: of the first and the last of them.
Parts position_of_parts(std::uint64_t stream, const void* destination, const void* source, std::size_t bytes);
/// The same for a host function with this argument.
std::uint64_t position_of_function(std::uint64_t stream, const void* argument);
/// The same for a function that stands for a kernel.
std::uint64_t position_of_kernel(std::uint64_t stream);
/// The same for the last node of a graph's launch.
std::uint64_t position_of_graph(std::uint64_t stream);
/// The same for an event as it was recorded last.
std::uint64_t position_of_record(std::uint64_t stream, thole::detail::EventHandle event);
/// Whether the stream has completed that operation by now; any thread may ask.
bool completed(std::uint64_t stream, std::uint64_t position);
/// How many operations were ever enqueued, a thread of the library's own included; 0: there is no such stream.
std::uint64_t enqueued(std::uint64_t stream);
}  // namespace model

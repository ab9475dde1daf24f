#include "queues.hpp"

#include <algorithm>

#include "backend/simulated/call.hpp"
#include "backend/simulated/machine.hpp"

namespace model {
namespace {

using namespace thole::detail::simulated;

StreamPtr find(std::uint64_t id) {
  for (const auto& device : machine().devices)
    if (const auto found = device->streams.find(id); found != device->streams.end()) return found->second;
  return nullptr;
}

template <class F>
std::uint64_t newest(std::uint64_t id, F&& is_it) {
  const std::scoped_lock lock(machine().mutex);
  const auto stream = find(id);
  if (stream == nullptr) return 0;
  for (std::size_t i = stream->queue.size(); i != 0; --i)
    if (is_it(stream->queue[i - 1])) return stream->enqueued - stream->queue.size() + i;
  // A thread of the library's may be in the middle of it.
  return stream->current != nullptr && is_it(*stream->current) ? stream->enqueued - stream->queue.size() : 0;
}

}  // namespace

AtRest::AtRest() : lock_(machine().mutex) {
  machine().changed.wait(lock_, [] {
    return std::ranges::none_of(machine().devices, [](const auto& device) {
      return std::ranges::any_of(device->streams, [](const auto& entry) { return entry.second->running; });
    });
  });
}

bool AtRest::device_memory_exists(const void* data, std::size_t bytes) const {
  return machine().device_memory.find(data, bytes).range != nullptr;
}

void Queues::look(const AtRest&) {
  completed_.clear();
  for (const auto& device : machine().devices)
    for (const auto& [id, stream] : device->streams) completed_.emplace(id, stream->completed);
}

bool Queues::empty(std::uint64_t id) const {
  const std::scoped_lock lock(machine().mutex);
  const auto stream = find(id);
  return stream == nullptr || stream->queue.empty();
}

const void* own_address(const void* data) {
  const std::scoped_lock lock(machine().mutex);
  const auto* const range = machine().pinned.find(data, 1).range;
  if (range == nullptr || range->mapped == nullptr) return data;
  return range->mapped + (static_cast<const std::byte*>(data) - range->data);
}

std::uint64_t position_of_copy(std::uint64_t stream, const void* destination, const void* source) {
  return newest(stream, [&](const Operation& operation) {
    return operation.kind == Operation::Kind::copy && operation.destination == destination &&
           operation.source == source;
  });
}

Parts position_of_parts(std::uint64_t stream, const void* destination, const void* source, std::size_t bytes) {
  const auto offset = [](const void* at, const void* begin) {
    return reinterpret_cast<std::uintptr_t>(at) - reinterpret_cast<std::uintptr_t>(begin);
  };
  std::size_t seen = 0;  // an earlier launch of the same graph moves the same parts
  const auto moves_them = [&](const Operation& operation) {
    if (operation.kind != Operation::Kind::copy || offset(operation.destination, destination) >= bytes ||
        offset(operation.destination, destination) != offset(operation.source, source))
      return false;
    seen += operation.bytes;
    return true;
  };
  Parts parts;
  parts.last = newest(stream, moves_them);
  seen = 0;
  parts.first = newest(stream, [&](const Operation& operation) { return moves_them(operation) && seen >= bytes; });
  return parts;
}

std::uint64_t position_of_function(std::uint64_t stream, const void* argument) {
  return newest(stream, [&](const Operation& operation) {
    return operation.kind == Operation::Kind::host_function && operation.argument == argument;
  });
}

std::uint64_t position_of_kernel(std::uint64_t stream) {
  return newest(stream, [](const Operation& operation) {
    return operation.kind == Operation::Kind::kernel && operation.graph == nullptr;
  });
}

std::uint64_t position_of_graph(std::uint64_t stream) {
  return newest(stream, [](const Operation& operation) { return operation.graph != nullptr; });
}

std::uint64_t position_of_record(std::uint64_t stream, thole::detail::EventHandle event) {
  return newest(stream, [&](const Operation& operation) {
    return operation.kind == Operation::Kind::record && operation.point == find_event(event)->point;
  });
}

bool completed(std::uint64_t id, std::uint64_t position) {
  const std::scoped_lock lock(machine().mutex);
  const auto stream = find(id);
  return stream == nullptr || stream->completed >= position;
}

std::uint64_t enqueued(std::uint64_t id) {
  const std::scoped_lock lock(machine().mutex);
  const auto stream = find(id);
  return stream == nullptr ? 0 : stream->enqueued;
}

}  // namespace model

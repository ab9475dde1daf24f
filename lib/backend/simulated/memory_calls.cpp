// The seam's calls on memory: pinning, device memory in stream order, copies.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <gsl/util>

#include "backend/simulated/backend.hpp"
#include "backend/simulated/call.hpp"
#include "backend/simulated/capture.hpp"
#include "backend/simulated/run.hpp"
#include "backend/simulated/waits.hpp"
#include "base/bytes.hpp"

namespace thole::inline v0_1::detail {

using namespace simulated;

namespace {

/// Room for so many more pinned bytes on the device's books.
bool may_pin(const SimulatedDevice& device, std::size_t bytes) {
  const std::size_t limit = device.options.max_pinned_bytes;
  return device.pinned_bytes <= limit && bytes <= limit - device.pinned_bytes;
}

bool pin(SimulatedDevice& device, void* data, std::size_t bytes, bool from_machine, bool read_only = false) {
  Range range;
  range.data = range.view = static_cast<std::byte*>(data);
  range.bytes = bytes;
  range.id = ++machine().last_range_id;
  range.device = &device;
  range.from_machine = from_machine;
  range.read_only = read_only;
  if (device.options.own_addresses) {
    range.mapped = reserve_addresses(data, bytes);
    if (range.mapped == nullptr) return false;
    Range mapped = range;
    mapped.data = std::exchange(mapped.mapped, nullptr);
    machine().mapped.insert(mapped);
  }
  machine().pinned.insert(range);
  device.pinned_bytes += bytes;
  if (device.options.watch_registrations && !from_machine) mark_pages(data, bytes, true);
  return true;
}

/// Undoes `pin`. On a lost device too, or the address could never be pinned again, though the call reports the loss.
Status unpin(SimulatedDevice& device, SimulatedCall kind, void* data) {
  const bool from_machine = kind == SimulatedCall::free_host;
  return call(
      device, kind,
      [&](Lock& lock) -> Status {
        const Range* found = machine().pinned.at(data);
        if (found == nullptr || found->from_machine != from_machine) {
          return refuse(device.lost ? Refusal::lost : Refusal::not_registered);
        }
        if (!device.lost && forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
        const Range range = *found;
        if (!range.device->options.stepped) wait_for_running_work(lock, device);
        wait_while_touched(lock, range);
        const Range* still = machine().pinned.at(data);
        if (still == nullptr || still->id != range.id) return refuse(Refusal::not_registered);
        range.device->pinned_bytes -= range.bytes;
        forget_mapped(range);
        machine().pinned.erase(data);
        if (range.device->options.watch_registrations && !from_machine) mark_pages(data, range.bytes, false);
        if (from_machine) std::free(data);
        return {};
      },
      Lost::taken);
}

/// Fills in a copy's device side.
Status find_device_side(const void* data, std::size_t bytes, const SimulatedStream& stream, std::uint64_t* id) {
  const Range* range = machine().device_memory.find(data, bytes).range;
  if (range == nullptr || (range->free_enqueued && range->free_stream == stream.id)) {
    return refuse(Refusal::not_device_memory);
  }
  *id = range->id;
  return {};
}

/// Fills in a copy's host side: 0 for pageable memory.
Status find_host_side(const void* data, std::size_t bytes, bool writes, std::uint64_t* id) {
  if (machine().device_memory.find(data, bytes).overlaps) return refuse(Refusal::invalid_value);
  auto found = machine().pinned.find(data, bytes);
  if (found.range == nullptr && !found.overlaps) found = machine().mapped.find(data, bytes);
  if (found.range == nullptr && found.overlaps) return refuse(Refusal::two_registrations);
  if (found.range != nullptr && found.range->read_only && writes) return refuse(Refusal::read_only);
  *id = found.range == nullptr ? 0 : found.range->id;
  return {};
}

}  // namespace

Status SimulatedBackend::register_host(void* data, std::size_t bytes, HostAccess access) noexcept {
  return call(*device_, SimulatedCall::register_host, [&](Lock&) -> Status {
    if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
    const bool read_only = access == HostAccess::read_only;
    if (bytes == 0 || !is_accessible(data, bytes, !read_only)) return refuse(Refusal::invalid_value);
    if (machine().pinned.find(data, bytes).overlaps) return refuse(Refusal::already_registered);
    if (!may_pin(*device_, bytes)) return refuse(Refusal::pinned_limit);
    return pin(*device_, data, bytes, false, read_only) ? Status{} : refuse(Refusal::out_of_memory);
  });
}

Status SimulatedBackend::device_address(const void* data, const void** device) noexcept {
  if (!device_->options.own_addresses) {
    *device = data;
    return {};
  }
  return call(*device_, SimulatedCall::device_address, [&](Lock&) -> Status {
    const Range* range = machine().pinned.find(data, 1).range;
    if (range == nullptr) return refuse(Refusal::not_registered);
    const auto* const place = static_cast<const std::byte*>(data);
    *device = range->mapped == nullptr ? place : range->mapped + (place - range->data);
    return {};
  });
}

Status SimulatedBackend::unregister_host(void* data) noexcept {
  return unpin(*device_, SimulatedCall::unregister_host, data);
}

Status SimulatedBackend::allocate_host(std::size_t bytes, void** data) noexcept {
  return call(*device_, SimulatedCall::allocate_host, [&](Lock&) -> Status {
    if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
    if (bytes == 0) return refuse(Refusal::invalid_value);
    if (!may_pin(*device_, bytes)) return refuse(Refusal::pinned_limit);
    std::unique_ptr<void, void (*)(void*)> made(std::aligned_alloc(page, whole_pages(bytes)), std::free);
    if (made == nullptr) return refuse(Refusal::out_of_memory);
    if (!pin(*device_, made.get(), bytes, true)) return refuse(Refusal::out_of_memory);
    *data = made.release();
    return {};
  });
}

Status SimulatedBackend::free_host(void* data) noexcept { return unpin(*device_, SimulatedCall::free_host, data); }

Status SimulatedBackend::allocate_device(std::size_t bytes, StreamHandle handle, void** data) noexcept {
  return stream_call(*device_, SimulatedCall::allocate_device, handle, [&](Lock&, const auto& stream) -> Status {
    if (stream->capture) {
      invalidate(*stream->capture);
      return refuse(Refusal::capture_unsupported);
    }
    if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
    SimulatedDevice& device = *stream->device;
    if (bytes == 0) return refuse(Refusal::invalid_value);
    // What this stream frees before is free again when this memory is first used.
    const DevicePiece made = device.memory.allocate(bytes, stream->leaving_bytes);
    if (made.address == nullptr) return refuse(Refusal::out_of_memory);
    bool inserted = false, enqueued = false;
    const auto given_back = gsl::finally([&] {  // where the system has no memory
      if (enqueued) return;
      if (inserted) machine().device_memory.erase(made.address);
      device.memory.free(made, bytes);
    });
    Operation operation;
    operation.kind = Operation::Kind::allocate;
    operation.destination = made.address;
    operation.bytes = bytes;
    operation.destination_id = ++machine().last_range_id;
    Range range;
    range.data = made.address;
    range.view = made.view;
    range.bytes = bytes;
    range.id = operation.destination_id;
    range.device = &device;
    range.usable = false;
    machine().device_memory.insert(range);
    inserted = true;
    enqueue(stream, std::move(operation));
    enqueued = true;
    *data = made.address;
    return {};
  });
}

Status SimulatedBackend::free_device(void* data, StreamHandle handle) noexcept {
  return stream_call(*device_, SimulatedCall::free_device, handle, [&](Lock&, const auto& stream) -> Status {
    if (stream->capture) {
      invalidate(*stream->capture);
      return refuse(Refusal::capture_unsupported);
    }
    if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
    Range* range = machine().device_memory.at(data);
    if (range == nullptr || range->free_enqueued) return refuse(Refusal::not_device_memory);
    Operation operation;
    operation.kind = Operation::Kind::free;
    operation.destination = data;
    operation.bytes = range->bytes;
    operation.destination_id = range->id;
    enqueue(stream, std::move(operation));
    range->free_enqueued = true;
    range->free_stream = stream->id;
    return {};
  });
}

Status SimulatedBackend::copy(void* destination, const void* source, std::size_t bytes, CopyKind kind,
                              StreamHandle handle) noexcept {
  return stream_call(*device_, SimulatedCall::copy, handle, [&](Lock& lock, const auto& stream) -> Status {
    if (bytes == 0) return {};
    if (destination == nullptr || source == nullptr) return refuse(Refusal::invalid_value);
    const bool to_device = kind == CopyKind::host_to_device || kind == CopyKind::device_to_device;
    const bool from_device = kind == CopyKind::device_to_host || kind == CopyKind::device_to_device;
    Operation operation;
    operation.kind = Operation::Kind::copy;
    operation.destination = destination;
    operation.source = source;
    operation.bytes = bytes;
    operation.way = kind;
    Status status = to_device ? find_device_side(destination, bytes, *stream, &operation.destination_id)
                              : find_host_side(destination, bytes, true, &operation.destination_id);
    if (!status.ok()) return status;
    status = from_device ? find_device_side(source, bytes, *stream, &operation.source_id)
                         : find_host_side(source, bytes, false, &operation.source_id);
    if (!status.ok()) return status;
    if (stream->capture) return capture_node(*stream, std::move(operation));
    if (operation.source_id == 0) {
      operation.staged = std::make_shared_for_overwrite<std::byte[]>(bytes);
      lock.unlock();
      std::memcpy(operation.staged.get(), source, bytes);
      lock.lock();
      if (stream->device == nullptr || stream->device->lost) return refuse(Refusal::lost);
    }
    const bool blocks = operation.destination_id == 0;
    enqueue(stream, std::move(operation));
    if (!blocks) return {};
    const std::uint64_t mine = stream->enqueued;
    run_inline(lock);
    return wait_for_stream(lock, stream, mine) ? Status{} : refuse(Refusal::lost);
  });
}

}  // namespace thole::inline v0_1::detail

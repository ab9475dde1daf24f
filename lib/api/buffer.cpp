#include <thole/buffer.hpp>

#include <string>

#include "api/handle_access.hpp"
#include "blocks/block.hpp"
#include "heap/heap_core.hpp"
#include "streams/device_block.hpp"
#include "streams/stream_registry.hpp"
#include "streams/submission.hpp"
#include "streams/uses.hpp"

namespace thole::detail {
namespace {

/// Every head is that of a Block.
Block& of(BlockHead* head) noexcept { return *static_cast<Block*>(head); }

std::string bytes_of(const Block& block) {
  return std::to_string(block.asked_bytes.load(std::memory_order_relaxed)) + " bytes";
}

Error borrowed_error(const Block& block, const char* call, bool writes) {
  const auto borrows = block.hold.borrows();
  const bool exclusive = block.hold.written_by_host();
  std::string text(call);
  text += ": the buffer of " + bytes_of(block) + " has ";
  text += exclusive ? "a live BorrowMut" : std::to_string(borrows) + " live Borrow" + (borrows == 1 ? "" : "s");
  text += writes ? "; this call writes and needs that there is none" : "; this call reads and may only meet Borrows";
  return Error(Errc::borrowed, text);
}

DeviceCore& device_of(const Block& block) { return *block.heap.load(std::memory_order_relaxed)->arena().device(); }

/// The Error of a wait or query that did not end in ok.
Error unfinished_error(const Block& block, Status status, const char* call, bool may_wait) {
  if (status.code == StatusCode::not_ready || (status.code == StatusCode::capture && !may_wait))
    return Error(Errc::in_flight, std::string(call) + ": the device still uses the buffer of " + bytes_of(block));
  if (status.code == StatusCode::capture)
    return Error(Errc::capturing, std::string(call) + ": the buffer of " + bytes_of(block) +
                                      " was used in a stream that captures a graph now; whether that use is done can "
                                      "be asked when the capture has ended");
  if (DeviceCore* const lost = lost_device(block.uses); lost != nullptr) return lost->lost_error(call);
  return device_of(block).error(status, call, "waiting for the device", bytes_of(block));
}

template <bool Writes, bool Waits>
Result<void> start_borrow(Block& block, const char* call) noexcept {
  constexpr Against against = Writes ? Against::everything : Against::writes;
  Hold& hold = block.hold;
  if (any_open(block.uses, against)) [[unlikely]] {
    // RefCell's rule before any waiting.
    if (Writes ? hold.borrows() != 0 : hold.written_by_host())
      return tl::unexpected(borrowed_error(block, call, Writes));
    if (const Status status = Waits ? wait(block.uses, against) : query(block.uses, against); !status.ok())
      return tl::unexpected(unfinished_error(block, status, call, Waits));
  }
  // The next borrow then need not look at all.
  if (!any_open(block.uses, Against::everything)) clear(block.uses);
  if (!(Writes ? hold.begin_write() : hold.begin_read())) [[unlikely]]
    return tl::unexpected(borrowed_error(block, call, Writes));
  return {};
}

/// What a copy needs of its two sides and its stream, and the rules about borrows.
Result<Submission> start_work(Block& block, bool writes, const StreamRef& stream, const char* call) noexcept {
  if (writes ? block.hold.borrows() != 0 : block.hold.written_by_host())
    return tl::unexpected(borrowed_error(block, call, writes));
  auto work = HandleAccess::begin_work(stream, call);
  if (!work) return work;
  if (const auto& core = HandleAccess::core(stream); &device_of(block) != core.get()) [[unlikely]] {
    // CUDA: "Memory Management", cudaHostRegisterPortable: pinned for every GPU; but not for a device of another kind.
    if (core->backend->simulated() != device_of(block).backend->simulated())
      return tl::unexpected(Error(Errc::wrong_device, std::string(call) + ": the buffer of " + bytes_of(block) +
                                                          " is pinned for " +
                                                          std::string(device_of(block).backend->name()) +
                                                          ", the stream is of " + std::string(core->backend->name())));
    if (!core->serves_others.load(std::memory_order_relaxed)) serve_others(core);
  }
  if (auto used = work->use(block, writes); !used) return tl::unexpected(std::move(used.error()));
  return work;
}

Result<void> copy(Block& block, std::size_t bytes, const StreamRef& stream, void* to, const void* from,
                  const void* device, DeviceBlock* device_block, CopyKind kind, const char* call) noexcept {
  const bool writes = kind == CopyKind::device_to_host;
  if (device != HandleAccess::core(stream).get() && HandleAccess::core(stream) != nullptr)
    return tl::unexpected(Error(Errc::wrong_device, std::string(call) + ": the device memory of " +
                                                        std::to_string(bytes) +
                                                        " bytes is of another device than the stream"));
  auto work = start_work(block, writes, stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  if (device_block != nullptr)
    if (auto used = work->use(*device_block, !writes); !used) return used;
  if (const Status status = work->backend().copy(to, from, bytes, kind, work->timeline().native()); !status.ok())
    return tl::unexpected(work->error(status, "enqueueing a copy", std::to_string(bytes) + " bytes"));
  work->enqueued(block.capacity, writes ? Submission::Precision::at_once : Submission::Precision::coalesced);
  return {};
}

}  // namespace

Result<void> try_begin_read(BlockHead* block, const char* where) noexcept {
  return start_borrow<false, false>(of(block), where);
}
Result<void> try_begin_write(BlockHead* block, const char* where) noexcept {
  return start_borrow<true, false>(of(block), where);
}
Result<void> begin_read(BlockHead* block, const char* where) noexcept {
  return start_borrow<false, true>(of(block), where);
}
Result<void> begin_write(BlockHead* block, const char* where) noexcept {
  return start_borrow<true, true>(of(block), where);
}

Result<void> wait_for_uses(BlockHead* block, const char* where) noexcept {
  if (device_of(of(block)).lost()) return tl::unexpected(device_of(of(block)).lost_error(where));
  if (const Status status = wait(block->uses, Against::everything); !status.ok())
    return tl::unexpected(unfinished_error(of(block), status, where, true));
  return {};
}

bool has_open_uses(const BlockHead* block) noexcept { return !query(block->uses, Against::everything).ok(); }

Result<void> copy_to_device(BlockHead* block, std::size_t offset, std::size_t bytes, const StreamRef& stream,
                            void* destination, const void* destination_device,
                            DeviceBlock* destination_block) noexcept {
  return copy(of(block), bytes, stream, destination, of(block).data + offset, destination_device, destination_block,
              CopyKind::host_to_device, "PinnedBuffer::async_to_device");
}

Result<void> copy_from_device(BlockHead* block, std::size_t offset, std::size_t bytes, const StreamRef& stream,
                              const void* source, const void* source_device, DeviceBlock* source_block) noexcept {
  return copy(of(block), bytes, stream, of(block).data + offset, source, source_device, source_block,
              CopyKind::device_to_host,
              source_block != nullptr ? "DeviceBuffer::async_to_host" : "PinnedBuffer::async_from_device");
}

void use_on(BlockHead* block, const StreamRef& stream, Access access, void (*run)(void*, thole::NativeStream),
            void* context) {
  const bool writes = (static_cast<unsigned>(access) & static_cast<unsigned>(Access::device_writes)) != 0;
  constexpr const char* call = "PinnedBuffer::use_on";
  unwrap(HandleAccess::timeline(stream, call))->expose();
  auto work = unwrap(start_work(of(block), writes, stream, call));
  // The work may be long: what was copied before does not wait for it.
  if (!work.capturing()) (void)work.timeline().cover_all();
  struct Enqueued {
    Submission& work;
    std::size_t bytes;
    ~Enqueued() { work.enqueued(bytes, Submission::Precision::at_once); }
  } const enqueued{work, of(block).capacity};
  run(context, static_cast<thole::NativeStream>(work.timeline().native()));
}

Error moved_from_error(const char* where) {
  return Error(Errc::moved_from, std::string(where) + ": the buffer has been moved from and owns nothing");
}

Error outside_error(const char* where, std::size_t offset, std::size_t count, std::size_t size) {
  return Error(Errc::invalid_argument, std::string(where) + ": " + std::to_string(count) + " elements from element " +
                                           std::to_string(offset) + " on, of a buffer of " + std::to_string(size));
}

Error too_small_error(const char* where, std::size_t wanted, std::size_t has) {
  return Error(Errc::too_small, std::string(where) + ": the source has " + std::to_string(wanted) +
                                    " elements, the destination only " + std::to_string(has));
}

}  // namespace thole::detail

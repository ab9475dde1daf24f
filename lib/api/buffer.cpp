#include <thole/buffer.hpp>

#include <string>

#include <thole/detail/listed_use.hpp>

#include "api/block_rules.hpp"
#include "api/handle_access.hpp"
#include "api/held_uses.hpp"
#include "base/bytes.hpp"
#include "base/deadline.hpp"
#include "base/host_function.hpp"
#include "blocks/block.hpp"
#include "streams/device_allocation.hpp"
#include "streams/device_block.hpp"
#include "streams/submission.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1::detail {
namespace {

BytesText bytes_text_of(const Block& block) noexcept { return BytesText(block.asked_bytes); }

/// The Error of a wait or query that did not end in ok. `waits`: the call waits for the device where it can.
Error unfinished_error(const Block& block, Status status, const char* call, bool waits) {
  if (status.code == StatusCode::not_ready || (status.code == StatusCode::capture && !waits))
    return Error::make(Errc::in_flight,
                       [&] { return std::string(call) + ": the device still uses the buffer of " + bytes_of(block); });
  if (status.code == StatusCode::capture)
    return Error::make(Errc::capturing, [&] {
      return std::string(call) + ": the buffer of " + bytes_of(block) +
             " was used in a stream that captures a graph now, or in which a capture took the event behind that use; "
             "whether it is done can be asked when the capture has ended and the stream has been used once more";
    });
  if (const auto lost = lost_device(block.uses); lost != nullptr) return lost->lost_error(call);
  return device_of(block).error(status, call, "waiting for the device", bytes_text_of(block));
}

Error timed_out_error(const Block& block, const char* call) {
  return Error::make(Errc::timed_out, [&] {
    return std::string(call) + ": the device uses the buffer of " + bytes_of(block) + " longer than the given time";
  });
}

/// A borrow of the kind of the use that a call submits: as long as it does, no other call submits one that conflicts
/// with it, which neither would order after the other.
class HeldBorrow {
 public:
  HeldBorrow(Block& block, bool writes) noexcept
      : block_(block), writes_(writes), held_(block.of_this_process() && begin(block, writes)) {}
  ~HeldBorrow() {
    if (held_) writes_ ? end_borrow<true>(&block_) : end_borrow<false>(&block_);
  }
  explicit operator bool() const noexcept { return held_; }
  Error refused(const char* call) const {
    return block_.of_this_process() ? borrowed_error(block_, call, writes_) : of_another_process_error(call);
  }
  HeldBorrow(const HeldBorrow&) = delete;
  HeldBorrow& operator=(const HeldBorrow&) = delete;

 private:
  Block& block_;
  const bool writes_;
  const bool held_;
};

/// Whether a borrow waits for the device.
enum class Waiting { never, until_done, for_a_time };

/// `Takes`: without it, it is as if the borrow had ended at once, and nobody else could have met it.
template <bool Writes, Waiting Waits, bool Takes = true>
Result<void> start_borrow(Block& block, const char* call, std::chrono::nanoseconds timeout = {}) noexcept {
  constexpr Against against = Writes ? Against::everything : Against::writes;
  if (!block.of_this_process()) [[unlikely]]
    return tl::unexpected(of_another_process_error(call));
  Deadline deadline;
  if constexpr (Waits == Waiting::for_a_time) deadline = end_of_wait(timeout);
  for (;;) {
    if (any_open(block.uses, against)) [[unlikely]] {
      // Before any waiting: a mistake is told at once.
      if (auto allowed = check_borrows(block, Writes, call); !allowed) return allowed;
      if (Waits != Waiting::never && !deadline && in_host_function() && !query(block.uses, against).ok())
        return tl::unexpected(host_function_error(call));
      const Status status = Waits == Waiting::never ? query(block.uses, against) : wait(block.uses, against, deadline);
      if (Waits == Waiting::for_a_time && status.code == StatusCode::not_ready)
        return tl::unexpected(timed_out_error(block, call));
      if (!status.ok()) return tl::unexpected(unfinished_error(block, status, call, Waits != Waiting::never));
    }
    (void)forget_done(block);  // the next borrow then need not look at all
    if (Takes ? !begin(block, Writes) : !check_borrows(block, Writes, call)) [[unlikely]]
      return tl::unexpected(borrowed_error(block, call, Writes));
    // As in begin_untouched(): another thread may have submitted a use in between. Whether all is done, and not whether
    // all is known to be: else what cannot be known would be looked at for ever.
    if (!any_open(block.uses, against) || query(block.uses, against).ok()) [[likely]]
      return {};
    if constexpr (Takes) end_borrow<Writes>(&block);
  }
}

/// The work that a call submits, with what it needs of the pinned block checked, ordered and kept.
Result<Submission> start_work(Block& block, bool writes, const StreamRef& stream, const char* call) noexcept {
  auto work = HandleAccess::begin_work(stream, call);
  if (!work) return work;
  if (auto fits = check_device(block, work->timeline().device(), call); !fits)
    return tl::unexpected(std::move(fits.error()));
  if (auto used = work->use(block, writes); !used) return tl::unexpected(std::move(used.error()));
  return work;
}

/// Copies of so many bytes, and all that the device writes, may take long: what was enqueued before does not wait.
constexpr std::size_t long_copy = std::size_t{1} << 20;

struct Copy {
  Block& block;
  std::size_t offset;  // in the block
  std::size_t bytes;
  CopyKind kind;
};

/// The work is ready: enqueues the copy between the block and `device_data`.
Result<void> enqueue(Submission& work, const Copy& copy, void* device_data) noexcept {
  const bool writes = copy.kind == CopyKind::device_to_host;
  std::byte* const host_data = copy.block.data + copy.offset;
  if (writes || copy.bytes >= long_copy) work.expect_long_work();
  const Status status =
      writes ? work.backend().copy(host_data, device_data, copy.bytes, copy.kind, work.timeline().native())
             : work.backend().copy(device_data, host_data, copy.bytes, copy.kind, work.timeline().native());
  if (!status.ok()) return tl::unexpected(work.error(status, "enqueueing a copy", BytesText(copy.bytes)));
  work.enqueued(copy.block.capacity, writes ? Submission::Precision::at_once : Submission::Precision::coalesced);
  return {};
}

/// Device memory that a span names, held while a call works with it.
class HeldSpan {
 public:
  explicit HeldSpan(const DeviceSide& side) noexcept
      : block_(side.block != nullptr && side.block->try_hold(side.generation) ? side.block : nullptr),
        dangling_(side.block != nullptr && block_ == nullptr) {}
  ~HeldSpan() {
    if (block_ != nullptr) drop_device_block(block_);
  }
  HeldSpan(const HeldSpan&) = delete;
  HeldSpan& operator=(const HeldSpan&) = delete;

  DeviceBlock* block() const noexcept { return block_; }
  bool dangling() const noexcept { return dangling_; }

 private:
  DeviceBlock* const block_;
  const bool dangling_;
};

Result<void> copy(const Copy& copy, const StreamRef& stream, const DeviceSide& side, const char* call) noexcept {
  const bool writes = copy.kind == CopyKind::device_to_host;
  const HeldSpan span(side);
  if (span.dangling())
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": the span of " + std::to_string(copy.bytes) +
             " bytes is of a DeviceBuffer that is gone";
    }));
  if (const auto& timeline = HandleAccess::shared(stream);
      timeline != nullptr && side.device != timeline->device().get())
    return tl::unexpected(Error::make(Errc::wrong_device, [&] {
      return std::string(call) + ": the device memory of " + std::to_string(copy.bytes) +
             " bytes is of another device than the stream";
    }));
  const HeldDeviceUse device_use(span.block(), !writes);
  if (!device_use) return tl::unexpected(submitting_error(call, !writes));
  const HeldBorrow borrow(copy.block, writes);
  if (!borrow) return tl::unexpected(borrow.refused(call));
  auto work = start_work(copy.block, writes, stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  if (span.block() != nullptr)
    if (auto used = work->use(*span.block(), !writes); !used) return used;
  return enqueue(*work, copy, side.data);
}

}  // namespace

Result<void> try_begin_read(BlockHead* block, const char* call) noexcept {
  return start_borrow<false, Waiting::never>(of(block), call);
}
Result<void> try_begin_write(BlockHead* block, const char* call) noexcept {
  return start_borrow<true, Waiting::never>(of(block), call);
}
Result<void> begin_read(BlockHead* block, const char* call) noexcept {
  return start_borrow<false, Waiting::until_done>(of(block), call);
}
Result<void> begin_write(BlockHead* block, const char* call) noexcept {
  return start_borrow<true, Waiting::until_done>(of(block), call);
}

Result<void> begin_read_for(BlockHead* block, std::chrono::nanoseconds timeout, const char* call) noexcept {
  return start_borrow<false, Waiting::for_a_time>(of(block), call, timeout);
}
Result<void> begin_write_for(BlockHead* block, std::chrono::nanoseconds timeout, const char* call) noexcept {
  return start_borrow<true, Waiting::for_a_time>(of(block), call, timeout);
}

Result<void> wait_to_borrow(Block& block, bool writes, std::chrono::nanoseconds timeout, const char* call) noexcept {
  return writes ? start_borrow<true, Waiting::for_a_time, false>(block, call, timeout)
                : start_borrow<false, Waiting::for_a_time, false>(block, call, timeout);
}

Result<void> wait_for_uses(BlockHead* head, std::optional<std::chrono::nanoseconds> timeout,
                           const char* call) noexcept {
  const Block& block = of(head);
  if (device_of(block).lost()) return tl::unexpected(device_of(block).lost_error(call));
  const Deadline deadline = timeout ? end_of_wait(*timeout) : std::nullopt;
  if (!deadline && in_host_function() && !query(block.uses, Against::everything).ok())
    return tl::unexpected(host_function_error(call));
  const Status status = wait(block.uses, Against::everything, deadline);
  if (status.ok()) return {};
  if (timeout && status.code == StatusCode::not_ready) return tl::unexpected(timed_out_error(block, call));
  return tl::unexpected(unfinished_error(block, status, call, true));
}

/// Of a block that another process made nobody can tell: its locks may be held for ever here.
bool has_open_uses(const BlockHead* head) noexcept {
  const auto& block = *static_cast<const Block*>(head);
  return !block.of_this_process() || !query(block.uses, Against::everything).ok();
}

Result<void> copy_to_device(BlockHead* block, std::size_t offset, std::size_t bytes, const StreamRef& stream,
                            const DeviceSide& destination) noexcept {
  return copy({of(block), offset, bytes, CopyKind::host_to_device}, stream, destination,
              "PinnedBuffer::async_to_device");
}

Result<void> copy_from_device(BlockHead* block, std::size_t offset, std::size_t bytes, const StreamRef& stream,
                              const DeviceSide& source, const char* call) noexcept {
  return copy({of(block), offset, bytes, CopyKind::device_to_host}, stream, source, call);
}

Result<DeviceBlock*> copy_to_new_device_block(BlockHead* head, std::size_t bytes, const StreamRef& stream) noexcept {
  constexpr const char* call = "PinnedBuffer::async_to_device";
  Block& block = of(head);
  const HeldBorrow borrow(block, false);
  if (!borrow) return tl::unexpected(borrow.refused(call));
  auto work = start_work(block, false, stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  auto made = allocate_device(*work, bytes, true);
  if (!made) return made;
  if (auto copied = enqueue(*work, {block, 0, bytes, CopyKind::host_to_device}, (*made)->data); !copied) {
    work->cancel();  // before the record is used again
    drop_device_block_handle(*made);
    return tl::unexpected(std::move(copied.error()));
  }
  return made;
}

Result<void> use_on(BlockHead* head, const StreamRef& stream, bool writes, void (*run)(void*, thole::NativeStream),
                    void* context, const void** place) {
  constexpr const char* call = "PinnedBuffer::use_on";
  if (head == nullptr) return run_uses(stream, nullptr, 0, call, run, context);
  Block& block = of(head);
  auto timeline = HandleAccess::live_timeline(stream, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  const auto kept = (*timeline)->shared_from_this();  // the function may end the stream
  (*timeline)->expose();                              // before it is asked whether it captures
  // The function may drop the buffer, or look at it.
  const HeldBorrow borrow(block, writes);
  if (!borrow) return tl::unexpected(borrow.refused(call));
  auto work = start_work(block, writes, stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  if (place != nullptr)
    if (const Status status = work->backend().device_address(*place, place); !status.ok())
      return tl::unexpected(work->error(status, "asking where the device finds the buffer"));
  work->expect_long_work();
  work->takes(Submission::some_operations);
  struct Enqueued {
    Submission& work;
    std::size_t bytes;
    ~Enqueued() { work.enqueued(bytes, Submission::Precision::at_once); }
  } const enqueued{*work, block.capacity};
  run(context, static_cast<thole::NativeStream>(work->timeline().native()));
  return {};
}

Error too_small_error(const char* call, std::size_t wanted, std::size_t has) {
  return Error::make(Errc::too_small, [&] {
    return std::string(call) + ": the source has " + std::to_string(wanted) + " elements, the destination only " +
           std::to_string(has);
  });
}

}  // namespace thole::inline v0_1::detail

// A heap's memory by its addresses: <thole/heap.hpp>.

#include <bit>
#include <exception>
#include <string>
#include <utility>

#include <thole/heap.hpp>

#include "api/block_rules.hpp"
#include "api/handle_access.hpp"
#include "api/known_devices.hpp"
#include "base/bytes.hpp"
#include "blocks/block_index.hpp"
#include "heap/after_all.hpp"
#include "heap/heap_handle.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1 {
namespace {

using detail::Block;
using detail::BlockIndex;

Error not_this_heaps(const char* call) {
  return Error::make(Errc::invalid_argument,
                     [call] { return std::string(call) + ": the address lies in no memory that this heap has given"; });
}

using Of = detail::Submission::Of;

/// What the program enqueued by itself uses the block.
Result<void> note(Block& block, const StreamRef& stream, bool writes, const char* call, Of of = Of::work) noexcept {
  auto work = detail::HandleAccess::begin_work(stream, call, of);
  if (!work) return tl::unexpected(std::move(work.error()));
  if (auto right = detail::check_device(block, work->timeline().device(), call); !right) return right;
  if (auto noted = work->note(block, writes); !noted) return noted;
  work->enqueued(block.capacity, detail::Submission::Precision::coalesced);
  return {};
}

}  // namespace

/// The block that the address lies in, if it is this heap's: others do not end meanwhile, since the caller says that
/// this one does not.
detail::BlockHead* PinnedHeap::raw_block(const void* data) const noexcept {
  if (core_ == nullptr || data == nullptr) return nullptr;
  return BlockIndex::around(data, &core_->heap());
}

void* PinnedHeap::allocate(std::size_t bytes, std::size_t alignment, SourceLocation location) const {
  return detail::unwrap(try_allocate(bytes, alignment, location));
}

Result<void*> PinnedHeap::try_allocate(std::size_t bytes, std::size_t alignment,
                                       SourceLocation location) const noexcept {
  constexpr const char* call = "PinnedHeap::allocate";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  if (!std::has_single_bit(alignment) || alignment > detail::page)
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": an alignment of " + std::to_string(alignment) +
             " bytes; it must be a power of two and at most a page, " + std::to_string(detail::page) + " bytes";
    }));
  auto made = allocate_cached(bytes, 1, alignment, location);
  if (made.block == nullptr) {
    auto slowly = allocate(bytes, 1, alignment, std::nullopt, location);
    if (!slowly) return tl::unexpected(std::move(slowly.error()));
    made = *slowly;
  }
  if (made.block == nullptr || BlockIndex::add(detail::of(made.block))) return made.data;
  detail::drop_handle(made.block);
  return tl::unexpected(Error::make(Errc::out_of_memory, [&] {
    return std::string(call) + ": the system has no memory for the index of addresses";
  }));
}

bool PinnedHeap::deallocate(void* data) const noexcept {
  if (data == nullptr) return true;
  if (core_ == nullptr) return false;
  Block* const removed = BlockIndex::remove(data, &core_->heap());
  if (removed == nullptr) return false;
  detail::drop_handle(removed);
  return true;
}

Result<bool> PinnedHeap::try_deallocate(void* data, const StreamRef& stream) const noexcept {
  constexpr const char* call = "PinnedHeap::deallocate";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  if (data == nullptr) return true;
  Block* const block = BlockIndex::at(data, &core_->heap());
  if (block == nullptr) return false;
  // The event for what the stream was given so far comes with its first use after the capture; but that one's view is
  // another, if this one was made in the capture.
  if (const auto& timeline = detail::HandleAccess::shared(stream); timeline != nullptr && timeline->id() == 0)
    if (detail::CaptureInfo info; timeline->capture_info(&info).ok() && info.state != detail::CaptureInfo::State::none)
      return tl::unexpected(Error::make(Errc::capturing, [] {
        return std::string(call) + ": this view was made while its stream captures a graph; deallocate through one " +
               "that was made before, or when the capture has ended";
      }));
  if (auto noted = note(*block, stream, true, call, Of::all_so_far); !noted)
    return tl::unexpected(std::move(noted.error()));
  return deallocate(data);
}

bool PinnedHeap::deallocate(void* data, const StreamRef& stream) const {
  return detail::unwrap(try_deallocate(data, stream));
}

Result<bool> PinnedHeap::try_deallocate_after_all(void* data) const noexcept try {
  constexpr const char* call = "PinnedHeap::deallocate_after_all";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  if (data == nullptr) return true;
  if (BlockIndex::at(data, &core_->heap()) == nullptr) return false;
  const auto& device = core_->arena()->device();
  if (device->lost()) return tl::unexpected(device->lost_error(call));
  return detail::end_handle_after_all(core_->heap(), data);
} catch (const std::exception&) {  // no memory for the list, or no thread
  return tl::unexpected(Error::make(Errc::out_of_memory, [] {
    return std::string("PinnedHeap::deallocate_after_all: the system has no memory, or no thread, to wait with");
  }));
}

bool PinnedHeap::deallocate_after_all(void* data) const { return detail::unwrap(try_deallocate_after_all(data)); }

Result<bool> PinnedHeap::record_raw(const void* data, const StreamRef& stream, bool writes) const noexcept {
  constexpr const char* call = "PinnedHeap::record_use";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  detail::BlockHead* const block = raw_block(data);
  if (block == nullptr) return false;
  if (auto noted = note(detail::of(block), stream, writes, call); !noted)
    return tl::unexpected(std::move(noted.error()));
  return true;
}

Result<bool> PinnedHeap::try_record_use(const void* data, const StreamRef& stream, Access::Reads) const noexcept {
  return record_raw(data, stream, false);
}
Result<bool> PinnedHeap::try_record_use(const void* data, const StreamRef& stream, Access::Writes) const noexcept {
  return record_raw(data, stream, true);
}
bool PinnedHeap::record_use(const void* data, const StreamRef& stream, Access::Reads) const {
  return detail::unwrap(record_raw(data, stream, false));
}
bool PinnedHeap::record_use(const void* data, const StreamRef& stream, Access::Writes) const {
  return detail::unwrap(record_raw(data, stream, true));
}

Result<void> PinnedHeap::use_raw(const void* data, const StreamRef& stream, bool writes,
                                 void (*run)(void*, NativeStream), void* context) const {
  constexpr const char* call = "PinnedHeap::use_on";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  detail::BlockHead* const block = raw_block(data);
  if (block == nullptr) return tl::unexpected(not_this_heaps(call));
  return detail::use_on(block, stream, writes, run, context, nullptr);
}

std::optional<RawBlock> PinnedHeap::find(const void* data) const noexcept {
  detail::BlockHead* const head = raw_block(data);
  if (head == nullptr) return std::nullopt;
  const Block& block = detail::of(head);
  return RawBlock{block.data, block.asked_bytes, detail::has_open_uses(head)};
}

Result<void> PinnedHeap::wait_raw(const void* data, bool writes, std::chrono::nanoseconds timeout) const noexcept {
  constexpr const char* call = "PinnedHeap::try_wait_for";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  detail::BlockHead* const block = raw_block(data);
  if (block == nullptr) return tl::unexpected(not_this_heaps(call));
  return detail::wait_to_borrow(detail::of(block), writes, timeout, call);
}

Result<void> PinnedHeap::try_wait_for(const void* data, Access::Reads,
                                      std::chrono::nanoseconds timeout) const noexcept {
  return wait_raw(data, false, timeout);
}

Result<void> PinnedHeap::try_wait_for(const void* data, Access::Writes,
                                      std::chrono::nanoseconds timeout) const noexcept {
  return wait_raw(data, true, timeout);
}

namespace detail {

void deallocate_on_native(const PinnedHeap& heap, void* data, NativeStream native) noexcept {
  if (heap.core_ == nullptr || !heap.core_->heap().of_this_process()) return;
  const auto& device = heap.core_->arena()->device();
  auto where = device_of_native(device, native);
  auto stream = where ? stream_from_native(HandleAccess::device(std::move(*where)), native)
                      : tl::unexpected(std::move(where.error()));
  auto done = stream ? heap.try_deallocate(data, *stream) : tl::unexpected(std::move(stream.error()));
  if (!done) device->keep_error(std::move(done.error()));
}

}  // namespace detail
}  // namespace thole::inline v0_1

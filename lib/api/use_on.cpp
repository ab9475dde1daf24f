#include <thole/use_on.hpp>

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include <thole/detail/kept.hpp>

#include "api/block_rules.hpp"
#include "api/handle_access.hpp"
#include "api/held_uses.hpp"
#include "base/prefetch.hpp"
#include "streams/device_block.hpp"
#include "streams/submission.hpp"

namespace thole::inline v0_1 {
namespace detail {
namespace {

using Hold = HeldUses::Hold;

Error gone_error(const ListedUse& use, const char* call) {
  return Error::make(Errc::invalid_argument, [&] {
    return std::string(call) + ": the span of " + std::to_string(use.bytes) +
           " bytes is of a DeviceBuffer that is gone";
  });
}

Error twice_error(const ListedUse& use, const char* call) {
  return Error::make(Errc::invalid_argument, [&] {
    return std::string(call) + ": memory of " + std::to_string(use.bytes) +
           " bytes is named twice, and once to be written; what is changed in place is named once";
  });
}

/// Whether device memory that is written overlaps another entry.
Result<void> check_overlaps(const ListedUse* listed, std::size_t count, const char* call) noexcept try {
  std::vector<const ListedUse*> by_address;
  by_address.reserve(count);
  for (std::size_t i = 0; i != count; ++i)
    if (listed[i].device_block != nullptr) by_address.push_back(&listed[i]);
  std::ranges::sort(by_address, {}, [](const ListedUse* use) { return static_cast<const std::byte*>(use->data); });
  const std::byte* end_of_reads = nullptr;  // of all that begin earlier
  const std::byte* end_of_writes = nullptr;
  for (const ListedUse* const use : by_address) {
    const auto* const begin = static_cast<const std::byte*>(use->data);
    if (begin < end_of_writes || (use->writes && begin < end_of_reads)) return tl::unexpected(twice_error(*use, call));
    auto& end = use->writes ? end_of_writes : end_of_reads;
    end = std::max(end, begin + use->bytes);
  }
  return {};
} catch (const std::bad_alloc&) {
  return tl::unexpected(no_system_memory(call));
}

void prefetch_record(const ListedUse& use) noexcept {
  const void* const record = use.block != nullptr ? static_cast<const void*>(use.block) : use.device_block;
  prefetch(record);
}

/// Holds one entry of the list. Sets `shared` where device memory may be listed more than once.
Result<Hold> hold_one(HeldUses& held, const ListedUse* listed, std::size_t index,
                      const std::shared_ptr<DeviceCore>& device, const char* call, bool& shared) noexcept {
  const ListedUse& use = listed[index];
  if (use.moved_from) return tl::unexpected(detail::moved_from(call, "a buffer that it uses"));
  if (use.block != nullptr) {
    Block& block = of(use.block);
    if (!block.of_this_process()) return tl::unexpected(of_another_process_error(call));
    if (auto fits = check_device(block, device, call); !fits) return tl::unexpected(std::move(fits.error()));
    if (held.hold(block, use.writes)) return Hold::taken;
    const auto same = [&](const ListedUse& earlier) { return earlier.block == &block; };
    if (std::any_of(listed, listed + index, same)) return tl::unexpected(twice_error(use, call));
    return tl::unexpected(borrowed_error(block, call, use.writes));
  }
  if (use.device == nullptr) return Hold::taken;  // nothing: 0 elements
  if (use.device != device.get())
    return tl::unexpected(Error::make(Errc::wrong_device, [&] {
      return std::string(call) + ": the device memory of " + std::to_string(use.bytes) +
             " bytes is of another device than the stream";
    }));
  if (use.device_block == nullptr) return Hold::taken;
  if (use.device_block->holders() > (use.kept ? 2U : 1U)) shared = true;
  if (!use.device_block->try_hold(use.generation)) return tl::unexpected(gone_error(use, call));
  const Hold hold = held.hold(*use.device_block, use.writes);
  if (hold == Hold::refused) return tl::unexpected(submitting_error(call, use.writes));
  return hold;
}

/// All or nothing: where it fails, what is held goes with `held`.
Result<Hold> hold_all(HeldUses& held, const ListedUse* listed, std::size_t count,
                      const std::shared_ptr<DeviceCore>& device, const char* call) noexcept {
  if (!held.make_room(count)) return tl::unexpected(no_system_memory(call));
  bool shared = false;
  for (std::size_t i = 0; i != count; ++i) {
    if (i + prefetched_ahead < count) prefetch_record(listed[i + prefetched_ahead]);
    if (auto one = hold_one(held, listed, i, device, call, shared); !one || *one == Hold::busy) return one;
  }
  if (!shared) return Hold::taken;
  return check_overlaps(listed, count, call).map([] { return Hold::taken; });
}

/// Where the device finds what is listed.
Status find_places(DeviceBackend& backend, const ListedUse* listed, std::size_t count, const void** places) noexcept {
  Status status;
  for (std::size_t i = 0; i != count && status.ok(); ++i) {
    places[i] = listed[i].data;
    if (listed[i].block != nullptr) status = backend.device_address(listed[i].data, &places[i]);
  }
  return status;
}

}  // namespace

Result<void> run_uses(const StreamRef& stream, const ListedUse* listed, std::size_t count, const char* call,
                      void (*run)(void*, NativeStream), void* context, const void** places) {
  auto timeline = HandleAccess::live_timeline(stream, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  const auto kept = (*timeline)->shared_from_this();  // the function may end the stream
  (*timeline)->expose();                              // before it is asked whether it captures
  HeldUses held(true);
  const auto hold = [&] { return hold_all(held, listed, count, (*timeline)->device(), call); };
  if (auto all = held.hold_patiently(hold); !all) return all;
  auto work = HandleAccess::begin_work(stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  if (auto used = work->use_all(held.data(), held.size()); !used) return used;
  if (places != nullptr)
    if (const Status status = find_places(work->backend(), listed, count, places); !status.ok())
      return tl::unexpected(work->error(status, "asking where the device finds a buffer"));
  work->expect_long_work();
  work->takes(Submission::some_operations);
  struct Enqueued {
    Submission& work;
    std::size_t bytes;
    ~Enqueued() { work.enqueued(bytes, Submission::Precision::at_once); }
  } const enqueued{*work, held.bytes()};
  run(context, static_cast<NativeStream>(work->timeline().native()));
  return {};
}

bool keep_listed(const ListedUse& use) noexcept {
  if (use.block != nullptr) use.block->holders.add_graph();
  return use.device_block == nullptr || use.device_block->try_hold(use.generation);
}

void let_go_of_listed(const ListedUse& use) noexcept {
  if (use.block != nullptr && use.block->holders.drop_graph()) release(use.block);
  if (use.device_block != nullptr) drop_device_block(use.device_block);
}

}  // namespace detail

void UseList::clear() noexcept {
  for (const detail::ListedUse& use : uses_) detail::let_go_of_listed(use);
  uses_.clear();
}

void UseList::add(const detail::ListedUse& use, const char* call) {
  if (use.moved_from) throw detail::moved_from(call, "the buffer");
  uses_.reserve(uses_.size() + 1 > uses_.capacity() ? 2 * uses_.size() + 8 : uses_.capacity());
  if (!detail::keep_listed(use)) throw detail::gone_error(use, call);
  uses_.push_back(use);
  uses_.back().kept = true;
}

}  // namespace thole::inline v0_1

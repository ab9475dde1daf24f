// Memory that the program has already: <thole/arena.hpp>.

#include <new>
#include <optional>
#include <string>
#include <utility>

#include <gsl/util>

#include <thole/arena.hpp>

#include "api/block_rules.hpp"
#include "api/handle_access.hpp"
#include "base/bytes.hpp"
#include "heap/heap_handle.hpp"
#include "memory/store.hpp"

namespace thole::inline v0_1 {

using detail::ArenaCore;
using detail::HandleAccess;
using detail::HostAccess;

namespace {

Error invalid(const char* call, const std::string& why) {
  return Error::make(Errc::invalid_argument, [&] { return std::string(call) + ": " + why; });
}

Error no_memory(const char* call) {
  return Error::make(Errc::out_of_memory,
                     [&] { return std::string(call) + ": the system has no memory for its bookkeeping"; });
}

std::string at(const void* data) {
  constexpr const char* digits = "0123456789abcdef";
  std::string text;
  for (auto left = reinterpret_cast<std::uintptr_t>(data); left != 0; left /= 16) text.insert(0, 1, digits[left % 16]);
  return "0x" + text;
}

/// What is adopted, and how.
struct Wanted {
  std::byte* data;
  std::size_t bytes;
  bool writable;
  bool whole;  // only as one piece
  bool pinned;
  const char* call;
};

Result<void> check(const Wanted& wanted) {
  if (wanted.data == nullptr || wanted.bytes == 0)
    return tl::unexpected(invalid(wanted.call, "an empty span; there must be memory to pin"));
  if (wanted.bytes > detail::largest_region)
    return tl::unexpected(Error(Errc::limit, std::string(wanted.call) + ": " + detail::bytes_text(wanted.bytes) +
                                                 "; drivers refuse to register 512 GiB and more at once"));
  if (!wanted.whole && (!detail::is_aligned(wanted.data, detail::page) || wanted.bytes % detail::page != 0))
    return tl::unexpected(invalid(wanted.call, "the span of " + std::to_string(wanted.bytes) + " bytes at " +
                                                   at(wanted.data) + " is not whole pages of " +
                                                   std::to_string(detail::page) + " bytes"));
  return {};
}

/// A core whose memory is not pinned yet; its end leaves no trace.
Result<std::shared_ptr<ArenaCore>> open_core(const Device& device, const Wanted& wanted) {
  if (auto right = check(wanted); !right) return tl::unexpected(std::move(right.error()));
  const auto& core = HandleAccess::core(device);
  if (core == nullptr) return tl::unexpected(detail::moved_from(wanted.call, "the device"));
  if (core->lost()) return tl::unexpected(core->lost_error(wanted.call));
  auto store = detail::Store::open_adopted(core, wanted.data, wanted.bytes, wanted.whole);
  if (!store) return tl::unexpected(std::move(store.error()));
  try {
    return std::make_shared<ArenaCore>(core, *store);
  } catch (const std::bad_alloc&) {
    (*store)->close();
    return tl::unexpected(no_memory(wanted.call));
  }
}

Result<void> pin(const ArenaCore& core, const Wanted& wanted, std::function<void()>&& release) {
  std::optional<HostAccess> access;
  if (!wanted.pinned) access = wanted.writable ? HostAccess::read_write : HostAccess::read_only;
  return core.store().pin_adopted(access, std::move(release), wanted.call);
}

/// A block of all the memory, which the program holds from now on.
Result<detail::Block*> take_whole(const std::shared_ptr<ArenaCore>& core, std::size_t bytes, const char* call,
                                  SourceLocation location) {
  const detail::HeapHandle handle(core, {.of_one_block = true});
  detail::Block* const block = core->store().take_whole();
  if (block == nullptr) return tl::unexpected(no_memory(call));
  handle.heap().take_made(*block, bytes);
  block->holders.open();
  block->made_at.store(location, std::memory_order_relaxed);
  return block;
}

}  // namespace

Result<PinnedArena> PinnedArena::adopt_memory(const Device& device, const Memory& memory,
                                              std::function<void()>&& release, const AdoptOptions& options) noexcept {
  constexpr const char* call = "PinnedArena::adopt";
  try {
    const Wanted wanted{static_cast<std::byte*>(const_cast<void*>(memory.data)),
                        memory.bytes,
                        memory.writable,
                        !memory.writable,
                        options.already_pinned,
                        call};
    auto core = open_core(device, wanted);
    if (!core) return tl::unexpected(std::move(core.error()));
    if (auto pinned = pin(**core, wanted, std::move(release)); !pinned)
      return tl::unexpected(std::move(pinned.error()));
    return PinnedArena(std::move(*core));
  } catch (const std::bad_alloc&) {
    return tl::unexpected(no_memory(call));
  }
}

Result<detail::BlockHead*> PinnedArena::adopt_block(const Device& device, const Memory& memory,
                                                    std::function<void()>&& release, const AdoptOptions& options,
                                                    SourceLocation location) noexcept {
  constexpr const char* call = "PinnedArena::adopt_buffer";
  try {
    const Wanted wanted{static_cast<std::byte*>(const_cast<void*>(memory.data)),
                        memory.bytes,
                        memory.writable,
                        true,
                        options.already_pinned,
                        call};
    auto core = open_core(device, wanted);
    if (!core) return tl::unexpected(std::move(core.error()));
    auto block = take_whole(*core, memory.bytes, call, location);
    if (!block) return tl::unexpected(std::move(block.error()));
    bool is_pinned = false;
    const auto given_up = gsl::finally([&] {
      if (!is_pinned) detail::drop_handle(*block);
    });
    if (auto pinned = pin(**core, wanted, std::move(release)); !pinned)
      return tl::unexpected(std::move(pinned.error()));
    is_pinned = true;
    return *block;
  } catch (const std::bad_alloc&) {
    return tl::unexpected(no_memory(call));
  }
}

Result<PinnedArena::WholeBlock> PinnedArena::whole_block(std::size_t element_bytes, std::size_t alignment,
                                                         SourceLocation location) const noexcept {
  constexpr const char* call = "PinnedArena::view";
  try {
    if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the arena"));
    if (!core_->of_this_process()) return tl::unexpected(detail::of_another_process_error(call));
    if (!core_->store().whole_only())
      return tl::unexpected(
          invalid(call, "the arena was not adopted to be read only; a PinnedHeap makes buffers from its memory"));
    const gsl::span<std::byte> memory = core_->store().regions().front();
    if (!detail::is_aligned(memory.data(), alignment) || memory.size() % element_bytes != 0)
      return tl::unexpected(invalid(call, "the " + std::to_string(memory.size()) + " bytes at " + at(memory.data()) +
                                              " are no whole number of elements of " + std::to_string(element_bytes) +
                                              " bytes at a multiple of " + std::to_string(alignment)));
    auto block = take_whole(core_, memory.size(), call, location);
    if (!block) return tl::unexpected(std::move(block.error()));
    return WholeBlock{*block, memory.data(), memory.size()};
  } catch (const std::bad_alloc&) {
    return tl::unexpected(no_memory(call));
  }
}

PinnedArena PinnedArena::adopt(const Device& device, gsl::span<std::byte> memory, std::function<void()> release,
                               const AdoptOptions& options) {
  return detail::unwrap(try_adopt(device, memory, std::move(release), options));
}

PinnedArena PinnedArena::adopt(const Device& device, gsl::span<const std::byte> memory, std::function<void()> release,
                               const AdoptOptions& options) {
  return detail::unwrap(try_adopt(device, memory, std::move(release), options));
}

Result<PinnedArena> PinnedArena::try_adopt(const Device& device, gsl::span<std::byte> memory,
                                           std::function<void()> release, const AdoptOptions& options) noexcept {
  return adopt_memory(device, {memory.data(), memory.size(), true}, std::move(release), options);
}

Result<PinnedArena> PinnedArena::try_adopt(const Device& device, gsl::span<const std::byte> memory,
                                           std::function<void()> release, const AdoptOptions& options) noexcept {
  return adopt_memory(device, {memory.data(), memory.size(), false}, std::move(release), options);
}

}  // namespace thole::inline v0_1

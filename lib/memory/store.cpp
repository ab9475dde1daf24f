#include "memory/store.hpp"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <thole/config.hpp>

#include "base/bytes.hpp"
#include "base/fork.hpp"
#include "base/immortal.hpp"
#include "base/limits.hpp"
#include "base/trace_log.hpp"
#include "blocks/block_index.hpp"
#include "blocks/block_pool.hpp"
#include "memory/chunk.hpp"
#include "memory/mimalloc.hpp"
#include "memory/pinned_pool.hpp"

namespace thole::inline v0_1::detail {

namespace {

constexpr std::size_t least_growth = std::size_t{32} << 20;

// Blocks from here on lie at the other end of free extents than smaller ones and mimalloc's chunks. On traces of
// inference servers the peak over the bytes alive falls from 1.21 to 1.17 by it; other borders between 64 KiB and 4 MiB
// do no better.
constexpr std::size_t large_bytes = std::size_t{256} << 10;

/// A store that closes again, unless it has opened altogether.
class Opening {
 public:
  explicit Opening(Store* store) noexcept : store_(store) {}
  ~Opening() {
    if (store_ != nullptr) store_->close();
  }
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;
  Store* operator->() const noexcept { return store_; }
  Store* opened() noexcept { return std::exchange(store_, nullptr); }

 private:
  Store* store_;
};

}  // namespace

Store* Store::make(std::shared_ptr<DeviceCore> device, std::size_t bytes, std::size_t max_bytes,
                   std::unique_ptr<Departure> departure) {
  Store* store = immortal<Pool>().take();
  if (store == nullptr) store = new Store;
  store->process_ = this_process();
  store->device_ = std::move(device);
  store->options_ = {};
  store->options_.bytes = bytes;
  store->options_.max_bytes = std::max(bytes, max_bytes);
  store->departure_ = std::move(departure);
  store->whole_ = false;
  store->pinned_all_ = false;
  return store;
}

Result<Store*> Store::open(std::shared_ptr<DeviceCore> device, const StoreOptions& options, Unpinning unpinning) {
  if (auto started = start_mimalloc(); !started) return tl::unexpected(std::move(started.error()));
  std::unique_ptr<Departure> departure;
  if (options.hooks) {
    auto prepared = prepare_departure(options.hooks);
    if (!prepared) return tl::unexpected(std::move(prepared.error()));
    departure = std::move(*prepared);
  }
  if (options.bytes > options.largest) {  // else half of it would be pinned before that is known
    const MemoryRoom room = memory_room(options.region.numa_node);
    if (options.bytes > room.bytes) return cannot_pin(Errc::limit, whole_pages(options.bytes), room.limit);
  }
  // Before anything is pinned, so that nothing can fail once it is.
  Opening store(make(device, whole_pages(options.bytes), whole_pages(options.max_bytes), std::move(departure)));
  store->options_.region = options.region;
  store->options_.largest = options.largest;
  store->options_.piece = options.piece;
  const std::size_t first = options.piece != 0 ? std::min(options.piece, options.bytes) : options.bytes;
  auto region = obtain_region(device, whole_pages(std::min(first, options.largest)), options.region, unpinning);
  if (!region) return tl::unexpected(std::move(region.error()));
  if (auto taken = store->take_in(*region); !taken) return tl::unexpected(std::move(taken.error()));
  while (options.piece == 0 && store->capacity() < store->options_.bytes)
    if (auto pinned = store->pin_piece(options.largest, unpinning); !pinned)
      return tl::unexpected(
          Error(pinned.error().errc(),
                std::string(pinned.error().what()) + "; it is a part of an arena of " + bytes_text(options.bytes)));
  const std::lock_guard lock(store->mutex_);
  store->chunks_.prepare();
  return store.opened();
}

Result<Store*> Store::open_adopted(std::shared_ptr<DeviceCore> device, std::byte* data, std::size_t bytes, bool whole) {
  auto departure = prepare_departure({});
  if (!departure) return tl::unexpected(std::move(departure.error()));
  Opening store(make(device, bytes, bytes, std::move(*departure)));
  store->whole_ = whole;
  auto region = adopt_region(device, data, bytes);
  if (!region) return tl::unexpected(std::move(region.error()));
  if (auto taken = store->take_in(*region); !taken) return tl::unexpected(std::move(taken.error()));
  return store.opened();
}

Result<void> Store::pin_adopted(std::optional<HostAccess> access, std::function<void()>&& release, const char* call) {
  if (access)
    if (auto registered = register_adopted(*regions_.front(), *access, call); !registered) return registered;
  departure_->release = std::move(release);
  return {};
}

/// Tells of the region first, and lets go of it where it cannot be taken in.
Result<void> Store::take_in(Region* region) noexcept {
  auto taken = hooks() != nullptr ? tell_added(*hooks(), *region, this) : Result<void>();
  if (taken) {
    bool added = add_region(region);
    // What other threads are about to touch leaves no room for records, though it may once it is touched.
    while (!added && MemoryReservation::wait_for_another()) {
      ask_limits_again();
      added = add_region(region);
    }
    if (added) return taken;
    if (hooks() != nullptr) tell_removed(*hooks(), *region, this);
    taken = tl::unexpected(Error::make(Errc::out_of_memory, [] {
      const std::string why = records_refused();
      return "PinnedArena: no memory for the records of a region" + (why.empty() ? why : ": " + why);
    }));
  }
  region->adopted ? (void)let_go_of_adopted(region) : keep_region(region);
  return taken;
}

bool Store::add_region(Region* region) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    regions_.reserve(regions_.size() + 1);
  } catch (const std::bad_alloc&) {
    return false;
  }
  if (!whole_) {
    if (!extents_.add(*region)) return false;
    if (!chunks_.add(*region)) {
      chunks_.remove(*region);
      extents_.remove(*region);
      return false;
    }
  }
  regions_.push_back(region);
  capacity_.fetch_add(region->bytes, std::memory_order_relaxed);
  pinned_all_ = pinned_all_ || capacity() >= options_.bytes;
  return true;
}

Block* Store::allocate_locked(std::size_t bytes, std::size_t alignment, bool leftovers) noexcept {
  Block* block = chunks_.take(bytes, alignment);
  const auto end = bytes < large_bytes ? Extents::End::low : Extents::End::high;
  if (block == nullptr) block = extents_.take(bytes, alignment, end);
  if (block == nullptr && chunks_.lend_back()) block = extents_.take(bytes, alignment, end);
  if (block == nullptr && leftovers) block = chunks_.take_leftover(bytes, alignment);
  if (block == nullptr) return nullptr;
  const std::size_t out = handed_out() + block->capacity;
  handed_out_.store(out, std::memory_order_relaxed);
  peak_ = std::max(peak_, out);
  return block;
}

Block* Store::take_whole() noexcept {
  Block* const block = acquire_block();
  if (block == nullptr) return nullptr;
  const std::lock_guard lock(mutex_);
  Region& region = *regions_.front();
  block->data = region.data;
  block->capacity = round_up(region.bytes, granule);  // the caches know no smaller ones; it is too large for all
  block->owner = &region;
  block->from_mimalloc = block->is_free = block->is_part = false;
  block->address_before = nullptr;
  block->address_after = region.lowest;
  if (region.lowest != nullptr) region.lowest->address_before = block;
  region.lowest = block;
  handed_out_.store(region.bytes, std::memory_order_relaxed);
  peak_ = region.bytes;
  return block;
}

void Store::give_whole(Block* block) noexcept {
  Region& region = *regions_.front();
  (block->address_before != nullptr ? block->address_before->address_after : region.lowest) = block->address_after;
  if (block->address_after != nullptr) block->address_after->address_before = block->address_before;
  block->address_before = block->address_after = nullptr;
  release_block(block);
  if (region.lowest == nullptr) handed_out_.store(0, std::memory_order_relaxed);
}

void Store::free_locked(Block* block) noexcept {
  if (whole_) return give_whole(block);
  handed_out_.store(handed_out() - block->capacity, std::memory_order_relaxed);
  if (block->from_mimalloc) return chunks_.give(block);
  chunks_.look_again(block->capacity);
  extents_.give(block);
}

void Store::lend_back() noexcept {
  const std::lock_guard lock(mutex_);
  chunks_.lend_back();
}

std::size_t Store::allocate_batch(std::size_t bytes, std::size_t alignment, Block** out, std::size_t count,
                                  bool leftovers) noexcept {
  const std::lock_guard lock(mutex_);
  std::size_t made = 0;
  while (made < count && (out[made] = allocate_locked(bytes, alignment, leftovers)) != nullptr) ++made;
  return made;
}

void Store::free_batch(Block** blocks, std::size_t count) noexcept {
  constexpr std::size_t at_once = 64;
  while (count != 0) {
    const std::size_t some = std::min(count, at_once);
    const std::lock_guard lock(mutex_);
    std::for_each(blocks, blocks + some, [this](Block* block) { free_locked(block); });
    blocks += some;
    count -= some;
  }
}

// Regions that hold nothing, and of a look those that are idle, leave the store, as a list, while `down_to` bytes stay;
// but for the first, which is the arena's own. growing_ is held.
Region* Store::take_empty_regions(std::size_t* bytes, std::size_t down_to, const Look* look) noexcept {
  Region* list = nullptr;
  const std::lock_guard lock(mutex_);
  chunks_.lend_back();
  std::size_t left = capacity();
  for (std::size_t i = regions_.size(); i-- > 1;) {
    Region* const region = regions_[i];
    // Asked first: what mimalloc has in a region that stays could not be taken for it again without memory for records.
    const bool empty = chunks_.holds_nothing(*region);
    const bool goes = look == nullptr ? empty : look->finds_idle(*region, empty);
    if (!goes || left - region->bytes < down_to) continue;
    chunks_.remove(*region);
    [[maybe_unused]] const bool removed = extents_.remove(*region);
    assert(removed);
    regions_.erase(regions_.begin() + static_cast<std::ptrdiff_t>(i));
    BlockIndex::trim(region->data, region->bytes);
    left -= region->bytes;
    *bytes += region->bytes;
    region->next = list;
    list = region;
  }
  capacity_.store(left, std::memory_order_relaxed);
  return list;
}

// Bytes that it may grow by once regions that hold nothing have made way. growing_ is held.
std::size_t Store::room_beside_what_is_used() noexcept {
  const std::lock_guard lock(mutex_);
  chunks_.lend_back();
  std::size_t stays = capacity();
  for (std::size_t i = 1; i < regions_.size(); ++i)
    if (chunks_.holds_nothing(*regions_[i])) stays -= regions_[i]->bytes;
  return options_.max_bytes - std::min(stays, options_.max_bytes);
}

// Takes in a region in place of those that hold nothing. They stay pinned: growing must not wait. growing_ is held.
Result<void> Store::exchange_for(Region* region) {
  std::size_t bytes = 0;
  Region* list = take_empty_regions(&bytes, 0);
  const bool fits = region->bytes <= options_.max_bytes - std::min(capacity(), options_.max_bytes);
  auto taken = fits ? take_in(region) : Result<void>(tl::unexpected(Error::make(Errc::out_of_memory, [] {
    return std::string("PinnedArena: cannot grow: others have taken the room meanwhile");
  })));
  if (!fits) keep_region(region);
  while (list != nullptr) {
    Region* const empty = std::exchange(list, list->next);
    empty->next = nullptr;
    if (!taken && add_region(empty)) continue;
    if (hooks() != nullptr) tell_removed(*hooks(), *empty, this);
    keep_region(empty);
  }
  if (taken) return taken;
  // Who has missed them meanwhile, and is about to grow, looks again.
  const std::lock_guard lock(mutex_);
  ++pieces_;
  growths_.fetch_add(1, std::memory_order_release);
  return taken;
}

// Steps of half the capacity keep the count of regions small and the time that growing takes proportional to what is
// used.
Result<void> Store::grow(std::size_t bytes, std::size_t seen_growths, Waits waits) {
  if (is_telling())
    return tl::unexpected(Error(Errc::invalid_argument,
                                "PinnedArena: cannot grow by " + bytes_text(bytes) +
                                    ": on_region_added and on_region_removed must not make their own arena grow"));
  std::unique_lock growing(growing_, std::defer_lock);
  if (waits == Waits::for_others)
    growing.lock();
  else if (!growing.try_lock())
    return tl::unexpected(Error::make(
        Errc::out_of_memory, [] { return std::string("PinnedArena: another thread is making it grow just now"); }));
  if (growths() != seen_growths) return {};
  const std::size_t wanted = whole_pages(Extents::rounded(std::clamp(bytes, page, SIZE_MAX / 4)));
  std::size_t room = options_.max_bytes - std::min(capacity(), options_.max_bytes);
  // Small regions that are empty make way for a large one, once it is there: until then others may use them.
  const bool exchanges = wanted > room;
  if (exchanges) room = room_beside_what_is_used();
  if (wanted > room)
    return tl::unexpected(Error(Errc::out_of_memory, "PinnedArena: cannot grow by " + bytes_text(bytes) + ": it has " +
                                                         bytes_text(capacity()) + " of at most " +
                                                         bytes_text(options_.max_bytes)));
  // Of blocks like this one a whole number, so that nothing is left over; and no less than a block for the next time.
  const std::size_t half = std::min(std::max((options_.max_bytes - room) / 2, least_growth), options_.largest);
  std::size_t step = std::min(std::max(wanted, half / wanted * wanted), round_down(room, wanted));
  if (room - step < std::min(wanted, least_growth)) step = std::min(room, options_.largest);
  const TraceScope scope("grow the arena", step);
  auto region = obtain_region(device_, step, options_.region, Unpinning::never);
  if (!region && region.error().errc() == Errc::limit && step > wanted)
    region = obtain_region(device_, wanted, options_.region, Unpinning::never);
  if (!region) return tl::unexpected(std::move(region.error()));
  if (auto taken = exchanges ? exchange_for(*region) : take_in(*region); !taken) return taken;
  growths_.fetch_add(1, std::memory_order_release);
  return {};
}

std::size_t Store::trim() {
  std::size_t bytes = 0;
  Region* list = nullptr;
  {
    const std::lock_guard growing(growing_);
    list = take_empty_regions(&bytes, options_.bytes);
  }
  unpin(list);
  return bytes;
}

void Store::close() noexcept {
  if (process_ != this_process()) return;  // a forked child's copy: no lock of it is sound, and no memory behind it
  std::unique_ptr<Departure> departure;
  {
    const std::lock_guard growing(growing_);
    const std::lock_guard lock(mutex_);
    chunks_.lend_back();
    assert(handed_out() == 0);
    departure = std::move(departure_);
    for (Region* region : regions_) {
      BlockIndex::trim(region->data, region->bytes);
      if (!whole_) {
        chunks_.remove(*region);
        extents_.remove(*region);
      }
      if (departure == nullptr)
        keep_region(region);
      else
        region->next = std::exchange(departure->regions, region);
    }
    regions_.clear();
    capacity_.store(0, std::memory_order_relaxed);
    growths_.store(0, std::memory_order_relaxed);
    pieces_ = 0;
    pinning_failed_.clear();
    handed_out_.store(0, std::memory_order_relaxed);
    peak_ = 0;
    device_.reset();
  }
  if (departure != nullptr) depart(std::move(departure));
  immortal<Pool>().give(this);
}

}  // namespace thole::inline v0_1::detail

// What a store shows of itself.

#include <algorithm>
#include <vector>

#include "base/bytes.hpp"
#include "memory/chunk.hpp"
#include "memory/store.hpp"

namespace thole::inline v0_1::detail {
namespace {

// Appends what lies in an extent of mimalloc's: the first of `blocks`, which are in address order, and what is between.
void add_chunk_spans(std::vector<StoreSpan>& spans, const StoreSpan& extent, std::vector<StoreSpan>& blocks) {
  const std::byte* at = extent.data;
  const std::byte* const end = extent.data + extent.bytes;
  auto gap_to = [&](const std::byte* to) {
    if (at < to) spans.push_back({at, static_cast<std::size_t>(to - at), extent.kind, nullptr, extent.region});
  };
  auto block = std::ranges::lower_bound(blocks, at, {}, &StoreSpan::data);
  for (; block != blocks.end() && block->data < end; ++block) {
    gap_to(block->data);
    spans.push_back(*block);
    at = block->data + block->bytes;
  }
  gap_to(end);
}

}  // namespace

bool Store::contains(const void* pointer) const noexcept {
  const auto* const at = static_cast<const std::byte*>(pointer);
  const std::lock_guard lock(mutex_);
  return std::any_of(regions_.begin(), regions_.end(),
                     [at](const Region* region) { return at >= region->data && at < region->data + region->bytes; });
}

std::vector<gsl::span<std::byte>> Store::regions() const {
  std::vector<gsl::span<std::byte>> spans;
  const std::lock_guard lock(mutex_);
  spans.reserve(regions_.size());
  for (const Region* region : regions_) spans.emplace_back(region->data, region->bytes);
  return spans;
}

std::size_t Store::largest_possible() const noexcept {
  const std::lock_guard lock(mutex_);
  // Once everything but the first is let go.
  std::size_t most = std::min(options_.max_bytes - regions_.front()->bytes, options_.largest);
  for (const Region* region : regions_) most = std::max(most, region->bytes);
  return most;
}

// Into what `extents` and `blocks` have reserved: the extents in address order, and the blocks in mimalloc's in none.
// False: there are more.
bool Store::list(std::vector<StoreSpan>& extents, std::vector<StoreSpan>& blocks) const noexcept {
  const std::lock_guard lock(mutex_);
  for (std::size_t index = 0; index < regions_.size(); ++index)
    for (const Block* extent = regions_[index]->lowest; extent != nullptr; extent = extent->address_after) {
      if (extents.size() == extents.capacity()) return false;
      const Chunk* const chunk = extent->is_free ? nullptr : Chunks::chunk_at(*extent);
      const auto kind = extent->is_free    ? StoreSpan::Kind::free
                        : chunk == nullptr ? StoreSpan::Kind::block
                                           : StoreSpan::Kind::mimalloc_free;
      extents.push_back(
          {extent->data, extent->capacity, kind, kind == StoreSpan::Kind::block ? extent : nullptr, index});
      if (chunk == nullptr || chunk->extent != extent) continue;
      for (const Block* block = chunk->blocks; block != nullptr; block = block->address_after) {
        if (blocks.size() == blocks.capacity()) return false;
        blocks.push_back({block->data, block->capacity, StoreSpan::Kind::block, block, index});
      }
    }
  return true;
}

std::vector<StoreSpan> Store::spans() const {
  if (whole_) {  // one of several, which are all the same memory
    std::vector<StoreSpan> spans(1);
    const std::lock_guard lock(mutex_);
    const Region& region = *regions_.front();
    const auto kind = region.lowest != nullptr ? StoreSpan::Kind::block : StoreSpan::Kind::free;
    spans.front() = {region.data, region.bytes, kind, region.lowest, 0};
    return spans;
  }
  // Whoever wants memory waits for the lock: under it nothing is allocated, touched for the first time or sorted.
  std::vector<StoreSpan> extents, blocks;
  for (std::size_t room = 4096;; room *= 4) {
    for (auto* const each : {&extents, &blocks}) {
      each->resize(room);
      each->clear();
    }
    if (list(extents, blocks)) break;
  }
  std::ranges::sort(blocks, {}, &StoreSpan::data);
  std::vector<StoreSpan> spans;
  spans.reserve(extents.size() + blocks.size());
  for (const StoreSpan& extent : extents)
    extent.kind == StoreSpan::Kind::mimalloc_free ? add_chunk_spans(spans, extent, blocks) : spans.push_back(extent);
  return spans;
}

StoreStats Store::stats() const {
  const std::lock_guard lock(mutex_);
  StoreStats stats;
  stats.capacity = capacity();
  stats.max_capacity = options_.max_bytes;
  stats.free = whole_ ? capacity() - handed_out() : extents_.free_bytes() + chunks_.room();
  stats.largest_free = std::max(extents_.largest(), chunks_.largest_if_lent());
  if (stats.largest_free >= Extents::whole_pages_from) stats.largest_free = round_down(stats.largest_free, page);
  stats.handed_out = handed_out();
  stats.peak = peak_;
  stats.wasted = stats.capacity - stats.free - stats.handed_out;
  stats.regions = regions_.size();
  stats.grown = growths() - pieces_;
  if (options_.piece != 0 && !pinned_all_ && pinning_failed_.empty())
    stats.to_pin = options_.bytes - std::min(options_.bytes, capacity());
  stats.pinning_failed = pinning_failed_;
  stats.trouble = chunks_.trouble();
  return stats;
}

}  // namespace thole::inline v0_1::detail

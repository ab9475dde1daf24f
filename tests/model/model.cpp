#include "model.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include <fmt/format.h>

namespace model {

void broken(const std::string& text) { throw Broken(text); }

std::string difference(const Word* data, const Word* expected, std::size_t count) {
  if (count == 0 || std::memcmp(data, expected, count * sizeof(Word)) == 0) return {};
  std::size_t at = 0;
  while (data[at] == expected[at]) ++at;
  return fmt::format("word {} of {} is {:#x}, should be {:#x}", at, count, data[at], expected[at]);
}

bool Memory::overlaps(const void* from, std::size_t size) const {
  const auto a = reinterpret_cast<std::uintptr_t>(data);
  const auto b = reinterpret_cast<std::uintptr_t>(from);
  return a < b + size && b < a + bytes();
}

void Ledger::look(const void* skip, std::size_t bytes) {
  const AtRest still;
  queues_.look(still);
  if (copies_.empty()) return;
  std::vector<Copy> arrived;
  std::erase_if(copies_, [&](Copy& copy) {
    if (!queues_.done(copy.stream, copy.position)) return false;
    arrived.push_back(std::move(copy));
    return true;
  });
  for (std::size_t i = 0; i != arrived.size(); ++i) {
    const Copy& copy = arrived[i];
    const Word* const data = copy.destination->data + copy.offset;
    const std::size_t size = copy.expected->size() * sizeof(Word);
    const auto writes_there = [&](const Copy& later) {
      if (later.number <= copy.number) return false;
      // By address: the memory may have been freed and given to another buffer meanwhile.
      const Word* const again = later.destination->data + later.offset;
      return again < data + copy.expected->size() && data < again + later.expected->size();
    };
    // Where several completed at once, only the last word of each is to be seen; and of one that another thread is in
    // the middle of, some parts.
    const bool written_again =
        std::ranges::any_of(arrived, writes_there) || std::ranges::any_of(copies_, [&](const Copy& later) {
          return queues_.done(later.stream, later.first) && writes_there(later);
        });
    if (written_again || !copy.known) continue;
    if (skip != nullptr && copy.destination->overlaps(skip, bytes)) continue;
    if (copy.to_device && !still.device_memory_exists(data, size)) continue;  // freed since, in the same call
    if (!copy.to_device && watched_ && !held(*copy.destination)) continue;
    const auto wrong = difference(copy.destination->seen() + copy.offset, copy.expected->data(), copy.expected->size());
    if (!wrong.empty())
      broken(fmt::format("the copy of operation {} in stream {} {} {} moved a wrong payload: {}", copy.operation,
                         copy.stream, copy.to_device ? "to the device," : "to the host,",
                         static_cast<const void*>(data), wrong));
  }
}

bool Ledger::conflict(const Memory& memory, bool writes, bool tracked_only) const {
  return std::ranges::any_of(memory.uses, [&](const Use& use) {
    return (writes || use.writes) && (use.tracked || !tracked_only) && open(use);
  });
}

bool Ledger::alive(const GraphLife& life) const {
  return life.graph || life.executables != 0 ||
         std::ranges::any_of(life.launches, [&](const Use& use) { return open(use); });
}

bool Ledger::in_graph(const Memory& memory) const {
  return std::ranges::any_of(memory.graphs, [&](const auto& life) { return alive(*life); });
}

bool Ledger::held(const Memory& memory) const {
  return memory.handle || memory.readers != 0 || memory.writer || memory.lists != 0 || in_graph(memory);
}

bool Ledger::needed(const Memory& memory) const {
  return held(memory) || std::ranges::any_of(memory.uses, [&](const Use& use) { return open(use); }) ||
         std::ranges::any_of(memory.parts, [&](const auto& each) {
           const MemoryPtr part = each.lock();
           return part != nullptr && needed(*part);
         });
}

void Ledger::check_free(const void* data, std::size_t bytes) const {
  for (const MemoryPtr& other : pinned_)
    if (other->overlaps(data, bytes) && needed(*other))
      broken(fmt::format("new memory {} + {} overlaps {} + {}, which is {}", data, bytes,
                         static_cast<const void*>(other->data), other->bytes(),
                         other->handle                          ? "another buffer's"
                         : other->readers != 0 || other->writer ? "borrowed"
                         : other->lists != 0                    ? "in a list of uses"
                         : in_graph(*other)                     ? "a graph's"
                                                                : "in flight"));
}

MemoryPtr Ledger::made(Word* data, std::size_t count, std::uint64_t arena) {
  check_free(data, count * sizeof(Word));
  auto memory = std::make_shared<Memory>();
  memory->data = data;
  memory->count = count;
  memory->arena = arena;
  if (count != 0) pinned_.push_back(memory);
  return memory;
}

std::vector<MemoryPtr> Ledger::split(const MemoryPtr& memory, const std::vector<std::size_t>& sizes) {
  const MemoryPtr whole = memory->whole != nullptr ? memory->whole : memory;
  std::vector<MemoryPtr> parts;
  std::size_t offset = 0;
  for (const std::size_t size : sizes) {
    const auto begin = memory->content.begin() + static_cast<std::ptrdiff_t>(offset);
    auto part = std::make_shared<Memory>();
    part->content.assign(begin, begin + static_cast<std::ptrdiff_t>(size));
    part->count = size;
    part->of_device = memory->of_device;
    part->device = memory->device;
    if (size != 0) {
      part->data = memory->data + offset;
      part->known = memory->known;
      part->used = memory->used;
      part->uses = memory->uses;
      part->arena = memory->arena;
      part->heap = memory->heap;
      part->tag = memory->tag;
      part->whole = whole;
      part->made_on = memory->made_on;
      if (memory->view != nullptr) part->view = memory->view + offset;
      whole->parts.push_back(part);
      if (!part->of_device) pinned_.push_back(part);
    }
    offset += size;
    parts.push_back(std::move(part));
  }
  memory->handle = false;
  if (memory == whole) return parts;
  erased(*memory);
  std::erase(pinned_, memory);
  return parts;
}

MemoryPtr Ledger::joined(const std::vector<MemoryPtr>& parts) {
  std::vector<MemoryPtr> pieces;
  std::ranges::copy_if(parts, std::back_inserter(pieces), [](const MemoryPtr& part) { return part->count != 0; });
  if (pieces.size() == 1) return pieces.front();
  auto memory = std::make_shared<Memory>();
  memory->of_device = parts.front()->of_device;
  memory->device = parts.front()->device;
  if (pieces.empty()) return memory;
  memory->made_on = pieces.front()->made_on;
  memory->view = pieces.front()->view;
  memory->data = pieces.front()->data;
  memory->arena = pieces.front()->arena;
  memory->heap = pieces.front()->heap;
  memory->tag = pieces.front()->tag;
  memory->whole = pieces.front()->whole;
  for (const MemoryPtr& part : pieces) {
    memory->content.insert(memory->content.end(), part->content.begin(), part->content.end());
    memory->uses.insert(memory->uses.end(), part->uses.begin(), part->uses.end());
    memory->count += part->count;
    memory->known = memory->known && part->known;
    memory->used = memory->used || part->used;
    part->handle = false;
    erased(*part);
    std::erase(pinned_, part);
  }
  memory->whole->parts.push_back(memory);
  if (!memory->of_device) pinned_.push_back(memory);
  return memory;
}

void Ledger::forget() {
  std::erase_if(pinned_, [&](const MemoryPtr& memory) {
    if (needed(*memory)) return false;
    erased(*memory);
    return true;
  });
}

void Ledger::erased(const Memory& memory) {
  if (memory.perhaps_in_graph() || memory.let_go_later) lingering_.insert(memory.tag);
}

void Ledger::clean(Memory& memory) const {
  std::erase_if(memory.uses, [&](const Use& use) { return !open(use); });
}

void Ledger::move_content(const Memory& from, std::size_t from_offset, Memory& to, std::size_t to_offset,
                          std::size_t count) {
  if (!from.known) {
    to.known = false;
    return;
  }
  std::copy_n(from.content.begin() + static_cast<std::ptrdiff_t>(from_offset), count,
              to.content.begin() + static_cast<std::ptrdiff_t>(to_offset));
  if (count == to.count) to.known = true;
}

void Ledger::copied(std::uint64_t stream, const MemoryPtr& from, std::size_t from_offset, const MemoryPtr& to,
                    std::size_t to_offset, std::size_t count, bool to_device) {
  const auto position = position_of_copy(stream, to->data + to_offset, from->data + from_offset);
  launched(stream, {position, position}, from, from_offset, to, to_offset, count, to_device);
  from->uses.back().tracked = to->uses.back().tracked = true;
}

void Ledger::launched(std::uint64_t stream, Parts parts, const MemoryPtr& from, std::size_t from_offset,
                      const MemoryPtr& to, std::size_t to_offset, std::size_t count, bool to_device) {
  clean(*from);
  clean(*to);
  move_content(*from, from_offset, *to, to_offset, count);
  const auto begin = from->content.begin() + static_cast<std::ptrdiff_t>(from_offset);
  copies_.push_back({++copies_ever_, operations_, stream, parts.first, parts.last, to, to_offset,
                     std::make_shared<const Content>(begin, begin + static_cast<std::ptrdiff_t>(count)), to_device,
                     from->known});
  note(*from, {stream, parts.last, false, false});
  note(*to, {stream, parts.last, true, false});
}

void Ledger::written(std::uint64_t stream, std::uint64_t position, const MemoryPtr& memory, std::size_t offset,
                     std::shared_ptr<const Content> content) {
  copies_.push_back({++copies_ever_, operations_, stream, position, position, memory, offset, std::move(content),
                     memory->of_device, true});
}

Content Ledger::fresh(std::size_t count) {
  const auto first = static_cast<Word>(++contents_ * 0x9e3779b1u);
  Content content(count);
  for (std::size_t i = 0; i != count; ++i) content[i] = first + static_cast<Word>(i);
  return content;
}

}  // namespace model

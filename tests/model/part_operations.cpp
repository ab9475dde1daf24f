// Parts of one allocation, of pinned or of device memory: buffers are split, and parts joined again, with work in
// flight and without. From then on a part is a buffer as any.

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "program.hpp"

namespace model {
namespace {

/// Whether these are neighbours in one allocation; what is empty is left out.
bool neighbours(const std::vector<MemoryPtr>& parts) {
  const Memory* before = nullptr;
  for (const MemoryPtr& part : parts) {
    if (part->count == 0) continue;
    if (before != nullptr &&
        (part->whole == nullptr || part->whole != before->whole || part->data != before->data + before->count))
      return false;
    before = part.get();
  }
  return true;
}

const Word* data_of(const Buffer& buffer) { return buffer.unsynchronized_data(); }
const Word* data_of(const thole::DeviceBuffer<Word>& buffer) { return buffer.span().native(); }

template <class Held>
using BufferOf = decltype(Held::buffer);
template <class Held>
constexpr bool of_device = std::is_same_v<Held, DeviceMemory>;
template <class Held>
constexpr const char* kind = of_device<Held> ? " of the device's" : "";

}  // namespace

/// Whether somebody else holds the buffer, and looks at its uses.
bool Program::shared_with_others(const Memory& memory) const {
  return memory.readers != 0 || memory.writer || memory.lists != 0 ||
         std::ranges::any_of(memory.graphs, [](const auto& life) { return life->graph || life->executables != 0; });
}

void Program::split_buffer() {
  while (buffers_.size() > 36) drop();
  split_one(buffers_);
}

void Program::split_device_memory() {
  if (device_memory_.size() > 20) drop_device_memory();
  if (device_memory_.size() <= 20) split_one(device_memory_);
}

template <class Held>
void Program::split_one(std::vector<Held>& from) {
  if (from.empty()) return;
  std::swap(from[below(from.size())], from.back());
  auto& buffer = from.back().buffer;
  const MemoryPtr memory = from.back().memory;
  const std::size_t way = below(4);
  std::vector<std::size_t> sizes;
  std::size_t left = memory->count;
  for (std::size_t i = way < 2 ? 1 : below(5); i != 0; --i) {
    sizes.push_back(chance(8) ? 0 : below(left + 1));
    left -= sizes.back();
  }
  const bool outside = chance(12);
  sizes.push_back(left + (outside ? 1 : 0));
  if (way < 2 && outside) sizes.front() = memory->count + 1;
  const bool shared = memory->count != 0 && shared_with_others(*memory);
  say(fmt::format("split {} words{} into {} parts (way {}{}{})", memory->count, kind<Held>, sizes.size(), way,
                  outside ? ", beyond its end" : "", shared ? ", held by others" : ""));
  std::vector<BufferOf<Held>> parts;
  if constexpr (of_device<Held>) will_dangle(buffer, *memory);
  const auto both = [&](std::pair<BufferOf<Held>, BufferOf<Held>> two) {
    parts.push_back(std::move(two.first));
    parts.push_back(std::move(two.second));
  };
  const bool may_be_shared = traits_.faults || memory->perhaps_in_graph();
  const auto rule = outside ? Errc::invalid_argument : Errc::borrowed;
  const auto failed = call(!outside && !shared, {rule}, [&] {
    switch (way) {
      case 0:
        return both(std::move(buffer).split_at(sizes.front()));
      case 1: {
        auto made = std::move(buffer).try_split_at(sizes.front());
        if (!made) throw made.error();
        return both(std::move(*made));
      }
      case 2:
        parts = std::move(buffer).split(sizes);
        return;
      default: {
        auto made = std::move(buffer).try_split(sizes);
        if (!made) throw made.error();
        parts = std::move(*made);
      }
    }
  });
  if (failed) {
    if (!outside && !shared && !may_be_shared) broken("a buffer that nobody else holds cannot be split");
    if (buffer.size() != memory->count || data_of(buffer) != memory->data)
      broken("a split that failed has changed the buffer");
    may_dangle_.clear();
    return;
  }
  dangle();
  if constexpr (!of_device<Held>)
    if (chance(4)) moved_from_calls(buffer);
  from.pop_back();
  if (parts.size() != sizes.size()) broken("a split gives another number of parts");
  const auto made = ledger_.split(memory, sizes);
  for (std::size_t i = 0; i != parts.size(); ++i) {
    if (parts[i].size() != sizes[i]) broken("a part has another size");
    if (sizes[i] != 0 && data_of(parts[i]) != made[i]->data) broken("a part lies elsewhere");
    from.push_back({std::move(parts[i]), made[i]});
  }
  ledger_.look();
}

/// What spans of device memory are to be refused when what it is about to be has succeeded.
void Program::will_dangle(thole::DeviceBuffer<Word>& buffer, const Memory& memory) {
  // A fault may leave memory in a graph that has no node of it.
  if (!traits_.faults && memory.count != 0) may_dangle_.push_back(buffer.span());
}

void Program::dangle() {
  for (const auto& span : std::exchange(may_dangle_, {})) dangling_.push_back(span);
  while (dangling_.size() > 8) dangling_.pop_front();
}

template <class Held>
Held* Program::neighbour(std::vector<Held>& among, const Memory& of) {
  const auto found = std::ranges::find_if(among, [&](const Held& each) {
    const Memory& next = *each.memory;
    return next.count != 0 && of.whole != nullptr && next.whole == of.whole && next.data == of.data + of.count;
  });
  return found == among.end() ? nullptr : &*found;
}

void Program::join_parts() { join_some(buffers_); }
void Program::join_device_parts() { join_some(device_memory_); }

template <class Held>
void Program::join_some(std::vector<Held>& from) {
  // Mostly one that has a neighbour.
  const auto has_neighbour = [&](const Held& each) { return neighbour(from, *each.memory) != nullptr; };
  if (std::ranges::none_of(from, has_neighbour)) of_device<Held> ? split_device_memory() : split_buffer();
  std::size_t first = from.size();
  for (std::size_t i = 0; i != from.size(); ++i)
    if (has_neighbour(from[i]) && (first == from.size() || chance(2))) first = i;
  if (first == from.size() || chance(16)) first = below(from.size() + 1);
  if (first == from.size()) return;
  std::vector<std::size_t> chosen = {first};
  const auto add = [&](std::size_t index) {
    const bool is_new = std::ranges::find(chosen, index) == chosen.end();
    if (is_new) chosen.push_back(index);
    return is_new;
  };
  if (chance(16)) (void)add(below(from.size()));
  while (!chance(4)) {
    const Held* const next = neighbour(from, *from[chosen.back()].memory);
    if (next == nullptr || !add(static_cast<std::size_t>(next - from.data()))) break;
  }
  // Mostly while work goes on with some of them.
  for (const std::size_t index : chosen)
    if (Lane* const lane = pick_lane(false); lane != nullptr && chance(2)) {
      if constexpr (of_device<Held>)
        to_host_new(from[index], *lane);
      else
        to_device_new(from[index], *lane);
    }
  if (chance(16)) (void)add(below(from.size()));
  if (chance(16)) std::swap(chosen.front(), chosen.back());
  join(from, chosen);
}

template <class Held>
void Program::join(std::vector<Held>& from, const std::vector<std::size_t>& chosen) {
  using Parted = BufferOf<Held>;
  std::vector<MemoryPtr> memories;
  std::vector<Parted> parts;
  for (const std::size_t index : chosen) memories.push_back(from[index].memory);
  const bool fit = neighbours(memories);
  const bool shared =
      std::ranges::any_of(memories, [&](const auto& each) { return each->count != 0 && shared_with_others(*each); });
  const bool may_be_shared =
      traits_.faults || std::ranges::any_of(memories, [](const auto& each) { return each->perhaps_in_graph(); });
  const bool moved_from = chance(32);
  say(fmt::format("join {} parts{}{}{}{}", chosen.size(), kind<Held>, fit ? "" : ", no neighbours",
                  shared ? ", held by others" : "", moved_from ? ", one moved from" : ""));
  const auto is_something = [](const MemoryPtr& each) { return each->count != 0; };
  if constexpr (of_device<Held>)
    if (std::ranges::count_if(memories, is_something) > 1)
      for (const std::size_t index : chosen) will_dangle(from[index].buffer, *from[index].memory);
  std::optional<Parted> joined;
  const auto join_them = [&] {
    if (chosen.size() == 2 && !moved_from && chance(2)) {
      joined = thole::join(std::move(from[chosen[0]].buffer), std::move(from[chosen[1]].buffer));
      return;
    }
    for (const std::size_t index : chosen) parts.push_back(std::move(from[index].buffer));
    std::optional<Parted> gone;
    if (moved_from) {
      gone.emplace(std::move(parts.back()));
      parts.push_back(Parted());
      std::swap(parts.back(), parts[parts.size() - 2]);
    }
    auto result = thole::try_join(std::move(parts));
    if (gone) parts.back() = std::move(*gone);
    if (moved_from) parts.erase(parts.end() - 2);
    for (std::size_t i = 0; i != chosen.size() && !result; ++i) from[chosen[i]].buffer = std::move(parts[i]);
    if (!result) throw result.error();
    joined = std::move(*result);
  };
  std::array<Errc, 3> rules{};  // any that is broken may be the one that is told
  rules.fill(shared || fit ? Errc::borrowed : Errc::invalid_argument);
  if (!fit) rules[0] = Errc::invalid_argument;
  if (may_be_shared) rules[1] = Errc::borrowed;
  if (moved_from) rules[2] = Errc::moved_from;
  const auto failed = call(fit && !shared && !moved_from, {rules[0], rules[1], rules[2]}, join_them);
  if (failed) {
    if (fit && !shared && !moved_from && !may_be_shared) broken("parts that nobody else holds cannot be joined");
    for (const std::size_t index : chosen)
      if (const Held& each = from[index];
          each.buffer.size() != each.memory->count || data_of(each.buffer) != each.memory->data)
        broken("a join that failed has changed a part");
    may_dangle_.clear();
    return;
  }
  dangle();
  auto memory = ledger_.joined(memories);
  if (joined->size() != memory->count) broken("a joined buffer has another size");
  if (memory->count != 0 && data_of(*joined) != memory->data) broken("a joined buffer lies elsewhere");
  for (const std::size_t index : chosen) from[index].memory->handle = false;
  std::erase_if(from, [](const Held& each) { return !each.memory->handle; });
  memory->handle = true;
  from.push_back({std::move(*joined), std::move(memory)});
  ledger_.look();
}

}  // namespace model

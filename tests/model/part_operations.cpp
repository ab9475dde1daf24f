// Parts of one allocation: buffers are split, and parts joined again, with work in flight and without. From then on a
// part is a buffer as any.

#include <algorithm>
#include <array>
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

}  // namespace

/// Whether somebody else holds the buffer, and looks at its uses.
bool Program::shared_with_others(const Memory& memory) const {
  return memory.readers != 0 || memory.writer || memory.lists != 0 ||
         std::ranges::any_of(memory.graphs, [](const auto& life) { return life->graph || life->executables != 0; });
}

void Program::split_buffer() {
  while (buffers_.size() > 36) drop();
  if (buffers_.empty()) return;
  std::swap(buffers_[below(buffers_.size())], buffers_.back());
  Buffer& buffer = buffers_.back().buffer;
  const MemoryPtr memory = buffers_.back().memory;
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
  say(fmt::format("split {} words into {} parts (way {}{}{})", memory->count, sizes.size(), way,
                  outside ? ", beyond its end" : "", shared ? ", held by others" : ""));
  std::vector<Buffer> parts;
  const auto both = [&](std::pair<Buffer, Buffer> two) {
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
    if (buffer.size() != memory->count || buffer.unsynchronized_data() != memory->data)
      broken("a split that failed has changed the buffer");
    return;
  }
  if (chance(4)) moved_from_calls(buffer);
  buffers_.pop_back();
  if (parts.size() != sizes.size()) broken("a split gives another number of parts");
  const auto made = ledger_.split(memory, sizes);
  for (std::size_t i = 0; i != parts.size(); ++i) {
    if (parts[i].size() != sizes[i]) broken("a part has another size");
    if (sizes[i] != 0 && parts[i].unsynchronized_data() != made[i]->data) broken("a part lies elsewhere");
    buffers_.push_back({std::move(parts[i]), made[i]});
  }
  ledger_.look();
}

HostBuffer* Program::neighbour(const Memory& of) {
  const auto found = std::ranges::find_if(buffers_, [&](const HostBuffer& each) {
    const Memory& next = *each.memory;
    return next.count != 0 && of.whole != nullptr && next.whole == of.whole && next.data == of.data + of.count;
  });
  return found == buffers_.end() ? nullptr : &*found;
}

void Program::join_parts() {
  // Mostly one that has a neighbour.
  const auto has_neighbour = [&](const HostBuffer& each) { return neighbour(*each.memory) != nullptr; };
  if (std::ranges::none_of(buffers_, has_neighbour)) split_buffer();
  std::size_t first = buffers_.size();
  for (std::size_t i = 0; i != buffers_.size(); ++i)
    if (has_neighbour(buffers_[i]) && (first == buffers_.size() || chance(2))) first = i;
  if (first == buffers_.size() || chance(16)) first = below(buffers_.size() + 1);
  if (first == buffers_.size()) return;
  std::vector<std::size_t> chosen = {first};
  const auto add = [&](std::size_t index) {
    const bool is_new = std::ranges::find(chosen, index) == chosen.end();
    if (is_new) chosen.push_back(index);
    return is_new;
  };
  if (chance(16)) (void)add(below(buffers_.size()));
  while (!chance(4)) {
    const HostBuffer* const next = neighbour(*buffers_[chosen.back()].memory);
    if (next == nullptr || !add(static_cast<std::size_t>(next - buffers_.data()))) break;
  }
  // Mostly while work goes on with some of them.
  for (const std::size_t index : chosen)
    if (Lane* const lane = pick_lane(false); lane != nullptr && chance(2)) to_device_new(buffers_[index], *lane);
  if (chance(16)) (void)add(below(buffers_.size()));
  if (chance(16)) std::swap(chosen.front(), chosen.back());
  join(chosen);
}

void Program::join(const std::vector<std::size_t>& chosen) {
  std::vector<MemoryPtr> memories;
  std::vector<Buffer> parts;
  for (const std::size_t index : chosen) memories.push_back(buffers_[index].memory);
  const bool fit = neighbours(memories);
  const bool shared =
      std::ranges::any_of(memories, [&](const auto& each) { return each->count != 0 && shared_with_others(*each); });
  const bool may_be_shared =
      traits_.faults || std::ranges::any_of(memories, [](const auto& each) { return each->perhaps_in_graph(); });
  const bool moved_from = chance(32);
  say(fmt::format("join {} parts{}{}{}", chosen.size(), fit ? "" : ", no neighbours", shared ? ", held by others" : "",
                  moved_from ? ", one moved from" : ""));
  std::optional<Buffer> joined;
  const auto join_them = [&] {
    if (chosen.size() == 2 && !moved_from && chance(2)) {
      joined = thole::join(std::move(buffers_[chosen[0]].buffer), std::move(buffers_[chosen[1]].buffer));
      return;
    }
    for (const std::size_t index : chosen) parts.push_back(std::move(buffers_[index].buffer));
    std::optional<Buffer> gone;
    if (moved_from) {
      gone.emplace(std::move(parts.back()));
      parts.push_back(Buffer());
      std::swap(parts.back(), parts[parts.size() - 2]);
    }
    auto result = thole::try_join(std::move(parts));
    if (gone) parts.back() = std::move(*gone);
    if (moved_from) parts.erase(parts.end() - 2);
    for (std::size_t i = 0; i != chosen.size() && !result; ++i) buffers_[chosen[i]].buffer = std::move(parts[i]);
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
      if (const HostBuffer& each = buffers_[index];
          each.buffer.size() != each.memory->count || each.buffer.unsynchronized_data() != each.memory->data)
        broken("a join that failed has changed a part");
    return;
  }
  auto memory = ledger_.joined(memories);
  if (joined->size() != memory->count) broken("a joined buffer has another size");
  if (memory->count != 0 && joined->unsynchronized_data() != memory->data) broken("a joined buffer lies elsewhere");
  for (const std::size_t index : chosen) buffers_[index].memory->handle = false;
  std::erase_if(buffers_, [](const HostBuffer& each) { return !each.memory->handle; });
  memory->handle = true;
  buffers_.push_back({std::move(*joined), std::move(memory)});
  ledger_.look();
}

}  // namespace model

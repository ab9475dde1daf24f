// Work that uses several buffers as one use: use_on(stream, reads(a), writes(b), ..., f), and lists of uses, which are
// kept and run later, when their buffers may be gone.

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "listed.hpp"
#include "program.hpp"

namespace model {
namespace {

/// Whether both name the same memory, and one to write it.
bool collide(const Entry& one, const Entry& other) {
  if (one.memory != other.memory || (!one.writes && !other.writes)) return false;
  if (one.count == 0 || other.count == 0) return false;
  return one.offset < other.offset + other.count && other.offset < one.offset + one.count;
}

/// Thrown by a program's function.
struct Own {};

constexpr int answer = 42;

}  // namespace

/// What the rules say of one use of all of these; empty: nothing is in the way. Where several are broken, any may be
/// the one that is told.
std::vector<Errc> Program::forbidden(const Lane& lane, const std::vector<Entry>& entries) const {
  std::vector<Errc> broken_rules;
  for (auto entry = entries.begin(); entry != entries.end(); ++entry) {
    if (entry->count == 0) continue;  // nothing, wherever it is
    const Memory& memory = *entry->memory;
    if (memory.of_device && memory.device != lane.device) broken_rules.push_back(Errc::wrong_device);
    if (memory.writer || (entry->writes && memory.readers != 0)) broken_rules.push_back(Errc::borrowed);
    if (std::any_of(entries.begin(), entry, [&](const Entry& earlier) { return collide(earlier, *entry); }))
      broken_rules.push_back(Errc::invalid_argument);
  }
  // Once each: there are more entries than codes that a call may be told to expect.
  std::ranges::sort(broken_rules);
  broken_rules.erase(std::ranges::unique(broken_rules).begin(), broken_rules.end());
  return broken_rules;
}

/// A stand-in of a kernel for each, in the function of the use.
void Program::enqueue_each(Lane& lane, const std::vector<Entry>& entries, void* native, std::vector<Stand>& stands) {
  for (const Entry& entry : entries) {
    if (entry.count == 0) continue;
    Memory& memory = *entry.memory;
    if (lane.capture) {
      enqueue_raw(device(lane), native, graph_kernel_);
      captured(lane, {entry.memory, nullptr, 0, 0, 0, false, entry.writes});
      continue;
    }
    Kernel& kernel = *kernels_.emplace_back(std::make_unique<Kernel>());
    const auto part = memory.content.begin() + static_cast<std::ptrdiff_t>(entry.offset);
    kernel.data = memory.seen() + entry.offset;
    kernel.writes = entry.writes;
    if (entry.writes)
      kernel.content = std::make_shared<const Content>(ledger_.fresh(entry.count));
    else if (memory.known)
      kernel.content = std::make_shared<const Content>(part, part + static_cast<std::ptrdiff_t>(entry.count));
    try {
      enqueue_raw(device(lane), native, kernel);
    } catch (const thole::Error&) {
      kernel.ran = true;
      throw;
    }
    stands.push_back({&kernel, kernel.content, entry});
    if (!entry.writes) continue;
    std::ranges::copy(*kernel.content, part);
    memory.known = memory.known || whole(entry);
  }
}

/// `call_it(f)` is the call, whose function runs `f(native)` and returns what that returns.
template <class Call>
void Program::use_as_one(Lane& lane, const std::vector<Entry>& entries, Call&& call_it) {
  for (const Entry& entry : entries)
    if (!order(lane, *entry.memory, entry.writes)) return;
  auto codes = forbidden(lane, entries);
  const bool allowed = codes.empty();
  const auto open = [&] {
    return std::ranges::any_of(
        entries, [&](const Entry& entry) { return entry.count != 0 && in_capture(lane, *entry.memory, entry.writes); });
  };
  if (allowed && lane.capture) codes.push_back(Errc::in_flight);
  codes.resize(std::max<std::size_t>(codes.size(), 1), Errc::borrowed);
  const auto code = [&](std::size_t i) { return codes[std::min(i, codes.size() - 1)]; };
  std::string names;
  for (const Entry& entry : entries)
    names +=
        fmt::format(" {}{} {} of {}{}", entry.memory->of_device ? "device's " : "", entry.writes ? "writes" : "reads",
                    entry.count, entry.memory->count, entry.memory->device == lane.device ? "" : " elsewhere");
  say(fmt::format("one use on {} of{}{}{}", lane.id, names, allowed ? "" : ", forbidden",
                  lane.capture ? ", captured" : ""));
  const bool throws = chance(6);
  bool ran = false;
  bool refused = false;
  std::vector<Stand> stands;
  const auto f = [&](void* native) {
    if (!allowed) broken("a function ran that a rule forbids");
    ran = true;
    const bool before = chance(2);
    if (before) touch_one_inside(entries);
    try {
      enqueue_each(lane, entries, native, stands);
    } catch (const thole::Error&) {
      refused = true;
      throw;
    }
    if (!before) touch_one_inside(entries);
    if (throws) throw Own();
    return answer;
  };
  try {
    const auto failed = call([&] { return allowed && !open(); }, {code(0), code(1), code(2), code(3), code(4), code(5)},
                             [&] {
                               if (call_it(f) != answer) broken("use_on returns something else than its function");
                             });
    if (!ran && !failed) broken("use_on did not run its function");
    if (ran && failed && !refused) broken("use_on failed when its function had run");
  } catch (const Own&) {
    if (!throws || !ran) throw;
  }
  if (stands.empty()) return ledger_.look();
  // As one use: none of them is done before the last is.
  const auto last = position_of_function(lane.id, stands.back().kernel);
  for (const Stand& stand : stands) {
    Memory& memory = *stand.entry.memory;
    ledger_.clean(memory);
    Ledger::note(memory, {lane.id, last, stand.entry.writes, true});
    if (stand.entry.writes)
      ledger_.written(lane.id, position_of_function(lane.id, stand.kernel), stand.entry.memory, stand.entry.offset,
                      stand.content);
  }
  ledger_.look();
}

void Program::touch_one_inside(const std::vector<Entry>& entries) {
  const Entry& entry = entries[below(entries.size())];
  const auto buffer = std::ranges::find(buffers_, entry.memory, &HostBuffer::memory);
  if (buffer != buffers_.end()) touch_inside(*buffer, entry.writes);
}

void Program::use_several() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr || buffers_.empty()) return;
  const auto choose = [&](std::vector<Choice>& choices, std::vector<Entry>& entries) {
    const bool may_be_elsewhere = chance(8);
    DeviceMemory* const device = chance(3) ? pick(device_memory_) : nullptr;
    if (device == nullptr || (device->memory->device != lane->device && !may_be_elsewhere)) {
      HostBuffer& host = *pick_buffer();
      choices.push_back({&host, nullptr});
      entries.push_back({host.memory, 0, host.memory->count, chance(2)});
      return;
    }
    const std::size_t count = device->memory->count;
    const std::size_t offset = chance(2) ? 0 : below(count + 1);
    choices.push_back({nullptr, device});
    entries.push_back({device->memory, offset, chance(2) ? count - offset : below(count - offset + 1), chance(2)});
  };
  std::vector<Choice> choices;
  std::vector<Entry> entries;
  const std::size_t kind = below(5);
  for (std::size_t left = kind < 2 ? kind + 2 : 1 + below(12); left != 0; --left) choose(choices, entries);
  if (entries.empty()) return;
  const bool tries = chance(2);
  const auto use = [&](const auto&... each) {
    use_as_one(*lane, entries, [&](const auto& f) {
      const auto run = [&](auto... arguments) {
        const auto all = std::tuple(arguments...);
        const auto as_listed = [&]<std::size_t... I>(std::index_sequence<I...>) {
          return ((entries[I].count == 0 || std::get<I>(all) == place(*lane, *entries[I].memory) + entries[I].offset) &&
                  ...);
        };
        if (!as_listed(std::make_index_sequence<sizeof...(each)>())) broken("use_on gives another pointer");
        return f(std::get<sizeof...(each)>(all));
      };
      const auto visit = [&](auto... listed) {
        return tries ? or_throw(thole::try_use_on(*lane->ref, listed..., run))
                     : thole::use_on(*lane->ref, listed..., run);
      };
      return std::visit(visit, each...);
    });
  };
  if (kind < 2 && entries.size() == 2) {
    use(listed(choices[0], entries[0]), listed(choices[1], entries[1]));
  } else if (kind < 2 && entries.size() == 3) {
    use(listed(choices[0], entries[0]), listed(choices[1], entries[1]), listed(choices[2], entries[2]));
  } else {
    KeptList kept;
    for (std::size_t i = 0; i != entries.size(); ++i) {
      add(kept.list, choices[i], entries[i]);
      if (entries[i].count != 0) ++entries[i].memory->lists;
    }
    if (kept.list.size() != entries.size() || kept.list.empty()) broken("a UseList has another size");
    kept.entries = std::move(entries);
    lists_.push_back(std::move(kept));
    if (chance(2)) run_list(lists_.back(), *lane);
  }
  std::erase_if(buffers_, [](const HostBuffer& each) { return !each.memory->handle; });  // dropped in the function
}

void Program::run_list(const KeptList& kept, Lane& lane) {
  const std::vector<Entry> entries = kept.entries;
  const bool tries = chance(2);
  use_as_one(lane, entries, [&](const auto& f) {
    const auto run = [&](thole::NativeStream native) { return f(native); };
    return tries ? or_throw(kept.list.try_run_on(*lane.ref, run)) : kept.list.run_on(*lane.ref, run);
  });
}

/// Runs a list that was kept, or ends one.
void Program::use_list() {
  if (lists_.empty()) return use_several();
  std::swap(lists_[below(lists_.size())], lists_.back());
  Lane* const lane = pick_lane(true);
  if (lists_.size() < 5 && lane != nullptr && !chance(4)) {
    run_list(lists_.back(), *lane);
    std::erase_if(buffers_, [](const HostBuffer& each) { return !each.memory->handle; });
    return;
  }
  // Device memory whose buffer is gone goes with the list, and the program's own looks at it are not thole's to order.
  if (std::ranges::any_of(lists_.back().entries, [&](const Entry& entry) {
        return entry.memory->of_device && busy_for_host(*entry.memory, true);
      }))
    return;
  drop_list();
}

void Program::drop_list() {
  say("drop a list of uses");
  KeptList gone = std::move(lists_.back());
  lists_.pop_back();
  for (const Entry& entry : gone.entries)
    if (entry.count != 0) --entry.memory->lists;
  if (chance(2)) {
    gone.list.clear();
    if (!gone.list.empty()) broken("a cleared UseList is not empty");
  }
  gone = {};
  ledger_.look();
  ledger_.forget();
}

}  // namespace model

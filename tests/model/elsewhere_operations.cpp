// Graphs that are made elsewhere, by a library or by the program: launch(exec, stream, reads(a), writes(b), ...).
// Nothing in them is known but what is named.

#include <algorithm>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "listed.hpp"
#include "program.hpp"

namespace model {
namespace {

namespace detail = thole::detail;

detail::DeviceBackend& backend(const thole::Device& device) { return *detail::HandleAccess::core(device)->backend; }

void refused(bool ok) {
  if (!ok) throw thole::Error(Errc::device_error, "the raw call was refused");
}

}  // namespace

/// Behind thole's back: the graph keeps no memory for it.
void Program::capture_raw_work(Graph& graph, const Lane& lane, void* native, const HostBuffer& host) {
  DeviceMemory* const there = pick(device_memory_);
  const bool writes = chance(2);
  if (there == nullptr || there->memory->device != lane.device || chance(4)) {
    const MemoryPtr memory = chance(3) && there != nullptr ? there->memory : host.memory;
    if (memory->count == 0 || (memory->of_device && memory->device != lane.device)) return;
    enqueue_raw(device(lane), native, graph_kernel_);
    graph.nodes->push_back({memory, nullptr, 0, 0, 0, false, writes});
    return;
  }
  const std::size_t count = std::min(host.memory->count, there->memory->count);
  if (count == 0) return;
  Node node = writes ? Node{there->memory, host.memory, 0, 0, count, false, false}
                     : Node{host.memory, there->memory, 0, 0, count, true, false};
  // By either of the addresses that pinned memory has.
  if (chance(2)) node.place = place(lane, *host.memory);
  const Word* const at = node.place != nullptr ? node.place : host.memory->data;
  const auto status =
      writes ? backend(device(lane))
                   .copy(const_cast<Word*>(at), there->memory->data, count * sizeof(Word),
                         detail::CopyKind::device_to_host, native)
             : backend(device(lane))
                   .copy(there->memory->data, at, count * sizeof(Word), detail::CopyKind::host_to_device, native);
  refused(status.ok());
  graph.nodes->push_back(node);
}

/// As a library captures, without a call of thole's: the graph keeps no memory.
void Program::capture_elsewhere() {
  Lane* const lane = pick_lane(false);
  if (lane == nullptr || traits_.after_all || graphs_.size() > 6 || buffers_.empty()) return;
  say(fmt::format("a graph is captured elsewhere, in {}", lane->id));
  auto& seam = backend(device(*lane));
  void* const native = detail::HandleAccess::raw(*lane->ref, "model");
  Graph graph;
  graph.elsewhere = true;
  refused(seam.begin_capture(native, detail::CaptureMode::relaxed).ok());
  (void)call(true, {}, [&] {
    for (std::size_t left = 1 + below(4); left != 0; --left) capture_raw_work(graph, *lane, native, *pick_buffer());
  });
  (void)call(true, {}, [&] { graph.graph = device(*lane).simulation().end_capture(*lane->ref); });
  if (!graph.nodes->empty()) graphs_.push_back(std::move(graph));
  ledger_.look();
}

/// By its raw handle, with all named that it uses.
void Program::launch_elsewhere(Graph& graph) {
  Lane* const lane = pick_lane(false);
  if (lane == nullptr || !has_executable(graph)) return;
  std::vector<Choice> choices;
  std::vector<Entry> entries;
  const auto name = [&](const MemoryPtr& memory, bool writes) {
    const auto same = std::ranges::find(entries, memory, &Entry::memory);
    if (same != entries.end()) {
      same->writes = same->writes || writes;
      return true;
    }
    const auto host = std::ranges::find(buffers_, memory, &HostBuffer::memory);
    const auto there = std::ranges::find(device_memory_, memory, &DeviceMemory::memory);
    if (host != buffers_.end())
      choices.push_back({&*host, nullptr});
    else if (there != device_memory_.end())
      choices.push_back({nullptr, &*there});
    else
      return false;  // it is gone: nobody can name it any more
    entries.push_back({memory, 0, memory->count, writes});
    return true;
  };
  for (const Node& node : *graph.nodes) {
    if (node.from != nullptr && !name(node.from, node.to == nullptr && node.kernel_writes)) return;
    if (node.to != nullptr && !name(node.to, true)) return;
  }
  if (entries.empty()) return;
  for (const Entry& entry : entries)
    if (!order(*lane, *entry.memory, entry.writes)) return;
  auto codes = forbidden(*lane, entries);
  const bool allowed = codes.empty();
  codes.resize(std::max<std::size_t>(codes.size(), 2), allowed ? Errc::borrowed : codes[0]);
  say(fmt::format("launch a graph of {} nodes by its raw handle on {}, {} named{}", graph.nodes->size(), lane->id,
                  entries.size(), allowed ? "" : ", forbidden"));
  (void)ledger_.next_operation();
  const auto exec = graph.executables[below(graph.executables.size())].native();
  const bool tries = chance(2);
  const auto launch = [&](const auto&... each) {
    std::visit(
        [&](auto... uses) {
          if (tries)
            or_throw(thole::try_launch(exec, *lane->ref, uses...));
          else
            thole::launch(exec, *lane->ref, uses...);
        },
        each...);
  };
  const auto failed = call(allowed, {codes[0], codes[1], codes.back()}, [&] {
    if (entries.size() == 1) return launch(listed(choices[0], entries[0]));
    if (entries.size() == 2) return launch(listed(choices[0], entries[0]), listed(choices[1], entries[1]));
    thole::UseList list;
    for (std::size_t i = 0; i != entries.size(); ++i) add(list, choices[i], entries[i]);
    if (tries)
      or_throw(thole::try_launch(exec, *lane->ref, list));
    else
      thole::launch(exec, *lane->ref, list);
  });
  if (!failed) launched(graph, *lane, true);
}

}  // namespace model

#pragma once

// What a random program has in its hands, each beside what the model knows of it, and what it may do.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <thole/thole.hpp>

#include "model.hpp"

namespace model {

using thole::Errc;
using Buffer = thole::PinnedBuffer<Word>;

struct Arena {
  std::uint64_t number = 0;
  thole::PinnedArena arena;
  thole::ArenaOptions options;
};

struct Heap {
  std::uint64_t arena = 0;  // its number; the arena's own handle may be gone
  std::size_t first = 0;    // bytes that the arena began with: at least so many can be had in one piece
  std::size_t most = 0;     // bytes that it may grow to
  std::size_t alignment = 64;
  thole::PinnedHeap heap;
  std::uint64_t number = 0;
};

struct HostBuffer {
  Buffer buffer;
  MemoryPtr memory;
};

struct DeviceMemory {
  thole::DeviceBuffer<Word> buffer;
  MemoryPtr memory;
};

/// A borrow that is kept; one of the two.
struct Kept {
  std::optional<thole::Borrow<Word>> read;
  std::optional<thole::BorrowMut<Word>> write;
  MemoryPtr memory;
  std::shared_ptr<const Content> content;  // what it must show
};

/// What one node of a graph copies.
struct Node {
  MemoryPtr from, to;
  std::size_t from_offset = 0;
  std::size_t to_offset = 0;
  std::size_t count = 0;
  bool to_device = false;
  bool kernel_writes = false;   // of a kernel, which has only `from`
  const Word* place = nullptr;  // where the device finds the pinned side's words; nullptr: the copy names the host's
};

struct Graph {
  std::optional<thole::SimulatedGraph> graph;
  void* native = nullptr;  // the program's own, which it has not handed to thole yet
  std::size_t device = 0;  // of `native`
  std::vector<thole::SimulatedGraph::Executable> executables;
  std::shared_ptr<std::vector<Node>> nodes = std::make_shared<std::vector<Node>>();
  std::shared_ptr<GraphLife> life = std::make_shared<GraphLife>();
  bool seen = false;        // thole has captured it, and so sees and orders each launch
  bool forked = false;      // several streams took part: a launch runs the nodes in an order that the seed picks
  bool elsewhere = false;   // made without thole: the program launches it, and names what it uses
  bool each_write = false;  // what it writes can be read when it is written; it has copies alone
};

struct Lane {
  std::optional<thole::Stream> own;
  void* foreign = nullptr;
  std::optional<thole::StreamRef> ref;
  std::uint64_t id = 0;
  std::size_t device = 0;
  int priority = 0;  // that the device gave it
  std::optional<Graph> capture;
  std::uint64_t branch_of = 0;  // it was forked into the capture that this stream began
  bool held = false;
};

struct KeptEvent {
  thole::Event event;
  Use use;
  bool timed = false;  // it was recorded to measure time
  std::size_t device = 0;
  std::uint64_t number = 0;           // of all events
  std::uint64_t after = 0;            // the event with this number lies before it; 0: none that it was measured from
  std::chrono::nanoseconds least{0};  // that the device takes from there
};

/// Memory that is known by its address alone.
struct Raw {
  thole::PinnedHeap heap;
  MemoryPtr memory;
  std::size_t bytes = 0;
};

/// A kernel's stand-in: runs in its stream and looks at, or writes, pinned memory.
struct Kernel {
  const Word* data = nullptr;
  std::shared_ptr<const Content> content;
  bool writes = false;
  bool ran = false;
  std::string wrong;
};

/// What a function of Event::on_ready was told, on a thread of the library's.
struct Notice {
  std::atomic<int> told{0};
  std::atomic<bool> early{false};
  std::atomic<int> error{0};  // an Errc
};

/// What a kernel's launch would be: raw work that the program enqueues.
void enqueue_raw(const thole::Device& device, void* native, Kernel& kernel);

/// One entry of a list of uses: a buffer, or a part of device memory.
struct Entry {
  MemoryPtr memory;
  std::size_t offset = 0;
  std::size_t count = 0;
  bool writes = false;
};

struct KeptList {
  thole::UseList list;
  std::vector<Entry> entries;
};

/// What the program may do, drawn from the seed before it starts.
struct Traits {
  bool faults = false;
  bool lost = false;
  bool foreign = false;
  bool automatic = false;  // streams are held and released
  bool orphans = false;    // heaps go before their buffers' copies are done: a thread of the library's own helps
  bool background = false;
  bool two_devices = false;
  bool large = false;
  bool own_addresses = false;         // a device may find pinned memory elsewhere than the CPU does
  std::chrono::nanoseconds clock{0};  // what the device takes for an operation, by its own clock
  bool after_all = false;  // memory goes back behind everything, which disturbs a capture that begins just then: none
};

/// Runs the devices while the program waits in one, held streams too: everything was done before, but a thread of the
/// library's, which watches for this program or an earlier one, may have enqueued an event since.
class WhileWaiting {
 public:
  WhileWaiting(const std::vector<thole::Device>& devices, std::vector<Lane>& lanes);

 private:
  std::jthread thread_;
};

void release_all(const thole::Device& device);

}  // namespace model

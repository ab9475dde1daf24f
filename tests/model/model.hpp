#pragma once

// The plain model: which memory is in flight, what it holds in program order, and so which copies must move what, and
// what may not be handed out again yet. It knows nothing of events, tickets or queues of blocks.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "queues.hpp"

namespace model {

using Word = std::uint32_t;
using Content = std::vector<Word>;

/// A rule was broken.
struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One operation of a device that touches memory.
struct Use {
  std::uint64_t stream = 0;
  std::uint64_t position = 0;
  bool writes = false;
  bool tracked = true;  // thole knows of it; false: a graph's launch, or a look at device memory's raw address
};

/// A graph and its executables, as far as memory is concerned.
struct GraphLife {
  bool graph = true;
  std::size_t executables = 0;
  std::vector<Use> launches;
};

/// Memory of either side. Content is in program order: what it holds when all that was enqueued has happened.
struct Memory {
  Word* data = nullptr;
  std::size_t count = 0;
  Content content;
  bool known = true;  // false: never written as a whole
  std::vector<Use> uses;
  std::vector<std::shared_ptr<GraphLife>> graphs;
  std::size_t lists = 0;                  // entries of a UseList that name it
  mutable bool tried_in_capture = false;  // a call in a capture has named it, perhaps in vain
  mutable bool used = false;              // since it was known that nothing uses it
  unsigned tag = 0;                       // the place where it was made, for reports; 0: none of its own
  bool let_go_later = false;              // on a thread of the library's own
  // Pinned memory alone.
  std::atomic<bool> handle{true};  // a function of the device's may drop it, on another thread
  std::size_t readers = 0;
  bool writer = false;
  std::uint64_t arena = 0;
  std::uint64_t heap = 0;
  std::shared_ptr<Memory> whole;             // of a part: the allocation
  std::vector<std::weak_ptr<Memory>> parts;  // of an allocation that was split: all that there ever were
  // Device memory alone.
  bool of_device = false;
  std::uint64_t made_on = 0;  // a stream; 0: in a capture
  std::size_t device = 0;
  const Word* view = nullptr;  // where the CPU may look at it

  const Word* seen() const { return view != nullptr ? view : data; }
  std::size_t bytes() const { return count * sizeof(Word); }
  /// A graph that is gone lets go of its memory on a thread of the device's, and one that a call named the memory to in
  /// vain may have kept it, and uses it with each launch.
  bool perhaps_in_graph() const { return tried_in_capture || !graphs.empty(); }
  /// Whether thole must know that nothing uses it.
  bool surely_idle() const { return !used && !perhaps_in_graph(); }
  bool overlaps(const void* from, std::size_t size) const;
};
using MemoryPtr = std::shared_ptr<Memory>;

/// A copy that has been enqueued, or the check of one.
struct Copy {
  std::uint64_t number = 0;  // of all copies, in program order
  std::uint64_t operation = 0;
  std::uint64_t stream = 0;
  std::uint64_t first = 0;  // of its parts; without parts, its position
  std::uint64_t position = 0;
  MemoryPtr destination;
  std::size_t offset = 0;  // words, in the destination
  std::shared_ptr<const Content> expected;
  bool to_device = false;
  bool known = true;  // false: nobody knows what it moves
};

class Ledger {
 public:
  /// A thread of the library's reclaims memory beside the program: what nobody holds may be gone at any moment.
  void set_watched() { watched_ = true; }

  // ---- Looking at the device

  /// Sees what has completed since the last time and checks each payload that arrived. Nothing is known of
  /// [skip, skip + bytes), which a new owner has written since.
  void look(const void* skip = nullptr, std::size_t bytes = 0);
  /// The same without the checks: copies are checked at the next look().
  void refresh() { queues_.look(AtRest()); }
  bool open(const Use& use) const { return !queues_.done(use.stream, use.position); }
  /// Whether a use is open that conflicts with a new one; `tracked`: only such as thole must know of.
  bool conflict(const Memory& memory, bool writes, bool tracked_only) const;
  bool alive(const GraphLife& life) const;
  bool in_graph(const Memory& memory) const;

  // ---- Pinned memory

  /// A new buffer: checks that nobody else has any of the memory.
  MemoryPtr made(Word* data, std::size_t count, std::uint64_t arena);
  /// A buffer that is gone again, of any type: only the check.
  void check_free(const void* data, std::size_t bytes) const;
  /// It is parts of these sizes from now on, one behind the other; each starts with the uses of all.
  std::vector<MemoryPtr> split(const MemoryPtr& memory, const std::vector<std::size_t>& sizes);
  /// They are one piece from now on, which starts with the uses of each.
  MemoryPtr joined(const std::vector<MemoryPtr>& parts);
  /// Whether the program holds it, a borrow, a list of uses or a graph.
  bool held(const Memory& memory) const;
  /// The same, or the device needs it; or that is so of a part of it.
  bool needed(const Memory& memory) const;
  /// Forgets what is not needed any more.
  void forget();
  /// Whether a report may still have what was made there, though it is gone.
  bool may_linger(unsigned tag) const { return lingering_.contains(tag); }
  const std::vector<MemoryPtr>& pinned() const { return pinned_; }

  // ---- Copies

  std::uint64_t next_operation() { return ++operations_; }
  std::uint64_t operations() const { return operations_; }
  /// A copy was just enqueued on the stream; finds it there.
  void copied(std::uint64_t stream, const MemoryPtr& from, std::size_t from_offset, const MemoryPtr& to,
              std::size_t to_offset, std::size_t count, bool to_device);
  /// The same as part of a graph's launch.
  void launched(std::uint64_t stream, Parts parts, const MemoryPtr& from, std::size_t from_offset, const MemoryPtr& to,
                std::size_t to_offset, std::size_t count, bool to_device);
  /// A kernel was just enqueued that writes this content, from that word of the memory on.
  void written(std::uint64_t stream, std::uint64_t position, const MemoryPtr& memory, std::size_t offset,
               std::shared_ptr<const Content> content);
  static void note(Memory& memory, const Use& use) {
    memory.used = true;
    memory.uses.push_back(use);
  }
  void clean(Memory& memory) const;
  /// Nothing that was enqueued will be checked any more: the device is lost.
  void lose() { copies_.clear(); }
  std::size_t copies() const { return copies_.size(); }
  const Queues& queues() const { return queues_; }
  /// New content that no other memory has or had.
  Content fresh(std::size_t count);

 private:
  void move_content(const Memory& from, std::size_t from_offset, Memory& to, std::size_t to_offset, std::size_t count);

  void erased(const Memory& memory);

  bool watched_ = false;
  std::set<unsigned> lingering_;  // tags
  Queues queues_;
  std::vector<MemoryPtr> pinned_;
  std::vector<Copy> copies_;
  std::uint64_t operations_ = 0;
  std::uint64_t copies_ever_ = 0;
  std::uint64_t contents_ = 0;
};

/// Where `data` differs from what it must hold; empty when it does not.
std::string difference(const Word* data, const Word* expected, std::size_t count);
[[noreturn]] void broken(const std::string& text);

}  // namespace model

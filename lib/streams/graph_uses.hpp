#pragma once

// What graphs use. A graph that is being captured gets one record, which holds all the memory that thole's calls in the
// capture name, as long as the graph and its executables live; and each launch is a use of all of it. Blocks that a
// graph has let go of and that nobody else holds wait here until somebody reclaims, at the latest the library's own
// thread, since a graph's release runs on a thread of the driver's and may not call the device.

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "backend/device_core.hpp"
#include "blocks/moving_blocks.hpp"
#include "streams/graph_write.hpp"
#include "streams/used.hpp"

namespace thole::inline v0_1::detail {

/// What is known of a graph's launches: nothing; or all go through thole, which orders them; and then, also when each
/// has written each buffer.
enum class GraphLaunches { unseen, seen, seen_by_write };

/// What one graph uses. Thread safety: any thread, at any time: a capture may go on in several streams.
class GraphUses {
 public:
  GraphUses(std::shared_ptr<DeviceCore> device, GraphLaunches known) noexcept
      : launches(known), device_(std::move(device)) {}
  /// Lets go of all, without a call of the device.
  ~GraphUses();
  GraphUses(const GraphUses&) = delete;
  GraphUses& operator=(const GraphUses&) = delete;

  using Branches = std::vector<std::shared_ptr<Timeline>>;

  /// The graph holds the memory from now on; the caller holds it, too. False: the system has no memory; then it does
  /// not.
  bool hold(const Used& used) noexcept;
  /// Appends to `before` the streams of the capture, but for `by`, whose uses of the memory, which the graph holds, a
  /// use that `by` captures must come after. Throws std::bad_alloc.
  void must_come_after(const Used& used, const std::shared_ptr<Timeline>& by, Branches& before) const;
  /// `by` captures a use of the memory, which the graph holds, and comes after those in `before`. False: the system has
  /// no memory.
  bool add(const Used& used, const std::shared_ptr<Timeline>& by, const Branches& before) noexcept;
  /// The write, which was added, is in the graph, and nothing follows it in the stream yet.
  void written(const Block& block, const Timeline& stream) noexcept;
  /// What the other holds, too. Throws std::bad_alloc.
  void add_all(const GraphUses& other);
  /// Each piece once, as written where any use writes. Throws std::bad_alloc.
  std::vector<Used> all() const;
  /// For each of `all` what says when a launch has written it, or nullptr. Empty: nothing does. Throws std::bad_alloc.
  std::vector<std::shared_ptr<GraphWrite>> writes(const std::vector<Used>& all) const;

  const GraphLaunches launches;

 private:
  const std::shared_ptr<DeviceCore> device_;
  mutable std::mutex mutex_;
  using Streams = std::vector<std::weak_ptr<Timeline>>;
  /// A use stays here until a write comes after it: who is refused, or is not ordered yet, has changed nothing.
  struct Piece {
    Used used;
    Streams writers;
    Streams readers;
  };
  std::unordered_map<const void*, Piece> pieces_;
  std::unordered_map<const Block*, std::shared_ptr<GraphWrite>> writes_;
};

/// The graphs of one device that use memory of thole's, by handle. Thread safety: any thread, at any time.
class GraphTable {
 public:
  /// The record of the graph that is being captured, made and given to it where there is none.
  Status of_capture(const std::shared_ptr<DeviceCore>& device, const CaptureInfo& capture, GraphLaunches launches,
                    std::shared_ptr<GraphUses>* uses) noexcept;
  /// Whether each launch of the graph that is being captured will be seen.
  bool launches_seen(const CaptureInfo& capture) const noexcept;
  /// nullptr: the graph uses nothing that thole knows of. Where more than one capture went into a graph with this
  /// handle, and the memory of each is still held, it is that of all: they may be one graph's,
  /// and its launches count as a whole. Throws std::bad_alloc.
  std::shared_ptr<GraphUses> of_graph(const std::shared_ptr<DeviceCore>& device, GraphHandle graph) const;

  /// Held while the graph is instantiated, by who has it. CUDA: "Graph object thread safety": a graph is for one thread
  /// at a time. Some graphs share one.
  std::mutex& instantiating(GraphHandle graph) noexcept;

  /// Nobody uses them any more: has them destroyed.
  void end(const std::shared_ptr<DeviceCore>& device, GraphHandle graph, GraphExecHandle exec) noexcept;

 private:
  struct Entry {
    std::uint64_t capture = 0;  // the last one; a handle may be another graph's by now
    std::vector<std::weak_ptr<GraphUses>> uses;
    bool expired() const noexcept;
  };
  mutable std::mutex mutex_;
  std::unordered_map<GraphHandle, Entry> by_handle_;
  std::size_t drop_beyond_ = 64;
  std::array<std::mutex, 16> instantiating_;
};

/// Moves all blocks that graphs have let go of, and that nobody holds any more, to `out`.
void take_released_from_graphs(MovingBlocks& out) noexcept;

}  // namespace thole::inline v0_1::detail

#pragma once

// One stream as thole sees it: positions, the events (tickets) that cover them, and the blocks that wait for them.
//
// Every use of memory in a stream gets the next position, taken after the work was enqueued. A ticket is an event with
// a position of its own, taken before the event is recorded: so the event covers every position up to its own, whatever
// other threads do meanwhile. Positions never go back, not even when the Timeline serves another stream later: what is
// complete stays complete.
//
// How far a ticket may be behind (the slack): an event is recorded after `uses_per_ticket` uses or `bytes_per_ticket`
// bytes of blocks, at once behind a device write and on a foreign stream, before and after any work that is not a copy
// of thole's (use_on, host functions, native()), and whenever somebody needs an answer.
//
// The mutex of a timeline guards its lists. It is never held across a call of the backend.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/backend.hpp"
#include "backend/device_core.hpp"
#include "blocks/block.hpp"
#include "blocks/moving_blocks.hpp"

namespace thole::detail {

/// An event and what waits for it.
struct Ticket {
  Timeline* timeline = nullptr;
  EventHandle event = nullptr;
  std::uint64_t position = 0;
  unsigned references = 0;  // threads that wait for it and Event handles; it is not recorded again meanwhile
  bool pending = false;
  Ticket* before = nullptr;
  Ticket* after = nullptr;  // also the link of the free list
  BlockList blocks;
};

class Timeline {
 public:
  static constexpr std::uint64_t uses_per_ticket = 16;
  static constexpr std::size_t bytes_per_ticket = std::size_t{1} << 20;
  static constexpr unsigned bounded_queries = 8;  // of a poll that is not thorough

  // ---- Making and ending (timelines.cpp)

  /// Starts to serve a stream. The timeline is idle.
  void open(std::shared_ptr<DeviceCore> device, StreamHandle native, std::uint64_t id, bool foreign) noexcept;
  /// The stream is gone: nothing is enqueued or recorded any more.
  void close() noexcept;
  /// After close() and before the native stream is destroyed: waits for the end of calls on it that other threads are
  /// in the middle of, to cover a use or to free memory. A microsecond, and hardly ever.
  void wait_for_visits() const noexcept;
  /// Around a call on the native stream by a thread that may not know whether that still lives; and as long as a ticket
  /// is neither in the lists nor lent. Meanwhile the timeline serves no other stream.
  class Visit {
   public:
    explicit Visit(Timeline& timeline) noexcept : timeline_(timeline) {
      timeline.visits_.fetch_add(1, std::memory_order_seq_cst);  // before id() is asked; against close()
    }
    ~Visit() { timeline_.visits_.fetch_sub(1, std::memory_order_release); }  // pairs with wait_for_visits()
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;

   private:
    Timeline& timeline_;
  };
  bool is_open(std::uint64_t id) const noexcept { return id_.load(std::memory_order_seq_cst) == id; }
  /// Closed, and nothing waits: may serve another stream.
  bool idle() noexcept;
  /// Destroys its events. The timeline is closed and idle, or its device is going away.
  void destroy_events(DeviceBackend& backend) noexcept;

  /// The native handle is given to the program, which may capture with it. Release, against may_capture().
  void expose() noexcept { exposed_.store(true, std::memory_order_release); }
  /// Whether it makes sense to ask if the stream captures: that call takes the driver's lock, and with 16 threads
  /// doubles what a copy costs.
  bool may_capture() const noexcept { return exposed_.load(std::memory_order_acquire); }

  // ---- Positions

  /// The position of what the caller has just enqueued.
  std::uint64_t issue() noexcept { return issued_.fetch_add(1, std::memory_order_acq_rel) + 1; }
  std::uint64_t issued() const noexcept { return issued_.load(std::memory_order_acquire); }
  /// Whether the position is known to be complete. Acquire: what its event ordered before is visible.
  bool done(std::uint64_t position) const noexcept { return completed_.load(std::memory_order_acquire) >= position; }

  // ---- Events

  /// An event at the end of the stream, whatever the slack. `capture`: the stream captures.
  Status record() noexcept;
  /// As record(), for the caller to keep: release it with release_ticket.
  Status record_ticket(Ticket** ticket) noexcept;
  void release_ticket(Ticket* ticket) noexcept;
  /// A ticket for record_reserved(), made before the work is enqueued so that recording cannot fail for lack of one.
  Status reserve(Ticket** ticket) noexcept;
  Status record_reserved(Ticket* ticket) noexcept;
  void give_back(Ticket* ticket) noexcept;
  /// Records if `bytes` more make the slack too large. Failing is no harm: whoever needs an answer records again.
  void record_if_due(std::size_t bytes) noexcept;
  /// Makes sure that a ticket covers the position.
  Status cover(std::uint64_t position) noexcept;
  /// Covers everything that was issued, if anything is not covered.
  Status cover_all() noexcept { return cover(issued()); }

  // ---- Waiting. All answer capture when the position is not covered and the stream captures.

  /// ok or not_ready; never waits.
  Status query(std::uint64_t position) noexcept;
  /// Blocks until the position is complete.
  Status wait(std::uint64_t position) noexcept;
  /// The caller knows, by other means, that everything up to the position is complete.
  void finish(std::uint64_t position) noexcept;
  /// The stream `waiter` goes on only after this timeline's position; does not block. Both streams' backends are of a
  /// kind.
  Status order_before(DeviceBackend& backend, StreamHandle waiter, std::uint64_t position) noexcept;

  // ---- Blocks that wait

  /// The block waits for `wait_position`. No lock, no allocation, no call.
  void push(Block* block) noexcept;
  /// Moves blocks whose position is complete to `out`. One thread polls at a time. A thorough poll covers what no
  /// ticket covers yet, waits for another thread's poll and asks until it has found all; else that other poll is
  /// enough, and the first blocks that are found in `bounded_queries`.
  void poll(MovingBlocks& out, bool thorough) noexcept;
  /// Whether blocks or tickets wait.
  bool has_work() const noexcept;

  bool foreign() const noexcept { return foreign_; }
  std::uint64_t id() const noexcept { return id_.load(std::memory_order_seq_cst); }
  StreamHandle native() const noexcept { return native_; }
  /// The stream's number when it was open, for reports.
  std::uint64_t last_id() const noexcept { return last_id_.load(std::memory_order_relaxed); }
  DeviceCore* device() const noexcept { return device_.load(std::memory_order_acquire); }

  Timeline* next_idle = nullptr;  // (timelines.cpp)
  Timeline* next_made = nullptr;

 private:
  Status take_ticket(Ticket** ticket) noexcept;
  Status record_taken(Ticket* ticket) noexcept;
  Status record_into(Ticket* ticket) noexcept;
  Status check_no_capture() noexcept;
  /// No event has the position after all, and no use: it needs no cover where all before it have theirs.
  void pass_over(std::uint64_t position) noexcept;
  void insert(Ticket* ticket) noexcept;
  Ticket* first_covering(std::uint64_t position) noexcept;
  void unpin(Ticket* ticket) noexcept;
  void complete(std::uint64_t position) noexcept;
  void remove(Ticket* ticket) noexcept;
  void retire(MovingBlocks& out, std::shared_ptr<DeviceCore>& keep) noexcept;
  void absorb_dropped(MovingBlocks& out) noexcept;
  /// What is complete though the event that covers it is not, or is still to come: a position before it became known.
  void take_done(BlockList& from, MovingBlocks& out) noexcept;
  void query_tickets(MovingBlocks& out, bool thorough, std::shared_ptr<DeviceCore>& keep,
                     std::unique_lock<std::mutex>& lock) noexcept;
  Status ask(Ticket* ticket, std::unique_lock<std::mutex>& lock) noexcept;
  Status not_covered() const noexcept;

  // Set by open(), read by everybody who uses the stream.
  std::atomic<DeviceCore*> device_{nullptr};
  std::weak_ptr<DeviceCore> device_reference_;
  StreamHandle native_ = nullptr;
  std::atomic<std::uint64_t> id_{0};  // 0: closed. Release in open(), acquire in is_open(); seq_cst against visits_
  std::atomic<std::uint64_t> last_id_{0};
  bool foreign_ = false;
  std::atomic<bool> exposed_{false};

  // Written by who uses the stream.
  alignas(64) std::atomic<std::uint64_t> issued_{0};
  std::atomic<std::size_t> bytes_since_ticket_{0};
  std::atomic<unsigned> visits_{0};
  std::atomic<Block*> dropped_{nullptr};  // a stack; push() releases, absorb_dropped() acquires

  // Written by who polls; under the mutex.
  alignas(64) std::atomic<std::uint64_t> recorded_{0};  // the last position that a ticket covers
  std::atomic<std::uint64_t> completed_{0};             // release in complete(), acquire in done()
  std::atomic<bool> polling_{false};
  std::atomic<bool> waiting_{false};  // tickets or blocks wait, for has_work()
  std::mutex mutex_;
  Ticket* oldest_ = nullptr;  // pending tickets by position
  Ticket* newest_ = nullptr;
  Ticket* free_ = nullptr;
  unsigned lent_ = 0;    // references of tickets
  BlockList uncovered_;  // blocks that no pending ticket covers
  std::uint64_t uncovered_last_ = 0;
  std::uint64_t failed_at_ = 0;       // recorded_ when the last query said not_ready
  std::uint64_t taken_at_ = 0;        // completed_ when done blocks were last taken out of the oldest ticket
  std::shared_ptr<DeviceCore> keep_;  // while tickets are pending, the device lives
};

}  // namespace thole::detail

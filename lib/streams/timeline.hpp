#pragma once

// Defined in: timeline.cpp, timeline_waiting.cpp

// One stream as thole sees it: positions, the events (tickets) that cover them, and the blocks that wait for them.
//
// Every use of memory in a stream gets the next position, taken after the work was enqueued. An event covers all
// positions that were taken before it was recorded. Events may lag behind the uses. One is recorded after
// `uses_per_ticket` uses or `bytes_per_ticket` bytes of blocks, before work that may be long, directly behind a device
// write and on a foreign stream, and when somebody asks; and after `operations_per_ticket` operations of any kind, so
// that it is known how many are still to be done: a queue that is full makes its callers wait.
//
// A Timeline is shared: by the stream's handles, by the slots of memory that it uses, by Event handles. It keeps its
// device. It serves one stream and no other ever after, so that nobody can meet a wrong one.
//
// Locks, in the order in which they are taken: `beginning_` (no capture begins), `polling_` (one thread asks for
// finished blocks), `recording_` (events are recorded and listed one after the other, so that their order is one),
// `mutex_` (the lists; never held across a call of the backend but to destroy an event that is broken).

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/backend.hpp"
#include "backend/device_core.hpp"
#include "base/deadline.hpp"
#include "base/lock_free_stack.hpp"
#include "blocks/block.hpp"
#include "blocks/moving_blocks.hpp"
#include "streams/ticket.hpp"
#include "streams/waited_for.hpp"
#include "streams/waiting_blocks.hpp"

namespace thole::inline v0_1::detail {

class Timeline : public std::enable_shared_from_this<Timeline> {
 public:
  static constexpr std::uint64_t uses_per_ticket = 16;
  static constexpr std::size_t bytes_per_ticket = std::size_t{1} << 20;
  static constexpr std::uint64_t operations_per_ticket = 128;
  static constexpr unsigned bounded_queries = 8;  // of a look for finished blocks that is not thorough

  /// Whose the native stream is.
  enum class Kind {
    own,        ///< thole's: destroyed when it is closed and no call is in it
    foreign,    ///< the program's: not touched by thole after a call, so that the program may destroy it
    of_thread,  ///< foreign, and another stream on each thread: cudaStreamPerThread
  };

  Timeline(std::shared_ptr<DeviceCore> device, StreamHandle native, std::uint64_t id, Kind kind) noexcept;
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  const std::shared_ptr<DeviceCore>& device() const noexcept { return device_; }
  StreamHandle native() const noexcept { return native_; }
  std::uint64_t id() const noexcept { return id_; }
  bool foreign() const noexcept { return kind_ != Kind::own; }
  /// Whether the stream belongs to another thread than the caller's.
  bool of_another_thread() const noexcept;

  // ---- Calls on the native stream

  /// A call on the native stream, by whichever thread; while it lives the stream is not destroyed.
  class [[nodiscard]] Call {
   public:
    explicit Call(Timeline& timeline) noexcept : timeline_(timeline.enter() ? &timeline : nullptr) {}
    Call(Call&& other) noexcept : timeline_(std::exchange(other.timeline_, nullptr)) {}
    Call& operator=(Call&&) = delete;
    ~Call() {
      if (timeline_ != nullptr) timeline_->leave();
    }
    /// False: the stream is closed, and must not be touched.
    explicit operator bool() const noexcept { return timeline_ != nullptr; }

   private:
    Timeline* timeline_;
  };
  /// While it lives nobody begins a capture in the stream through thole: for calls that would invalidate one.
  class [[nodiscard]] NoCapture {
   public:
    explicit NoCapture(Timeline& timeline) noexcept
        : lock_(timeline.beginning_), status_(timeline.check_no_capture()) {}
    /// Somebody who is about to begin one counts as if he had.
    NoCapture(Timeline& timeline, std::try_to_lock_t now) noexcept
        : lock_(timeline.beginning_, now),
          status_(lock_.owns_lock() ? timeline.check_no_capture() : Status{StatusCode::capture}) {}
    /// `capture` where one goes on, or what asking for it failed with.
    const Status& status() const noexcept { return status_; }

   private:
    const std::unique_lock<std::mutex> lock_;
    const Status status_;
  };
  /// Begins a capture of thole's. not_ready: another thread is just waiting for the stream with a call of CUDA's that
  /// would invalidate it.
  Status begin_capture() noexcept;
  /// Whether views of the stream may be used: its handle is not gone.
  bool is_usable() const noexcept { return is_open() && !handle_gone_.load(std::memory_order_acquire); }
  /// The handle of a stream of thole's own is gone: no view may be used any more. end() follows.
  void drop_handle() noexcept { handle_gone_.store(true, std::memory_order_release); }
  /// Records the last event of the stream, after all its work, and closes it. False: the event was refused now, or
  /// could have to wait; the stream stays open, and end() is called again.
  bool end() noexcept;
  /// Of a closed stream: the position behind which nothing was enqueued.
  std::uint64_t last_position() const noexcept { return last_position_.load(std::memory_order_acquire); }
  bool is_open() const noexcept { return (calls_.load(std::memory_order_acquire) & closed) == 0; }
  /// The stream's handle is gone, or a foreign one's value serves another stream: no call begins any more. A stream of
  /// thole's own is destroyed with the end of the last call, which may be this one. Never blocks.
  void close() noexcept;
  /// The native handle is given to the program, which may capture with it. Release, against may_capture().
  void expose() noexcept { exposed_.store(true, std::memory_order_release); }
  /// The program has the native handle for good: it may enqueue what thole never sees. (A function in use_on has it,
  /// too, but what that enqueues is a use.)
  void give_away() noexcept {
    given_away_.store(true, std::memory_order_release);
    expose();
  }
  /// The caller has enqueued what uses no memory that thole knows of, and has no position.
  void note_unseen() noexcept {
    const auto next = issued() + 1;  // whoever gets it has asked for it since
    auto wanted = unseen_.load(std::memory_order_relaxed);
    while (wanted < next && !unseen_.compare_exchange_weak(wanted, next, std::memory_order_release)) {
    }
  }
  /// A position behind everything that the stream has been given by now, by whomever.
  std::uint64_t end_of_all() noexcept {
    const auto position = issued();
    const bool seen =
        !given_away_.load(std::memory_order_acquire) && unseen_.load(std::memory_order_acquire) <= position;
    return seen ? position : issue();
  }
  /// Whether it makes sense to ask if the stream captures: that call takes the driver's lock, and with 16 threads
  /// doubles what a copy costs.
  bool may_capture() const noexcept { return exposed_.load(std::memory_order_acquire); }
  /// The stream's capture now; none where may_capture() is false. Never blocks, never disturbs a capture.
  Status capture_info(CaptureInfo* info) noexcept;

  /// The stream takes part in that capture, which another stream has begun.
  void be_branch_of(std::uint64_t capture) noexcept { branch_of_.store(capture, std::memory_order_release); }

  // ---- Positions

  /// The position of what the caller has just enqueued.
  /// `operations`: so many places of the queue it may take, which leaves out positions.
  std::uint64_t issue(std::uint64_t operations = 1) noexcept {
    return issued_.fetch_add(operations, std::memory_order_acq_rel) + operations;
  }
  std::uint64_t issued() const noexcept { return issued_.load(std::memory_order_acquire); }
  /// The caller has enqueued an operation that has no position. Relaxed: only its number counts.
  void count_without_position() noexcept { without_position_.fetch_add(1, std::memory_order_relaxed); }
  /// How many operations the stream has been given through thole: places of its queue that they took.
  std::uint64_t operations() const noexcept { return issued() + without_position_.load(std::memory_order_relaxed); }
  /// Whether the position is known to be complete. Acquire: what its event ordered before is visible.
  bool done(std::uint64_t position) const noexcept { return completed_.load(std::memory_order_acquire) >= position; }

  // ---- Events. `capture` is the answer where the stream captures: no event can be recorded then.

  /// Makes sure that an event covers the position.
  Status cover(std::uint64_t position) noexcept;
  /// The same, by who keeps a Call: also where the stream has been closed meanwhile, when nobody else can any more.
  Status cover_in_call(std::uint64_t position) noexcept;
  /// Covers everything that was issued, if anything is not covered.
  Status cover_all() noexcept { return cover(issued()); }
  /// Records if `bytes` more, or the operations since the last event, make the slack too large. Failing is no harm:
  /// whoever needs an answer records again.
  void record_if_due(std::size_t bytes) noexcept;
  /// An event behind all that the stream has been given so far, by whomever. The caller keeps it and calls release().
  Status record(Ticket** ticket, bool timed = false) noexcept;
  /// The same in a capture that goes on in the stream. The event serves for order_before() as long as it does.
  Status record_captured(std::uint64_t capture, Ticket** ticket) noexcept;
  /// The stream, which is new, gets an event ahead: its first one is at hand, however many streams there are.
  void stock_up() noexcept;
  /// A ticket for record_reserved(), made before the work is enqueued so that recording cannot fail for lack of one.
  Status reserve(Ticket** ticket) noexcept;
  /// Records it, behind the caller's own work, and consumes it. The caller keeps its Call, and has asked for captures
  /// before its work; `after` says whether the stream captures now.
  Status record_reserved(Ticket* ticket, CaptureInfo* after) noexcept;
  /// The ticket is not used.
  void give_back(Ticket* ticket) noexcept;
  /// One more hold on a ticket that the caller holds. Returns its place in the order of the stream's events.
  std::uint64_t retain(Ticket* ticket) noexcept;
  /// The caller's hold on it ends.
  void release(Ticket* ticket) noexcept;

  // ---- Waiting

  /// ok or not_ready; never waits.
  Status query(std::uint64_t position) noexcept;
  Status query(Ticket* ticket) noexcept;
  /// Blocks until the position, or what the ticket is behind, is complete; not_ready when the deadline, if there is
  /// one, is over.
  Status wait(std::uint64_t position, const Deadline& deadline = {}) noexcept;
  Status wait(Ticket* ticket, const Deadline& deadline = {}) noexcept;
  /// Blocks until all that the stream has been given so far is done; not while it captures.
  Status synchronize() noexcept;
  /// The stream `waiter` goes on only after this one's position, or after the ticket; does not block. Both streams'
  /// backends are of a kind. No call where it waits for that already.
  Status order_before(Timeline& waiter, std::uint64_t position) noexcept;
  Status order_before(Timeline& waiter, Ticket* ticket) noexcept;

  // ---- Blocks that wait

  /// The block waits for `wait_position`, which one of its uses here has. No lock, no allocation, no call.
  void retire(Block* block) noexcept { retired_.push(block); }
  /// Moves blocks whose position is complete to `out`. Thorough: records missing events, waits for another thread that
  /// is looking, and asks until all finished blocks are found; it asks also when no block waits, so that buffers that
  /// are held learn that their uses are done. Not thorough: returns at once if another thread is looking, and after the
  /// first blocks found, or after `bounded_queries` queries.
  void take_finished(MovingBlocks& out, bool thorough) noexcept;
  /// Whether the block that waits for the earliest position is the one that the last call saw: nobody takes blocks.
  bool is_left_behind() noexcept;
  /// Whether blocks wait. If not, those that were just taken are counted in MovingBlocks already, so that a search does
  /// not miss them.
  bool has_work() const noexcept { return !retired_.empty() || waiting_.load(std::memory_order_acquire); }
  /// Its place among the streams of the device: the registry's, under its lock.
  std::size_t registry_place = 0;
  /// Whether so much is still to be done that the queue may be full, and one more operation wait for room: many events,
  /// or many operations.
  bool is_crowded() noexcept;
  /// Until it is not; not_ready where the deadline is over.
  Status wait_for_room(const Deadline& deadline) noexcept;
  /// Whether uses have an event that is not known to be done.
  bool has_events() const noexcept {
    return recorded_.load(std::memory_order_relaxed) > completed_.load(std::memory_order_relaxed);
  }

 private:
  using Lock = std::unique_lock<std::mutex>;
  static constexpr std::uint32_t closed = std::uint32_t{1} << 31;

  bool enter() noexcept;
  void leave() noexcept;
  void destroy_native() noexcept;
  bool is_branch() noexcept;

  bool is_covered(std::uint64_t position) const noexcept;
  Ticket* crowding() noexcept;
  Status take_ticket(Ticket** ticket, bool timed = false) noexcept;
  void recycle(Ticket* ticket) noexcept;
  void let_go(Ticket* ticket, Lock& lock) noexcept;
  Status check_no_capture() noexcept;
  Status waits_already(const Timeline& before, std::uint64_t position, bool* already) noexcept;
  void now_waits_for(const Timeline& before, const Ticket& ticket) noexcept {
    waited_for_.add(before.number_, ticket.position);
  }
  Status record_locked(Ticket* ticket, CaptureInfo* after) noexcept;
  Status cover_for_others(std::uint64_t position) noexcept;
  void ask_if_many() noexcept;

  class Pin;
  Ticket* covering(std::uint64_t position) noexcept;
  Status ask(Ticket* ticket, Lock& lock, const Deadline* deadline) noexcept;
  Status finish_asking(Ticket* ticket, Status status) noexcept;
  Status resolve(std::uint64_t position, const Deadline* deadline) noexcept;
  bool is_behind_pending(std::uint64_t position) noexcept;
  void complete(std::uint64_t serial, std::uint64_t position, std::uint64_t operations) noexcept;
  void set_aside(Ticket* ticket) noexcept;
  Status not_covered() const noexcept;

  void absorb_retired() noexcept;
  void take_done(MovingBlocks& out) noexcept;
  void put_off_looking(bool nothing_found) noexcept;
  void ask_for_some(MovingBlocks& out, Lock& lock) noexcept;
  void ask_for_all(MovingBlocks& out, Lock& lock) noexcept;

  const std::shared_ptr<DeviceCore> device_;
  const StreamHandle native_;
  const std::uint64_t id_;      // unique in the process and over time (cudaStreamGetId)
  const std::uint64_t number_;  // of this record, among all that there ever were: a stream may have several
  const Kind kind_;
  const std::uint64_t thread_;  // of_thread: whose
  std::atomic<bool> exposed_;
  std::atomic<bool> given_away_;
  std::atomic<std::uint64_t> branch_of_{0};  // a capture's number; release and acquire, as for exposed_
  std::atomic<std::uint64_t> unseen_{0};     // the position that the last such work would have; see note_unseen()

  // Written by who uses the stream.
  alignas(64) std::atomic<std::uint64_t> issued_{0};
  std::atomic<std::uint64_t> without_position_{0};
  std::atomic<std::size_t> bytes_since_ticket_{0};  // relaxed: a hint
  std::atomic<std::uint32_t> calls_{0};             // calls going on, and `closed`
  std::atomic<std::uint64_t> last_position_{0};     // release in end()
  std::atomic<bool> handle_gone_{false};
  std::atomic<bool> destroyed_{false};  // the native stream; who sets it destroys it
  LockFreeStack<Block, &Block::next> retired_;

  // Written by who records and asks.
  alignas(64) std::atomic<std::uint64_t> recorded_{0};  // the last position that a ticket covers; release, acquire
  std::atomic<std::uint64_t> completed_{0};             // release in complete(), acquire in done()
  std::atomic<std::uint64_t> recorded_operations_{0};   // relaxed: a hint
  std::atomic<bool> waiting_{false};                    // blocks wait, or are just being looked at; see has_work()
  std::mutex beginning_;  // a capture, or a call that would invalidate one; and the next two
  std::size_t synchronizing_ = 0;
  WaitedFor waited_for_;
  std::mutex polling_;
  std::mutex recording_;
  std::mutex mutex_;  // what follows
  TicketList pending_;
  std::vector<Ticket*> free_;  // tickets with an event, to be recorded again
  std::uint64_t last_serial_ = 0;
  std::uint64_t completed_operations_ = 0;
  std::size_t ask_beyond_ = least_asked_;  // with so many pending tickets, look for finished ones
  std::atomic<bool> has_many_{false};      // relaxed: a hint that there were, so that most need not take the mutex
  WaitingBlocks blocks_;
  std::uint64_t seen_waiting_ = 0;   // the position that is_left_behind() saw
  std::uint64_t last_wanted_ = 0;    // the latest position that a block has waited for
  std::uint64_t look_again_at_ = 0;  // there is no bounded look before recorded_ is there
  std::size_t stride_ = 0;           // how many events behind the first the next bounded look asks

  static constexpr std::size_t least_asked_ = 64;
  static constexpr std::size_t few_pending_ = 8;
  static constexpr std::size_t many_pending_ = 32;
  static constexpr std::uint64_t many_operations_ = 900;  // of the 1,022 that CUDA has room for, with the events
  static constexpr std::size_t most_stride_ = 31;
  static constexpr std::size_t most_free_ = 64;
};

}  // namespace thole::inline v0_1::detail

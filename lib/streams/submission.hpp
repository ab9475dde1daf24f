#pragma once

// One piece of work in a stream, from before it is enqueued until just after: what it uses is checked and ordered
// first, and noted afterwards. What could fail (memory for a slot, a foreign stream's event) is done before the work is
// enqueued.
//
// A capture may begin or end on another thread between the first question and the work. So the stream is asked again
// behind the work, and where the two answers differ both are taken for true: the graph keeps the memory, and the use
// counts as work in the stream.

#include <array>
#include <cstddef>
#include <string_view>

#include <thole/error.hpp>

#include "blocks/block.hpp"
#include "streams/device_block.hpp"
#include "streams/graph_uses.hpp"
#include "streams/used.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1::detail {

class Submission {
 public:
  /// What is submitted: one piece of work, or all that the stream has been given so far, by whomever. The latter holds
  /// the memory also where it is noted in a capture, which has no event for what was enqueued before it began: the
  /// stream's first event after the capture is for it.
  enum class Of { work, all_so_far };
  /// `call` names who asks, in errors. Not blocking.
  static Result<Submission> begin(Timeline& timeline, const char* call, Of of = Of::work) noexcept;
  Submission(Submission&& other) noexcept;
  Submission& operator=(Submission&&) = delete;
  /// Work that was not enqueued uses nothing.
  ~Submission();

  /// The work reads or writes the memory of the block, which the caller holds until after the work. The stream waits
  /// for what conflicts on other streams. In a capture the graph keeps the block, and the stream waits for what
  /// other streams of the capture do with it; where the graph's launches are not seen, conflicting work outside of it
  /// must be complete (`in_flight`).
  Result<void> use(Block& block, bool writes) noexcept;
  Result<void> use(DeviceBlock& block, bool writes) noexcept;
  /// The same for many at once, and nothing else: `all` lives as long as the submission, which writes to it. One piece
  /// of memory may be there several times. `writes`, where the work is a graph: what says of each when it is written.
  Result<void> use_all(Used* all, std::size_t count, const std::shared_ptr<GraphWrite>* writes = nullptr) noexcept;

  /// The work is enqueued already, by the program itself, and used the block: nothing is ordered any more.
  Result<void> note(Block& block, bool writes) noexcept;

  /// What has become of the capture that the work met, or met not, since it was first asked for; after the work was
  /// enqueued. `begun`: one goes on that did not then, and may have taken the work. `unknown`: the device does not say.
  enum class Since { same, ended, begun, unknown };
  Since look_again(CaptureInfo* after) noexcept;

  /// The work is not enqueued: it uses nothing.
  void cancel() noexcept { note_all(0); }
  /// The work may take long: what was enqueued before it gets its event in front, and does not wait for it.
  void expect_long_work() noexcept;
  /// The work takes so many places of the stream's queue.
  void takes(std::uint64_t operations) noexcept { operations_ = operations; }
  /// A guess, where a function of the program's enqueues the work.
  static constexpr std::uint64_t some_operations = 4;

  /// What a following event is for: the slack of copies, or an event at once.
  enum class Precision { coalesced, at_once };
  /// The work is enqueued; `bytes` of blocks are in use by it.
  void enqueued(std::size_t bytes, Precision precision) noexcept;

  Timeline& timeline() const noexcept { return *timeline_; }
  DeviceCore& core() const noexcept { return *timeline_->device(); }
  DeviceBackend& backend() const noexcept { return *core().backend; }
  bool capturing() const noexcept { return capture_.graph != nullptr; }
  GraphHandle graph() const noexcept { return capture_.graph; }
  Error error(Status status, std::string_view what, std::string_view numbers = {}) noexcept;

 private:
  explicit Submission(Timeline& timeline, const char* call, Of of) noexcept
      : call_(call), timeline_(&timeline), of_(of), going_on_(timeline) {}
  Result<void> use(Used used) noexcept;
  Result<void> order(const Uses& uses, bool writes) noexcept;
  Result<void> check_done(const Used* all, std::size_t count) noexcept;
  Result<void> reserve_and_order(Used* all, std::size_t count) noexcept;
  Result<void> not_ordered(Status status, const Uses& uses) noexcept;
  Result<void> keep_and_reserve(Used& used, WasOpen* was_open, bool orders = true) noexcept;
  Used* used() noexcept { return many_ != nullptr ? many_ : used_.data(); }
  bool must_be_done() const noexcept;
  void tell_graph_of_writes() noexcept;
  bool has_no_event() const noexcept { return capture_.state != CaptureInfo::State::none; }
  Status keep_in(const CaptureInfo& capture, const Used& used, bool orders) noexcept;
  Status order_in_capture(const GraphUses::Branches& before) noexcept;
  Since since(Status asked, const CaptureInfo& after) const noexcept;
  void keep_in_graph_after(Since since, const CaptureInfo& after) noexcept;
  void note_all(std::uint64_t position) noexcept;
  void wait_for_work() noexcept;

  const char* call_;
  Timeline* timeline_;
  const Of of_;
  Timeline::Call going_on_;
  CaptureInfo capture_;
  Ticket* reserved_ = nullptr;
  std::array<Used, 2> used_;
  Used* many_ = nullptr;                                 // instead of used_
  const std::shared_ptr<GraphWrite>* writes_ = nullptr;  // of many_
  std::uint64_t before_ = 0;                             // where there are writes_: what was issued before the work
  std::size_t count_ = 0;
  std::uint64_t operations_ = 1;
};

}  // namespace thole::inline v0_1::detail

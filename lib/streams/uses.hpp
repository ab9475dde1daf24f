#pragma once

// The rules about uses of memory by streams: which are open, and who must wait for which. A reader waits for writes, a
// writer for everything.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/backend.hpp"
#include "backend/device_core.hpp"
#include "base/deadline.hpp"
#include "blocks/block.hpp"
#include "blocks/use.hpp"
#include "streams/graph_write.hpp"

namespace thole::inline v0_1::detail {

class Timeline;

/// Which uses count: those that a reader must wait for, or those that a writer must.
enum class Against { writes, everything };

/// A use that is not known to be done. It keeps its stream's record, and so the device.
struct OpenUse {
  std::shared_ptr<Timeline> timeline;
  std::uint64_t position = 0;
  std::shared_ptr<GraphWrite> early;  ///< says that what counts of it is done, perhaps before the position is
};

// ---- Asking

/// The next open use from slot `index` on, which then stands behind it. False: there is none. `except`: a stream whose
/// uses do not count, or nullptr.
bool next_open(const Uses& uses, Against against, std::size_t& index, OpenUse& found,
               const Timeline* except = nullptr) noexcept;
/// Calls `f(open_use)` for each open use, until it returns false. Returns whether all returned true.
template <class F>
bool for_each_open(const Uses& uses, Against against, F&& f) {
  OpenUse open;
  for (std::size_t index = 0; next_open(uses, against, index, open);)
    if (!f(open)) return false;
  return true;
}
/// Whether any is open, as far as is known without asking the device.
bool any_open(const Uses& uses, Against against) noexcept;
/// Since when there has been an open use, by the steady clock.
std::chrono::nanoseconds used_since(const Uses& uses) noexcept;
/// The device of an open use that is lost, or nullptr: who must be named where a wait or an order fails.
std::shared_ptr<DeviceCore> lost_device(const Uses& uses) noexcept;

// ---- Waiting. Each ends with the first failure.

/// ok when nothing is open; asks the device, but never waits (not_ready).
Status query(const Uses& uses, Against against) noexcept;
/// Blocks until nothing is open; not_ready when the deadline is over.
Status wait(const Uses& uses, Against against, const Deadline& deadline = {}) noexcept;
/// Makes the stream `waiter` wait for the open uses in other streams; does not block.
Status order_after(const Uses& uses, Against against, Timeline& waiter) noexcept;

/// The same for work that uses many pieces of memory: what they wait for in one other stream is one wait. Beyond
/// `places` streams at one time it may be more.
class OrderAfterAll {
 public:
  explicit OrderAfterAll(Timeline& waiter) noexcept : waiter_(waiter) {}
  Status add(const Uses& uses, Against against) noexcept;
  /// After all were added: the stream waits.
  Status finish() noexcept;

 private:
  static constexpr std::size_t places = 16;
  Status wait_for(OpenUse& open) noexcept;

  Timeline& waiter_;
  std::array<OpenUse, places> open_;  // each at the place that its stream's number gives
};

// ---- Noting

/// What a memory's uses were before one more.
struct WasOpen {
  bool any = false;
  bool elsewhere = false;  ///< one of another stream
};
/// Takes a slot for a use by the stream before its work is enqueued, so that noting cannot fail afterwards: the
/// stream's own, one that is done, or a new one. Sets in `was_open` what was open before. False when the system
/// has no memory, or a limit leaves none; that is not asked `at_any_cost`, for what is in use already.
bool reserve(Uses& uses, Timeline& timeline, WasOpen* was_open, bool at_any_cost = false) noexcept;
/// The work is enqueued at the position; or it was not, with position 0. Follows each reserve(). `since_ns`: where it
/// is not 0, used_since() says so from now on.
void note(Uses& uses, const Timeline& timeline, std::uint64_t position, bool writes,
          std::int64_t since_ns = 0) noexcept;
/// The work is the launch of a graph, which writes, and `write` says when. All positions up to `before` were enqueued
/// before it.
void note_launch(Uses& uses, const Timeline& timeline, std::uint64_t position, std::uint64_t before,
                 std::shared_ptr<GraphWrite> write, std::int64_t since_ns) noexcept;
/// The open uses of `from` are uses of `to`, too. False: the system has no memory.
bool copy_open(const Uses& from, Uses& to) noexcept;
/// Forgets the streams if nothing is open or under way, so that the next borrow need not look. Returns whether it did.
bool forget_done(Block& block) noexcept;
/// Nobody holds the memory any more: forgets the streams.
void forget_all(Uses& uses) noexcept;

}  // namespace thole::inline v0_1::detail

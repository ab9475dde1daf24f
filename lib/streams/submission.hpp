#pragma once

// One piece of work in a stream, from before it is enqueued until just after: what it uses is checked and ordered
// first, and noted afterwards. What could fail (memory for a slot, a foreign stream's event) is done before the work is
// enqueued.

#include <array>
#include <cstddef>

#include <thole/error.hpp>

#include "blocks/block.hpp"
#include "streams/uses.hpp"

namespace thole::detail {

struct DeviceBlock;

class Submission {
 public:
  /// `call` names who asks, in errors. Not blocking.
  static Result<Submission> begin(DeviceCore& core, Timeline& timeline, const char* call) noexcept;
  Submission(Submission&& other) noexcept;
  Submission& operator=(Submission&&) = delete;
  ~Submission();

  /// The work reads or writes the memory of the block. The stream waits for what conflicts on other streams; in a
  /// capture, where it cannot, conflicting work must be complete (`in_flight`), and the graph keeps the block.
  Result<void> use(Block& block, bool writes) noexcept;
  Result<void> use(DeviceBlock& block, bool writes) noexcept;

  /// What a following event is for: the slack of copies, or an event at once.
  enum class Precision { coalesced, at_once };
  /// The work is enqueued; `bytes` of blocks are in use by it.
  void enqueued(std::size_t bytes, Precision precision) noexcept;

  Timeline& timeline() const noexcept { return *timeline_; }
  DeviceCore& core() const noexcept { return *core_; }
  DeviceBackend& backend() const noexcept { return *core_->backend; }
  bool capturing() const noexcept { return graph_ != nullptr; }
  GraphHandle graph() const noexcept { return graph_; }
  Error error(Status status, std::string_view what, std::string_view numbers = {}) noexcept;

 private:
  Submission() = default;
  Result<void> order(Uses& uses, bool writes) noexcept;
  Error order_error(const Uses& uses, Status status, std::string_view what) noexcept;

  struct Noted {
    Use* slot = nullptr;
    bool writes = false;
    Block* stamp = nullptr;  // the block whose first open use this is
  };

  const char* call_ = "";
  DeviceCore* core_ = nullptr;
  Timeline* timeline_ = nullptr;
  GraphHandle graph_ = nullptr;
  Ticket* reserved_ = nullptr;
  std::array<Noted, 2> noted_;
  std::size_t count_ = 0;
};

/// Blocks that a graph let go of and that nobody else holds; a graph's release may not call the device, so that they
/// wait here for the next reclaim.
void take_graph_released(MovingBlocks& out) noexcept;

}  // namespace thole::detail

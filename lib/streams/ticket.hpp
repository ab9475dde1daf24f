#pragma once

// A recorded event of one stream, and the list of those that are not known to be done.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

/// An event behind everything that was enqueued in its stream before it was recorded. All but `done` is guarded by the
/// stream's mutex once the ticket is in a list.
struct Ticket {
  EventHandle event = nullptr;
  std::uint64_t serial = 0;       ///< its place in the order of all events of the stream
  std::uint64_t position = 0;     ///< it covers the uses up to this one
  std::uint64_t operations = 0;   ///< of the stream, as Timeline::operations() counts them, that came before it
  std::uint64_t capture = 0;      ///< not 0: it was recorded in the capture with this number, and is broken
  unsigned references = 0;        ///< Event handles, and threads that ask or wait for it
  bool pending = false;           ///< it is in the list
  bool broken = false;            ///< its event will never be done: a capture took it
  bool timed = false;             ///< its event measures time, and serves those alone that ask for it
  std::atomic<bool> done{false};  ///< known to be done; release and acquire make a pair, as for Timeline::done()
};

/// The tickets that are not known to be done, in the order in which they were recorded, which is that of their
/// positions, too. Guarded by the stream's mutex.
class TicketList {
 public:
  bool empty() const noexcept { return first_ == tickets_.size(); }
  std::size_t size() const noexcept { return tickets_.size() - first_; }
  Ticket* oldest() const noexcept { return tickets_[first_]; }
  Ticket* newest() const noexcept { return tickets_.back(); }
  Ticket* operator[](std::size_t index) const noexcept { return tickets_[first_ + index]; }

  /// Makes room for one more, so that append() cannot fail. False when the system has no memory.
  bool reserve() noexcept try {
    tickets_.reserve(tickets_.size() + 1 > tickets_.capacity() ? tickets_.size() * 2 + 8 : tickets_.capacity());
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
  void append(Ticket* ticket) noexcept { tickets_.push_back(ticket); }
  Ticket* pop_oldest() noexcept {
    Ticket* const ticket = tickets_[first_++];
    if (first_ * 2 > tickets_.size()) {  // what is moved is no more than what has been popped
      tickets_.erase(tickets_.begin(), tickets_.begin() + static_cast<std::ptrdiff_t>(first_));
      first_ = 0;
    }
    return ticket;
  }
  void remove(const Ticket* ticket) noexcept {
    tickets_.erase(std::find(tickets_.begin() + static_cast<std::ptrdiff_t>(first_), tickets_.end(), ticket));
  }
  /// The index of the first ticket that covers the position; size() where none does.
  std::size_t first_covering(std::uint64_t position) const noexcept { return first(&Ticket::position, position); }
  /// The same of the first that so many operations came before.
  std::size_t first_behind(std::uint64_t operations) const noexcept { return first(&Ticket::operations, operations); }

 private:
  std::size_t first(std::uint64_t Ticket::*what, std::uint64_t least) const noexcept {
    const auto from = tickets_.begin() + static_cast<std::ptrdiff_t>(first_);
    const auto found = std::lower_bound(from, tickets_.end(), least,
                                        [&](const Ticket* ticket, std::uint64_t at) { return ticket->*what < at; });
    return static_cast<std::size_t>(found - from);
  }

  std::vector<Ticket*> tickets_;
  std::size_t first_ = 0;
};

}  // namespace thole::inline v0_1::detail

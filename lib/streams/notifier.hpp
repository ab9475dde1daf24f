#pragma once

// Who wants to be told when an event is done: a thread of the library's own asks for the events, the earliest of each
// stream, and calls back. It starts when it is first wanted, sleeps while there is nothing to ask for, and is never
// joined.

#include <functional>
#include <memory>

#include "backend/backend.hpp"
#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {

/// Calls `done` once, on the library's thread, with what Timeline::query(ticket) says when it is another answer than
/// not_ready. The ticket is held meanwhile; the caller holds it, too. Throws std::bad_alloc, and std::system_error
/// where no thread can be had.
void notify(const std::shared_ptr<Timeline>& timeline, Ticket* ticket, std::function<void(Status)> done);

}  // namespace thole::inline v0_1::detail

#pragma once

// Memory that comes back when its device has done all that it had been given, by whomever. A thread of the library's
// own waits for the device, one for each device for which any waits; it ends when none does, and is never joined.

namespace thole::inline v0_1::detail {

struct HeapCore;

/// Takes the heap's block that starts at the address out of the index of addresses, and ends its handle when the device
/// has done all that it has been given by now. False where none starts there. Never waits for the device. Throws
/// std::bad_alloc, and std::system_error where no thread can be had; nothing has changed then.
bool end_handle_after_all(HeapCore& heap, void* data);

}  // namespace thole::inline v0_1::detail

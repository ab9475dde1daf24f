#pragma once

// What a program still has when it ends, on stderr: for those who look for leaks (THOLE_LEAKS=1).

#include <string>

namespace thole::inline v0_1::detail {

/// An arena was made: if the environment variable says so, the end of the process names what was never dropped.
void look_for_leaks_at_the_end() noexcept;

/// One line for each arena that has buffers which the program holds now, and below it one for each place that made
/// such; empty where there are none. Throws std::bad_alloc.
std::string leaks_text();

}  // namespace thole::inline v0_1::detail

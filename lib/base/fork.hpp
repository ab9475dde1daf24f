#pragma once

// A forked child is another process: none of the library's threads run in it, and a lock that another thread held at
// the fork is held for ever. So it starts anew: what lives once in a process (immortal.hpp) is made again, and objects
// of the parent's are known by the number of the process that made them.

#include <thole/detail/fork.hpp>

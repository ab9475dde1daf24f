#pragma once

// Durations, clocks and shared_ptr, of <chrono> and <memory>: of these two the public headers need no more, and the
// whole of them is half as dear to compile as all that a program includes with <thole/thole.hpp>. libstdc++ has these
// parts in headers of their own, which its own <future> and <thread> include; elsewhere it is the whole.

#include <version>

#if defined(_GLIBCXX_RELEASE) && _GLIBCXX_RELEASE >= 12 && __has_include(<bits/chrono.h>) && \
    __has_include(<bits/shared_ptr.h>)
#include <bits/chrono.h>
#include <bits/shared_ptr.h>
#else
#include <chrono>
#include <memory>
#endif

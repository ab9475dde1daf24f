// Compiled once for each program of tests: what nearly all of their files include. They include it themselves, too, as
// a build with -Db_pch=false shows.

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <thole/graph.hpp>
#include <thole/thole.hpp>

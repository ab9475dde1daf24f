#pragma once

#include <cstddef>
#include <cstdint>

namespace model {

/// Several threads with streams of their own on one heap of a device that runs by itself; they pass buffers and borrows
/// to each other. Throws Broken. Returns how many operations were done.
std::uint64_t run_threads(std::uint64_t seed, std::uint64_t operations, std::size_t threads);

}  // namespace model

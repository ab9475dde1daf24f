#pragma once

// CUDA's own calls, as the peers of what thole does. Where there is no toolkit they are not there, and nobody asks.

#include <cstddef>
#include <stdexcept>

#include <thole/graph.hpp>
#include <thole/stream.hpp>

namespace bench {

#ifdef THOLE_BENCH_HAS_CUDA
inline constexpr bool has_bare = true;

/// A stream that thole has not made.
class BareStream {
 public:
  explicit BareStream(int ordinal);
  ~BareStream();
  BareStream(const BareStream&) = delete;
  BareStream& operator=(const BareStream&) = delete;
  void* native() const { return stream_; }

 private:
  void* stream_ = nullptr;
};

// On a GPU's streams.
/// The calling thread's bare calls are for this GPU.
void bare_use_device(int ordinal);
void bare_copy_to_device(void* target, const void* source, std::size_t bytes, thole::NativeStream stream);
void bare_launch(thole::NativeGraphExec exec, thole::NativeStream stream);
/// Nanoseconds of one copy of a pinned buffer, with an event behind it or not, in threads with a stream each.
double bare_copies(int ordinal, int threads, std::size_t buffer_bytes, std::size_t copy_bytes, bool with_event);
/// Of device memory made, filled, read back and freed.
double bare_round_trips(int ordinal, int threads, std::size_t bytes);
#else
inline constexpr bool has_bare = false;

class BareStream {
 public:
  explicit BareStream(int) {}
  void* native() const { return nullptr; }
};
inline void bare_use_device(int) {}
inline void bare_copy_to_device(void*, const void*, std::size_t, thole::NativeStream) {}
inline void bare_launch(thole::NativeGraphExec, thole::NativeStream) {}
inline double bare_copies(int, int, std::size_t, std::size_t, bool) { throw std::logic_error("built without CUDA"); }
inline double bare_round_trips(int, int, std::size_t) { throw std::logic_error("built without CUDA"); }
#endif

}  // namespace bench

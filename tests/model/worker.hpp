#pragma once

// Defined in: worker_operations.cpp, worker_waits.cpp, worker_lists.cpp, threads.cpp

// One thread of threads.cpp: it works in streams of its own, and passes buffers, borrows, parts and lists of uses to
// the others. A payload is told by its pattern, wherever it went; work behind thole's back looks at it late.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <shared_mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "api/handle_access.hpp"
#include "model.hpp"
#include "shared.hpp"

namespace model {

/// A stream stands still while it lives: what it was given is surely not done.
class StandingStill {
 public:
  StandingStill(Shared& shared, const thole::StreamRef& stream)
      : none_unpins_(shared.unpinning), simulation_(shared.device.simulation()), stream_(stream) {
    simulation_.hold(stream_);
  }
  StandingStill(const StandingStill&) = delete;
  StandingStill& operator=(const StandingStill&) = delete;
  ~StandingStill() { simulation_.release(stream_); }

 private:
  const std::shared_lock<std::shared_mutex> none_unpins_;
  thole::Simulation simulation_;
  const thole::StreamRef stream_;
};

class Worker {
 public:
  using Buffer = thole::PinnedBuffer<Word>;

  Worker(Shared& shared, std::uint64_t seed, std::size_t number);
  void run(std::uint64_t operations);

 private:
  // ---- threads.cpp
  void operation();
  void shared();
  void several();

  std::size_t below(std::size_t bound) { return random_() % bound; }
  thole::Stream& own_stream() { return streams_[below(streams_.size())]; }
  /// One of its own, or the thread's default stream, through this view or a new one.
  thole::StreamRef stream() {
    const std::size_t which = below(8);
    return which == 0 ? threads_own_ : which == 1 ? default_stream(shared_.device) : own_stream();
  }
  static thole::StreamRef default_stream(const thole::Device& device) {
    constexpr std::uintptr_t per_thread = 2;  // cudaStreamPerThread
    return unwrap(thole::detail::stream_from_native(device, reinterpret_cast<void*>(per_thread)));
  }
  const thole::PinnedHeap& heap() { return below(4) == 0 ? shared_.other_heap : shared_.heap; }
  static std::unique_ptr<Buffer> own(Buffer buffer) { return std::make_unique<Buffer>(std::move(buffer)); }
  template <class T>
  static T unwrap(thole::Result<T>&& result) {
    if (!result) throw result.error();
    if constexpr (!std::is_void_v<T>) return std::move(*result);
  }

  // ---- worker_operations.cpp
  static void check(const Parcel& parcel);
  Parcel make();
  Parcel make(std::size_t count, const thole::PinnedHeap& from);
  Parcel make(std::size_t count) { return make(count, heap()); }
  /// A new pattern; waits for what uses the buffer.
  void rewrite(Parcel& parcel);
  void keep(Parcel parcel);
  void drop();
  void round_trip();
  void receive();
  void share();
  void use();
  void raw();
  void use_anothers_default_stream();
  void through_a_span();
  void heap_ends();
  void fork_child();
  void graph();
  /// Enqueues, behind thole's back, a look at this payload.
  void look_later(thole::NativeStream native, const Word* data, std::size_t count, std::uint64_t pattern,
                  std::size_t first = 0);
  /// The same, that writes it.
  void write_later(thole::NativeStream native, Word* data, std::size_t count, std::uint64_t pattern);

  // ---- worker_waits.cpp: waits with an end, and notices
  std::chrono::nanoseconds short_time();
  void wait_in_vain();
  void wait_for_a_time();
  void ask_for_notice();
  void await_notices();

  // ---- worker_lists.cpp: several buffers as one use, and parts of one
  void list();
  void shared_list();
  void use_part(Piece& piece);
  static std::vector<Piece> split(Piece piece, const std::vector<std::size_t>& sizes);
  bool join(Piece& one, Piece& other);
  void shared_parts();
  void drop_parts();

  Shared& shared_;
  std::mt19937_64 random_;
  std::uint64_t patterns_;
  std::vector<thole::Stream> streams_;
  const thole::StreamRef threads_own_ = default_stream(shared_.device);
  std::vector<Parcel> kept_;
  std::vector<std::shared_ptr<std::atomic<int>>> notices_;  // how often each was told
  static inline std::atomic<std::size_t> functions_{0};
};

}  // namespace model

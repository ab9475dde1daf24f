#include "threads.hpp"

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <thole/thole.hpp>

#include "worker.hpp"

namespace model {

using namespace thole;

Worker::Worker(Shared& shared, std::uint64_t seed, std::size_t number)
    : shared_(shared), random_(seed * 1000 + number), patterns_(number << 40) {
  for (int i = 0; i != 2; ++i) streams_.emplace_back(shared.device);
  const std::scoped_lock lock(shared_.mutex);
  shared_.views.push_back(threads_own_);
}

void Worker::run(std::uint64_t operations) {
  try {
    for (std::uint64_t i = 0; i != operations && !shared_.stop; ++i) try {
        operation();
      } catch (const Error& error) {
        if (error.errc() != Errc::out_of_memory && error.errc() != Errc::timed_out) throw;
        kept_.clear();
        (void)shared_.receive();
      }
    for (const Stream& stream : streams_) stream.synchronize();
    threads_own_.synchronize();
    for (const Parcel& parcel : kept_) check(parcel);
  } catch (const std::exception& error) {
    shared_.fail(error.what());
  }
  await_notices();
}

/// What is about objects that others have, too, or about work that thole does not see.
void Worker::shared() {
  switch (below(6)) {
    case 0:
      return share();
    case 1:
      return use();
    case 2:
      return through_a_span();
    case 3:
      return raw();
    case 4:
      return use_anothers_default_stream();
    default:
      return below(64) == 0 ? fork_child() : heap_ends();
  }
}

void Worker::several() {
  switch (below(9)) {
    case 0:
      return list();
    case 1:
      return shared_list();
    case 2:
    case 3:
      return shared_parts();
    case 8:
      return drop_parts();
    case 4:
      return wait_in_vain();
    case 5:
    case 6:
      return wait_for_a_time();
    default:
      return ask_for_notice();
  }
}

void Worker::operation() {
  if (below(4) == 0) return below(3) == 0 ? several() : shared();
  const std::size_t which = below(40);
  if (which < 18) return round_trip();
  if (which < 26) return receive();
  if (which < 33) return drop();
  if (which < 35) return keep(make());
  if (which < 36) return graph();
  if (which < 37) return static_cast<void>(shared_.heap.collect());
  switch (below(12)) {
    case 0: {
      const std::unique_lock none_stands_still(shared_.unpinning);
      return static_cast<void>(shared_.arena.trim());
    }
    case 1: {
      const auto& memory = shared_.heap;
      const auto figures = memory.stats();
      if (figures.recycled > figures.buffers_made && memory.report().text().empty()) broken("contradicting figures");
      return;
    }
    case 2: {
      const PinnedHeap own(shared_.arena);
      auto buffer = own.make_buffer<Word>(64, 3);
      (void)buffer.async_to_device(stream());
      return;
    }
    case 3:
      // Refused where another thread's stream captures and has a use that no event covers.
      try {
        shared_.heap.drain();
      } catch (const Error& error) {
        if (error.errc() != Errc::capturing) throw;
      }
      return;
    case 4: {
      std::swap(streams_[0], streams_[1]);
      streams_[0] = Stream(shared_.device);
      return;
    }
    case 5: {
      const auto event = stream().record();
      stream().wait(event);
      return event.synchronize();
    }
    default:
      return stream().synchronize();
  }
}

std::uint64_t run_threads(std::uint64_t seed, std::uint64_t operations, std::size_t threads) {
  Shared shared(Device::simulated({.seed = seed}), {.bytes = std::size_t{4} << 20, .max_bytes = std::size_t{8} << 20});
  shared.captures = seed % 3 != 0;
  {
    std::vector<std::jthread> workers;
    for (std::size_t i = 0; i != threads; ++i)
      workers.emplace_back(
          [&shared, seed, i, operations, threads] { Worker(shared, seed, i + 1).run(operations / threads); });
  }
  shared.parcels.clear();
  shared.common = {};
  shared.lists = {};
  shared.pieces.clear();
  shared.views.clear();
  if (!shared.wrong.empty()) broken(shared.wrong.front());
  shared.heap.drain();
  shared.other_heap.drain();
  // What goes back behind everything does so on a thread of the library's own, which may wait for the processor.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (shared.heap.stats().in_use != 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  const auto stats = shared.heap.stats();
  if (stats.in_use != 0 || stats.in_flight != 0)
    broken(fmt::format("{} bytes in use and {} in flight when everything is gone", stats.in_use, stats.in_flight));
  if (!shared.heap.try_make_buffer<std::byte>(std::size_t{4} << 20))
    broken("the arena does not give all of its memory again");
  return operations;
}

}  // namespace model

#include "threads.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <thole/thole.hpp>

#include "../support/child.hpp"
#include "../support/sanitized.hpp"
#include "api/handle_access.hpp"
#include "model.hpp"
#include "shared.hpp"

namespace model {
namespace {

using namespace thole;
using Buffer = PinnedBuffer<Word>;

class Worker {
 public:
  Worker(Shared& shared, std::uint64_t seed, std::size_t number)
      : shared_(shared), random_(seed * 1000 + number), patterns_(number << 40) {
    for (int i = 0; i != 2; ++i) streams_.emplace_back(shared.device);
    const std::scoped_lock lock(shared_.mutex);
    shared_.views.push_back(threads_own_);
  }

  void run(std::uint64_t operations) try {
    for (std::uint64_t i = 0; i != operations && !shared_.stop; ++i) try {
        operation();
      } catch (const Error& error) {
        if (error.errc() != Errc::out_of_memory && error.errc() != Errc::timed_out) throw;
        kept_.clear();
        (void)shared_.receive();
      }
    for (const Stream& stream : streams_) stream.synchronize();
    threads_own_.synchronize();
    for (Parcel& parcel : kept_) check(parcel);
  } catch (const std::exception& error) {
    shared_.fail(error.what());
  }

 private:
  std::size_t below(std::size_t bound) { return random_() % bound; }
  Stream& own_stream() { return streams_[below(streams_.size())]; }
  /// One of its own, or the thread's default stream, through this view or a new one.
  StreamRef stream() {
    const std::size_t which = below(8);
    return which == 0 ? threads_own_ : which == 1 ? default_stream(shared_.device) : own_stream();
  }
  static StreamRef default_stream(const Device& device) {
    constexpr std::uintptr_t per_thread = 2;  // cudaStreamPerThread
    return unwrap(thole::detail::stream_from_native(device, reinterpret_cast<void*>(per_thread)));
  }
  const PinnedHeap& heap() { return below(4) == 0 ? shared_.other_heap : shared_.heap; }

  void check(Parcel& parcel) {
    if (parcel.borrow && !holds(parcel.borrow->data(), parcel.borrow->size(), parcel.pattern))
      broken("a borrow from another thread shows a wrong payload");
    if (!parcel.buffer) return;
    const auto borrow = parcel.buffer->borrow();
    if (!holds(borrow.data(), borrow.size(), parcel.pattern)) broken("a buffer shows a wrong payload");
  }

  Parcel make() {
    const std::size_t count = 1 + below(below(16) == 0 ? 20000 : 600);
    Parcel parcel{own(below(4) == 0 ? unwrap(heap().try_make_buffer_for<Word>(count, std::chrono::milliseconds(10)))
                                    : heap().make_buffer<Word>(count)),
                  {},
                  ++patterns_};
    const auto borrow = parcel.buffer->borrow_mut();
    write(borrow.data(), count, parcel.pattern);
    return parcel;
  }
  static std::unique_ptr<Buffer> own(Buffer buffer) { return std::make_unique<Buffer>(std::move(buffer)); }
  template <class T>
  static T unwrap(Result<T>&& result) {
    if (!result) throw result.error();
    if constexpr (!std::is_void_v<T>) return std::move(*result);
  }

  void keep(Parcel parcel) {
    if (below(3) == 0) {
      if (below(3) == 0) {
        // The borrow goes to one thread, the buffer is dropped here.
        Parcel borrowed{{}, std::make_unique<Borrow<Word>>(parcel.buffer->borrow()), parcel.pattern};
        parcel.buffer.reset();
        return shared_.send(std::move(borrowed));
      }
      return shared_.send(std::move(parcel));
    }
    kept_.push_back(std::move(parcel));
    if (kept_.size() > 12) drop();
  }
  void drop() {
    if (kept_.empty()) return;
    std::swap(kept_[below(kept_.size())], kept_.back());
    if (below(2) == 0) check(kept_.back());
    kept_.pop_back();
  }

  void round_trip() {
    Parcel parcel = make();
    const StreamRef there = stream();
    auto memory = parcel.buffer->async_to_device(there);
    if (below(3) == 0)
      there.launch_host_function([&shared = shared_, data = shared_.device.simulation().view_of(memory.span().native()),
                                  count = memory.size(), pattern = parcel.pattern, alive = &functions_] {
        if (!holds(data, count, pattern)) shared.fail("a host function behind a copy saw a wrong payload");
        alive->fetch_add(1, std::memory_order_relaxed);
      });
    if (below(2) == 0) {
      parcel.buffer.reset();  // its copy may still be in flight
    } else if (below(2) == 0) {
      {
        const auto again = parcel.buffer->borrow_mut();  // waits for the copy
        write(again.data(), again.size(), ++patterns_);
      }
      keep({std::move(parcel.buffer), {}, patterns_});
    }
    // The stream of the allocation, so that the host function has run when the memory is freed.
    Parcel back{own(memory.async_to_host(below(2) == 0 ? there : stream(), heap())), {}, parcel.pattern};
    keep(std::move(back));
  }

  void receive() {
    auto parcel = shared_.receive();
    if (!parcel) return;
    check(*parcel);
    if (!parcel->buffer) return;
    if (below(2) == 0) {
      (void)parcel->buffer->async_to_device(stream());
      parcel->buffer.reset();
    } else {
      kept_.push_back(std::move(*parcel));
    }
  }

  /// Const calls on a buffer that others use, too; whoever lets go of it last drops it.
  void share() {
    Common common;
    {
      const std::scoped_lock lock(shared_.mutex);
      common = shared_.common[below(shared_.common.size())];
    }
    if (common.buffer == nullptr || below(16) == 0) {
      Parcel parcel = make();
      common = {std::move(parcel.buffer), parcel.pattern};
      const std::scoped_lock lock(shared_.mutex);
      std::swap(shared_.common[below(shared_.common.size())], common);
      return;
    }
    const Buffer& buffer = *common.buffer;
    auto borrow = buffer.try_borrow();
    if (!borrow || !holds(borrow->data(), borrow->size(), common.pattern)) broken("a shared buffer is not as it was");
    const auto there = buffer.async_to_device(stream());
    if (below(4) == 0) return shared_.send({{}, std::make_unique<Borrow<Word>>(std::move(*borrow)), common.pattern});
    keep({own(there.async_to_host(stream(), heap())), {}, common.pattern});
  }

  struct Look {
    Shared& shared;
    const Word* data;
    std::size_t count;
    std::uint64_t pattern;
    static void run(void* argument) {
      const std::unique_ptr<Look> self(static_cast<Look*>(argument));
      if (!holds(self->data, self->count, self->pattern)) self->shared.fail("a use saw a wrong payload");
    }
  };
  /// Work behind thole's back, which looks at what it uses long after its function has dropped the buffer.
  void use() {
    Parcel parcel = make();
    auto look = std::make_unique<Look>(
        Look{shared_, parcel.buffer->unsynchronized_data(), parcel.buffer->size(), parcel.pattern});
    auto& backend = *thole::detail::HandleAccess::core(shared_.device)->backend;
    parcel.buffer->use_on(stream(), Access::device_reads, [&](const Word*, NativeStream native) {
      if (const auto inside = parcel.buffer->try_borrow(); !inside) broken("a function that reads cannot borrow");
      if (parcel.buffer->try_borrow_mut()) broken("a function that reads can write");
      if (below(2) == 0) (void)parcel.buffer->async_to_device(stream());
      const bool early = below(2) == 0;
      if (early) parcel.buffer.reset();
      if (backend.launch_host_function(native, &Look::run, look.get()).ok()) look.release();
    });
    if (parcel.buffer) keep(std::move(parcel));
  }

  /// Memory by its address, given back while work reads it, in one of the ways there are.
  void raw() {
    const PinnedHeap& from = heap();
    const std::size_t count = 1 + below(600);
    auto* const data = static_cast<Word*>(from.allocate(count * sizeof(Word)));
    write(data, count, ++patterns_);
    auto look = std::make_unique<Look>(Look{shared_, data, count, patterns_});
    auto& backend = *thole::detail::HandleAccess::core(shared_.device)->backend;
    const auto enqueue = [&](NativeStream native) {
      if (backend.launch_host_function(native, &Look::run, look.get()).ok()) look.release();
    };
    const StreamRef there = stream();
    const bool recorded = below(2) == 0;
    if (recorded)
      enqueue(there.native());
    else
      from.use_on(data, there, Access::device_reads, enqueue);
    if (recorded && !from.record_use(data + below(count), there, Access::device_reads)) broken("a use is not recorded");
    if (const auto found = from.find(data + below(count)); !found || found->data != data) broken("memory is not found");
    bool gone = false;
    switch (below(4)) {
      case 0:
        gone = from.deallocate(data);
        break;
      case 1:
        gone = from.deallocate(data, stream());
        break;
      case 2:
        gone = shared_.captures ? from.deallocate(data) : from.deallocate_after_all(data);
        break;
      default:
        unwrap(from.try_wait_for(data, Access::device_writes, thole::forever));
        write(data, count, ++patterns_);
        if (!holds(data, count, patterns_)) broken("raw memory is written by another");
        gone = from.deallocate(data);
    }
    if (!gone) broken("raw memory is not deallocated");
  }

  /// The handle of another thread's default stream means this thread's own one: nobody gets that by mistake.
  void use_anothers_default_stream() {
    std::optional<StreamRef> view;
    {
      const std::scoped_lock lock(shared_.mutex);
      view = shared_.views[below(shared_.views.size())];
    }
    const bool mine = *view == threads_own_;
    Parcel parcel = make();
    auto memory = parcel.buffer->try_async_to_device(*view);
    const auto ended = view->synchronize_for(thole::forever);
    const auto right = [&](const auto& result) {
      return mine ? result.has_value() : !result && result.error().errc() == Errc::invalid_argument;
    };
    if (!right(memory) || !right(ended)) broken("a default stream is its own thread's, and no other's");
    keep(std::move(parcel));
  }

  /// Device memory that other streams fill and read than it was made on, and that goes at once.
  void through_a_span() {
    Parcel parcel = make();
    const std::size_t count = parcel.buffer->size();
    Parcel back{own(heap().make_buffer<Word>(count)), {}, parcel.pattern};
    DeviceSpan<Word> dangling;
    {
      DeviceBuffer<Word> memory(stream(), count);
      dangling = memory.span();
      parcel.buffer->async_to_device(stream(), memory.span());
      back.buffer->async_from_device(stream(), memory.span());
    }
    if (parcel.buffer->try_async_to_device(stream(), dangling)) broken("a span of nothing was taken");
    keep(std::move(back));
  }

  /// The heap's last buffer goes on another thread, which may be in the middle of opening one.
  void heap_ends() {
    const PinnedHeap own_heap(shared_.arena);
    Parcel parcel{own(own_heap.make_buffer<Word>(1 + below(256))), {}, ++patterns_};
    {
      const auto borrow = parcel.buffer->borrow_mut();
      write(borrow.data(), borrow.size(), parcel.pattern);
    }
    (void)parcel.buffer->async_to_device(stream());
    shared_.send(std::move(parcel));
  }

  void fork_child() {
    if (THOLE_TEST_SANITIZED) return;
    const int ended = support::in_child([&] {
      kept_.clear();
      streams_.clear();
      return shared_.heap.try_make_buffer<Word>(1) ? 1 : 0;
    });
    if (ended != 0) broken("a forked child did not end well");
  }

  void graph() {
    if (!shared_.captures) return;
    Parcel parcel = make();
    DeviceBuffer<Word> memory(own_stream(), parcel.buffer->size());
    for (const Stream& each : streams_) each.synchronize();
    constexpr SimulatedCaptureMode modes[] = {SimulatedCaptureMode::global, SimulatedCaptureMode::thread_local_,
                                              SimulatedCaptureMode::relaxed};
    auto simulation = shared_.device.simulation();
    auto& there = own_stream();
    simulation.begin_capture(there, modes[below(3)]);
    parcel.buffer->async_to_device(there, memory.span());
    // The copy back perhaps in a branch, behind the copy there, as thole sees to.
    auto& side = below(2) == 0 ? there : streams_[&there == streams_.data() ? 1 : 0];
    if (&side != &there) side.wait(there.record());
    auto back = memory.async_to_host(side, heap());
    if (&side != &there) there.wait(side.record());
    if (below(2) == 0) (void)shared_.heap.collect();
    if (below(2) == 0) drop();
    auto graph = std::make_optional(simulation.end_capture(there));
    auto executable = graph->instantiate();
    if (below(2) == 0) graph.reset();
    const std::size_t launches = 1 + below(3);
    for (std::size_t i = 0; i != launches; ++i) executable.launch(there);
    if (below(2) == 0) parcel.buffer.reset();
    there.synchronize();
    keep({own(std::move(back)), {}, parcel.pattern});
  }

  void operation() {
    if (below(6) == 0) {
      switch (below(6)) {
        case 0:
          return share();
        case 3:
          return raw();
        case 1:
          return use();
        case 2:
          return through_a_span();
        case 4:
          return use_anothers_default_stream();
        default:
          return below(64) == 0 ? fork_child() : heap_ends();
      }
    }
    const std::size_t which = below(40);
    if (which < 18) return round_trip();
    if (which < 26) return receive();
    if (which < 33) return drop();
    if (which < 35) return keep(make());
    if (which < 36) return graph();
    if (which < 37) return static_cast<void>(shared_.heap.collect());
    switch (below(12)) {
      case 0:
        return static_cast<void>(shared_.arena.trim());
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

  Shared& shared_;
  std::mt19937_64 random_;
  std::uint64_t patterns_;
  std::vector<Stream> streams_;
  const StreamRef threads_own_ = default_stream(shared_.device);
  std::vector<Parcel> kept_;
  static inline std::atomic<std::size_t> functions_{0};
};

}  // namespace

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
